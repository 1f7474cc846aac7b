"""SharpZO: tunes the prompt of a frozen CLIP by forward passes only.

    python main_sharpzo.py                                                    # the embedded default: digits, Mini CLIP
    python main_sharpzo.py --config configs/eurosat.yaml --root_path DATA --backbone ViT-B/16 --shots 16 --seed 1
    python main_sharpzo.py --config configs/eurosat.yaml --root_path DATA --prompt_trainer zero-shot

Exit status: 0 finished, 1 the run could not go on, 2 something given cannot work. One line on stderr says what.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import DATASETS
from datasets.roots import check_dataset
from trainers import TRAINERS
from utils.config import Config, check_paths, load_config
from utils.errors import RunError, UserError

if TYPE_CHECKING:
    import torch

    from clip.backbone import Backbone
    from clip.prompt import Projection
    from clip.text import TextFeatures
    from datasets.split import Item
    from trainers.objective import Images, Objective
    from trainers.sharpzo import Optimizer
    from utils.run import Run

DEFAULT_MEMORY_LIMIT = {"cpu": 1024, "cuda": 4096}


def main(argv: list[str] | None = None) -> int:
    try:
        config = load_config(sys.argv[1:] if argv is None else argv, TRAINERS, DATASETS, epilog=__doc__)
        check_paths(config)
        check_dataset(config.dataset, config.root_path, trains=bool(TRAINERS[config.prompt_trainer].build))
        with cpu_threads(config.threads):
            run(config)
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except OSError as error:
        print(f"error: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    return 0


def run(config: Config) -> None:
    """One run: data → CLIP → features → prompt → objective → trainer → report. Heavy imports wait until settings are good."""
    import torch

    from datasets.fewshot import write_split
    from utils.files import write_json
    from utils.run import Run, find_earlier_run, run_path

    # open_clip reports through the root logger; what matters of it reaches the user as our own errors
    logging.basicConfig(level=logging.CRITICAL)
    device = pick_device(config.device)
    config = dataclasses.replace(
        config,
        device=str(device),
        threads=torch.get_num_threads(),
        template=config.template or DATASETS[config.dataset].template,
        memory_limit=config.memory_limit or DEFAULT_MEMORY_LIMIT[device.type],
    )
    path = run_path(config)
    earlier = find_earlier_run(path, config)
    if earlier == "finished":
        print(f"{path}: finished already; --overwrite runs it again")
        return

    task = prepare(config, device)
    tuning = plan_tuning(config, task) if TRAINERS[config.prompt_trainer].build else None
    with Run(path, config, device_name(device)) as folder:
        if earlier == "unfinished":
            folder.say(f"{path}: an earlier run did not finish; starting over")
        for warning in task.warnings + (tuning.text.warnings if tuning else []):
            folder.say(f"warning: {warning}")
        images = f"{config.template!r}, {len(task.test_images)} test images"
        folder.say(f"Zero-shot accuracy: {task.zero_shot_accuracy:.2f}% ({images})")
        write_split(path / "split.json", task.train, task.val)
        result = {key: getattr(config, key) for key in ("dataset", "backbone", "shots", "seed")}
        result |= {"trainer": config.prompt_trainer, "zero_shot_accuracy": task.zero_shot_accuracy}
        if tuning:
            result |= tune(config, task, tuning, folder)
        else:
            result |= {"test_accuracy": task.zero_shot_accuracy, "queries": 0, "evaluations": 0, "seconds": 0.0}
        report(folder, result, len(task.test_images))
        write_json(path / "result.json", result)


@dataclass(frozen=True)
class Task:
    """What a run starts from: the drawn images, the frozen CLIP and the features of all images it will score."""

    train: list[Item]
    val: list[Item]
    classnames: tuple[str, ...]
    backbone: Backbone
    train_images: Images | None
    val_images: Images | None
    test_images: Images
    zero_shot_accuracy: float
    warnings: list[str]


def prepare(config: Config, device: torch.device) -> Task:
    """Data, CLIP and features. A trainer that trains nothing reads only the test list."""
    from clip.backbone import load_backbone
    from clip.prompt import clean_name
    from clip.text import zero_shot_features
    from datasets.augment import RandomView
    from datasets.cache import FeatureCache, default_folder
    from datasets.features import FeatureReader, check_images
    from datasets.fewshot import choose_images, cut_classes
    from datasets.split import load_dataset
    from trainers.objective import Images, accuracy
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

    warnings: list[str] = []
    folder = Path(config.cache_dir) if config.cache_dir else default_folder()
    features = FeatureReader(
        dataset, backbone, config.batch_size, FeatureCache(folder, warnings.append) if config.cache else None
    )
    test_images = Images(*features(dataset.test, "test images"))
    prompts = [config.template.replace("{}", clean_name(name)) for name in dataset.classnames]
    zero_shot, text_warnings = zero_shot_features(backbone, prompts)
    zero_shot_accuracy = 100 * accuracy(zero_shot, test_images)
    train_images = val_images = None
    if trains:
        scale = DATASETS[config.dataset].crop_scale
        views = [RandomView(config.seed, view, backbone.image_size, scale) for view in range(config.augment_views)]
        train_images = Images(*features.of_views(train, "train images", views))
        val_images = Images(*features(val, "val images"))
    warnings += text_warnings
    return Task(train, val, dataset.classnames, backbone, train_images, val_images, test_images, zero_shot_accuracy, warnings)


@dataclass(frozen=True)
class Tuning:
    """The prompt, the black box around it and the optimiser, ready for the first step."""

    projection: Projection
    text: TextFeatures
    objective: Objective
    optimizer: Optimizer


def plan_tuning(config: Config, task: Task) -> Tuning:
    """Prompt → objective → trainer, before anything is written."""
    from clip.prompt import make_projection
    from clip.text import TextFeatures
    from trainers.loop import build_optimizer
    from trainers.objective import Objective
    from utils.seeds import torch_generator

    text = TextFeatures(task.backbone, task.classnames, config.ctx_init, config.memory_limit << 20, config.engine)

    generator = torch_generator(config.seed, "projection")
    projection = make_projection(task.backbone, config.ctx_init, config.intrinsic_dim, config.std, generator)
    objective = Objective(
        projection.contexts,
        text,
        task.train_images,
        task.backbone.logit_scale,
        len(task.classnames),
        config.precision,
        config.memory_limit << 20,
    )
    return Tuning(projection, text, objective, build_optimizer(config, objective, projection.d, task.val_images))


def tune(config: Config, task: Task, tuning: Tuning, folder: Run) -> dict[str, Any]:
    """Runs the optimiser and saves the prompt; returns what result.json says of it. Accuracies in percent."""
    from clip.prompt import save_prompt
    from trainers.loop import optimise

    objective = tuning.objective

    def evaluate(w: torch.Tensor) -> dict[str, float]:
        figures = {"train_loss": objective.loss_at(w), "val_accuracy": 100 * objective.accuracy(w, task.val_images)}
        return figures | ({"test_accuracy": 100 * objective.accuracy(w, task.test_images)} if config.eval_test else {})

    last: dict[str, Any] = {}

    def record(entry: dict[str, Any]) -> None:
        folder.record(entry)
        last.update(entry)

    w = optimise(config, tuning.optimizer, objective, evaluate, record)
    if config.save_model:
        about = {key: getattr(config, key) for key in ("dataset", "backbone", "checkpoint", "ctx_init", "shots", "seed")}
        about |= {"classnames": task.classnames, "weights_sha256": task.backbone.fingerprint()}
        save_prompt(folder.path / "prompt.safetensors", tuning.projection, w, about)
    outcome = {key: last[key] for key in ("val_accuracy", "queries", "seconds")}
    outcome["test_accuracy"] = 100 * objective.accuracy(w, task.test_images)
    return outcome | {"evaluations": objective.evaluations}


def report(folder: Run, result: dict[str, Any], total: int) -> None:
    """The closing lines, in the form that CoOp's result parser reads."""
    correct = round(result["test_accuracy"] / 100 * total)
    folder.say(f"{result['queries']} queries in {result['seconds']:.1f} s; zero-shot was {result['zero_shot_accuracy']:.2f}%")
    for line in (
        "Finish training",
        "=> result",
        f"* total: {total:,}",
        f"* correct: {correct:,}",
        f"* accuracy: {result['test_accuracy']:.2f}%",
    ):
        folder.say(line)


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
def cpu_threads(threads: int) -> Iterator[None]:
    """Makes torch use `threads` CPU threads (0: its own choice), and what it used before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    sys.exit(main())
