"""SharpZO: tunes the prompt of a frozen CLIP by forward passes only.

    python main_sharpzo.py                                                    # the embedded default: digits, Mini CLIP
    python main_sharpzo.py --config configs/eurosat.yaml --root_path DATA --backbone ViT-B/16 --shots 16 --seed 1
    python main_sharpzo.py --config configs/eurosat.yaml --root_path DATA --prompt_trainer zero-shot

Exit status: 0 finished, 1 the run could not go on, 2 something given cannot work, 3 interrupted: the same command goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import DATASETS, ENSEMBLE
from datasets.roots import check_dataset
from trainers import TRAINERS
from utils.config import check_paths, load_config
from utils.errors import RunError, UserError
from utils.interrupt import Deadline, interruptible
from utils.memory import explain_oom
from utils.settings import Config, prompt_settings, uses_tangents

if TYPE_CHECKING:
    import torch

    from trainers.blackbox.problem import Problem
    from trainers.blackbox.task import FewShotTask
    from trainers.optimizer import Optimizer
    from utils.run import Run

DEFAULT_MEMORY_LIMIT = {"cpu": 1024, "cuda": 4096}
ZERO_SHOT_IMAGES_PER_PASS = 4096
ABOUT_PROMPT = ("dataset", "backbone", "checkpoint", "prompt_trainer", "ctx_init", "shots", "seed")


def main(argv: list[str] | None = None) -> int:
    status, message = run_command(sys.argv[1:] if argv is None else argv)
    if message:
        # of a terminal that is gone there is nobody left to tell
        with contextlib.suppress(OSError):
            print(message, file=sys.stderr)
    return status


def run_command(argv: list[str]) -> tuple[int, str]:
    """The exit status, and the line that says why it is not 0."""
    config = None
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a class name that the terminal's encoding lacks must not end the run
            stream.reconfigure(errors="backslashreplace")
    try:
        config = load_config(argv, TRAINERS, DATASETS, epilog=__doc__)
        check_paths(config)
        check_dataset(config.dataset, config.root_path, trains=bool(TRAINERS[config.prompt_trainer].build))
        with interruptible(config.max_seconds or math.inf) as stop, arithmetic(config):
            run(config, stop)
    except (UserError, RunError) as error:
        return 2 if isinstance(error, UserError) else 1, f"error: {error}"
    except OSError as error:
        again = f"; once that is mended, {again_command(config)}" if config else ""
        return 1, f"error: {error.filename or 'output'}: {error.strerror or error}{again}"
    except KeyboardInterrupt as reason:
        return 3, f"interrupted ({str(reason) or 'SIGINT'}): {again_command(config)}"
    return 0, ""


def again_command(config: Config | None) -> str:
    without = " without --overwrite" if config and config.overwrite else ""
    return f"the same command{without} goes on from what was kept"


def run(config: Config, stop: Deadline) -> None:
    """One run: data → CLIP → features → prompt → objective → trainer → report. Heavy imports wait until settings are good."""

    from datasets.fewshot import write_split
    from trainers.loop import build_optimizer, build_problem
    from utils.files import sha256
    from utils.identity import run_path
    from utils.lock import refuse_locked
    from utils.run import Run, find_earlier_run, remove_checkpoint

    # open_clip reports through the root logger; what matters of it reaches the user as our own errors
    logging.basicConfig(level=logging.CRITICAL)
    # as do Pillow's remarks on a damaged picture
    warnings.filterwarnings("ignore", module=r"PIL\.")
    device = pick_device(config.device)
    config = resolved(config, device)
    saved = None
    if config.load_prompt:
        from trainers.saved import read_saved, saved_accuracy

        config, *saved = read_saved(config)
        scored = {"prompt_sha256": sha256(Path(config.load_prompt))}
    path = run_path(config)
    earlier = find_earlier_run(path, config)
    if earlier == "finished":
        # of a run that was killed while it tidied up
        remove_checkpoint(path)
        print(f"{path}: finished already; --overwrite runs it again")
        return
    refuse_locked(path)

    trains = bool(TRAINERS[config.prompt_trainer].build)
    with explain_oom("--batch_size", config.batch_size, device):
        task = prepare(config, device)
    # before anything is written, so that what cannot work leaves no folder
    with explain_oom("--memory_limit", config.memory_limit, device):
        accuracy = 100 * saved_accuracy(config, task, *saved) if saved else task.zero_shot_accuracy
    with explain_oom("--intrinsic_dim", config.intrinsic_dim, device):
        problem = build_problem(config, task) if trains else None
        optimizer = build_optimizer(config, problem) if trains else None
    with explain_oom("--memory_limit", config.memory_limit, device), Run(path, config, device_name(device)) as folder:
        # the zero-shot prompts are often those that tuning starts from
        for warning in dict.fromkeys([*task.warnings, *(problem.warnings if problem else ())]):
            folder.log(f"warning: {warning}")
        of = f"{config.template!r} and {len(ENSEMBLE)} more" if config.ensemble else f"{config.template!r}"
        images = f"{of}, {len(task.test_samples)} test images"
        folder.log(f"Zero-shot accuracy: {task.zero_shot_accuracy:.2f}% ({images})")
        write_split(path / "split.json", task.train, task.val)
        result = {key: getattr(config, key) for key in ("dataset", "backbone", "shots", "seed")}
        result |= {"trainer": config.prompt_trainer, "zero_shot_accuracy": task.zero_shot_accuracy}
        if problem:
            about = {key: getattr(config, key) for key in ABOUT_PROMPT}
            about |= {"classnames": task.dataset.classnames, "weights_sha256": task.backbone.fingerprint()}
            about |= {"settings": prompt_settings(config)}
            names = json.dumps([about["weights_sha256"], *about["classnames"]])
            images = [tensor for part in (task.train_samples, task.val_samples) for tensor in (part.inputs, part.labels)]
            folder.progress.hash_input(names.encode(), *(tensor.cpu().numpy() for tensor in images))
            result |= {"feature_seconds": round(task.feature_seconds, 3)}
            result |= tune(config, problem, optimizer, about, folder, stop)
        else:
            nothing = dict.fromkeys(("queries", "forwards", "tower_images", "evaluations"), 0)
            result |= {"test_accuracy": accuracy, "seconds": 0.0} | nothing | (scored if saved else {})
        report(folder, result, len(task.test_samples))
        folder.finish(result)


def resolved(config: Config, device: torch.device) -> Config:
    """The configuration with what its defaults leave to the machine and the dataset."""
    import torch

    from clip.precision import tangent_precision

    return dataclasses.replace(
        config,
        device=str(device),
        root_path=config.root_path if DATASETS[config.dataset].folder else None,
        threads=torch.get_num_threads(),
        template=config.template or DATASETS[config.dataset].template,
        memory_limit=config.memory_limit or DEFAULT_MEMORY_LIMIT[device.type],
        tangent_precision=tangent_precision(config.tangent_precision, device) if uses_tangents(config) else "auto",
    )


def prepare(config: Config, device: torch.device) -> FewShotTask:
    """Data, CLIP and features. A trainer that trains nothing reads only the test list."""
    from clip.backbone import load_backbone
    from clip.text import ensemble_features
    from datasets.augment import RandomView
    from datasets.cache import FeatureCache, default_folder
    from datasets.classes import cut_classes
    from datasets.features import FeatureReader, check_images
    from datasets.fewshot import choose_images
    from datasets.split import load_dataset
    from trainers.blackbox.objective import Samples, top1
    from trainers.blackbox.task import FewShotTask
    from utils.seeds import sampling_generator

    trains = bool(TRAINERS[config.prompt_trainer].build)
    if trains:
        dataset = load_dataset(config.dataset, config.root_path)
        options = config.short_classes, config.split_file, config.subsample_classes
        dataset, train, val = choose_images(dataset, config.shots, sampling_generator(config.seed), *options)
    else:
        dataset, train, val = load_dataset(config.dataset, config.root_path, ("test",)), [], []
        dataset = cut_classes(dataset, config.subsample_classes)
    check_images(dataset, [*dataset.test, *train, *val])
    backbone = load_backbone(config.backbone, device, config.checkpoint, config.trust_checkpoint)

    remarks: list[str] = []
    cache = FeatureCache(Path(config.cache_dir or default_folder()), remarks.append) if config.cache else None
    features = FeatureReader(dataset, backbone, config.batch_size, cache)
    test_samples = Samples(*features(dataset.test, "test images"))
    templates = (*ENSEMBLE, config.template) if config.ensemble else (config.template,)
    zero_shot, of_text = ensemble_features(backbone, dataset.classnames, templates)
    zero_shot_accuracy = 100 * top1(lambda features: features @ zero_shot.T, test_samples, ZERO_SHOT_IMAGES_PER_PASS)
    train_samples = val_samples = Samples(test_samples.inputs[:0], test_samples.labels[:0])
    seconds = 0.0
    if trains:
        scale = DATASETS[config.dataset].crop_scale
        views = [RandomView(config.seed, view, backbone.image_size, scale) for view in range(config.augment_views)]
        started = time.perf_counter()
        train_samples = Samples(*features.of_views(train, "train images", views))
        seconds = time.perf_counter() - started
        val_samples = Samples(*features(val, "val images"))
    remarks += of_text
    return FewShotTask(
        dataset, train, val, backbone, train_samples, val_samples, test_samples, zero_shot_accuracy, remarks, seconds
    )


def tune(
    config: Config, problem: Problem, optimizer: Optimizer, about: dict[str, Any], folder: Run, stop: Deadline
) -> dict[str, Any]:
    """Runs the optimizer and saves the prompt; returns what result.json says of it. Accuracies in percent.

    `about`: what the prompt's file says of where it comes from.
    """
    from clip.prompt import save_prompt
    from trainers.loop import optimize
    from utils.replay import METRICS

    objective = problem.objective

    def evaluate(w: torch.Tensor) -> dict[str, float]:
        figures = {"train_loss": objective.loss_at(w, problem.train), "val_accuracy": 100 * objective.accuracy(w, problem.val)}
        return figures | ({"test_accuracy": 100 * objective.accuracy(w, problem.test)} if config.eval_test else {})

    w = optimize(config, optimizer, problem, evaluate, folder.progress.record, folder.progress, stop)
    if config.save_model:
        save_prompt(folder.path / "prompt.safetensors", objective.model.tensors(w), about)
    last = json.loads((folder.path / METRICS).read_text().splitlines()[-1])
    if TRAINERS[config.prompt_trainer].two_stages and last["stage"] == 1 and last["step"] < problem.steps:
        folder.log(f"note: --max_queries {config.max_queries} ended the run at step {last['step']}, before stage 2")
    outcome = {"val_accuracy": last["val_accuracy"], "seconds": last["seconds"]} | objective.costs()
    outcome["test_accuracy"] = 100 * objective.accuracy(w, problem.test)
    return outcome | {"evaluations": objective.evaluations}


def report(folder: Run, result: dict[str, Any], total: int) -> None:
    """The closing lines, in the form that CoOp's result parser reads."""
    correct = round(result["test_accuracy"] / 100 * total)
    folder.log(f"{result['queries']} queries in {result['seconds']:.1f} s; zero-shot was {result['zero_shot_accuracy']:.2f}%")
    for line in (
        "Finish training",
        "=> result",
        f"* total: {total:,}",
        f"* correct: {correct:,}",
        f"* accuracy: {result['test_accuracy']:.2f}%",
    ):
        folder.log(line)


def pick_device(name: str) -> torch.device:
    """The torch device that `--device` names. Raises UserError where this machine has none such."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device: {name}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def device_name(device: torch.device) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@contextlib.contextmanager
def arithmetic(config: Config) -> Iterator[None]:
    """Makes torch compute as `--threads` and `--deterministic` ask, and as before afterward."""
    import torch

    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(config.threads or threads)
    if config.deterministic:
        # cuBLAS reads it when it first starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(config.deterministic or deterministic)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def exit_process(status: int) -> None:
    """Ends the process with `status`, also where nobody takes what is still to be written out."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = status or 1
    sys.exit(status)


if __name__ == "__main__":
    exit_process(main())
