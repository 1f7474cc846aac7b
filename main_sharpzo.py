"""SharpZO: tunes the prompt of a frozen CLIP by forward passes only.

    python main_sharpzo.py                                                    # the embedded default: digits, Mini CLIP
    python main_sharpzo.py --config configs/eurosat.yaml --root_path DATA --backbone ViT-B/16 --shots 16 --seed 1
    python main_sharpzo.py --config configs/eurosat.yaml --root_path DATA --prompt_trainer zero-shot

Exit status: 0 finished, 1 the run could not go on, 2 something given cannot work. One line on stderr says what.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasets import DATASETS
from trainers import TRAINERS
from utils.config import Config, load_config
from utils.errors import RunError, UserError

if TYPE_CHECKING:
    import torch

    from clip.backbone import Backbone
    from clip.text import TextFeatures
    from datasets.split import Item
    from trainers.objective import Images
    from utils.run import Run

DEFAULT_MEMORY_LIMIT = {"cpu": 1024, "cuda": 4096}


def main(argv: list[str] | None = None) -> int:
    try:
        run(load_config(sys.argv[1:] if argv is None else argv, TRAINERS, DATASETS, epilog=__doc__))
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    return 0


def run(config: Config) -> None:
    """One run: data → CLIP → features → prompt → objective → trainer → report. Heavy imports wait until settings are good."""
    from datasets.fewshot import write_split
    from utils.files import write_json
    from utils.run import Run, find_earlier_run, run_path

    # open_clip reports through the root logger; what matters of it reaches the user as our own errors
    logging.basicConfig(level=logging.ERROR)
    device = pick_device(config.device)
    config = dataclasses.replace(
        config,
        device=str(device),
        threads=set_threads(config.threads),
        template=config.template or DATASETS[config.dataset].template,
        memory_limit=config.memory_limit or DEFAULT_MEMORY_LIMIT[device.type],
    )
    path = run_path(config)
    earlier = find_earlier_run(path, config)
    if earlier == "finished":
        print(f"{path}: finished already; --overwrite runs it again")
        return

    task = prepare(config, device)
    with Run(path, config, device_name(device)) as folder:
        if earlier == "unfinished":
            folder.say(f"{path}: an earlier run did not finish; starting over")
        for warning in task.text.warnings:
            folder.say(f"warning: {warning}")
        images = f"{config.template!r}, {len(task.test_images)} test images"
        folder.say(f"Zero-shot accuracy: {task.zero_shot_accuracy:.2f}% ({images})")
        write_split(path / "split.json", task.train, task.val)
        result = {key: getattr(config, key) for key in ("dataset", "backbone", "shots", "seed")}
        result |= {"trainer": config.prompt_trainer, "zero_shot_accuracy": task.zero_shot_accuracy}
        if TRAINERS[config.prompt_trainer].build:
            result |= tune(config, task, folder)
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
    text: TextFeatures
    train_images: Images | None
    val_images: Images | None
    test_images: Images
    zero_shot_accuracy: float


def prepare(config: Config, device: torch.device) -> Task:
    """Data, CLIP and features. A trainer that trains nothing reads only the test list."""
    from clip.backbone import load_backbone
    from clip.prompt import clean_name
    from clip.text import TextFeatures, zero_shot_features
    from datasets.features import image_features
    from datasets.fewshot import draw_few_shot
    from datasets.split import load_dataset
    from trainers.objective import Images, accuracy
    from utils.seeds import sampling_generator

    trains = bool(TRAINERS[config.prompt_trainer].build)
    dataset = load_dataset(config.dataset, config.root_path)
    train, val = draw_few_shot(dataset, config.shots, sampling_generator(config.seed)) if trains else ([], [])
    backbone = load_backbone(config.backbone, device, config.checkpoint, config.trust_checkpoint)
    text = TextFeatures(backbone, dataset.classnames, config.ctx_init, config.memory_limit << 20, config.engine)

    def images_of(items: Sequence[Item], what: str) -> Images:
        return Images(*image_features(dataset, items, backbone.preprocess, backbone.encode_images, config.batch_size, what))

    test_images = images_of(dataset.test, "test images")
    prompts = [config.template.replace("{}", clean_name(name)) for name in dataset.classnames]
    zero_shot_accuracy = 100 * accuracy(zero_shot_features(backbone, prompts), test_images)
    train_images = images_of(train, "train images") if trains else None
    val_images = images_of(val, "val images") if trains else None
    return Task(train, val, dataset.classnames, backbone, text, train_images, val_images, test_images, zero_shot_accuracy)


def tune(config: Config, task: Task, folder: Run) -> dict[str, Any]:
    """Prompt → objective → trainer; returns what result.json says of it. Accuracies in percent."""
    from clip.prompt import make_projection, save_prompt
    from trainers.loop import build_optimizer, optimise
    from trainers.objective import Objective
    from utils.seeds import torch_generator

    generator = torch_generator(config.seed, "projection")
    projection = make_projection(task.backbone, config.ctx_init, config.intrinsic_dim, config.std, generator)
    objective = Objective(
        projection.contexts,
        task.text,
        task.train_images,
        task.backbone.logit_scale,
        len(task.classnames),
        config.precision,
        config.memory_limit << 20,
    )

    def evaluate(w: torch.Tensor) -> dict[str, float]:
        figures = {"train_loss": objective.loss_at(w), "val_accuracy": 100 * objective.accuracy(w, task.val_images)}
        return figures | ({"test_accuracy": 100 * objective.accuracy(w, task.test_images)} if config.eval_test else {})

    last: dict[str, Any] = {}

    def record(entry: dict[str, Any]) -> None:
        folder.record(entry)
        last.update(entry)

    optimizer = build_optimizer(config, objective, projection.d, task.val_images)
    w = optimise(config, optimizer, objective, evaluate, record)
    if config.save_model:
        about = {key: getattr(config, key) for key in ("dataset", "backbone", "checkpoint", "ctx_init", "shots", "seed")}
        save_prompt(folder.path / "prompt.safetensors", projection, w, about | {"classnames": task.classnames})
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
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device: {name!r} is no device; use auto, cpu, cuda or cuda:N") from error
    if device.type not in DEFAULT_MEMORY_LIMIT:
        raise UserError(f"--device: {device.type} is not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device: {name}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def device_name(device: torch.device) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def set_threads(threads: int) -> int:
    """Makes torch use `threads` CPU threads, or leaves its own choice at 0; returns how many it uses."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


if __name__ == "__main__":
    sys.exit(main())
