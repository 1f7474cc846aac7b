"""Where the folder of a run is."""

from __future__ import annotations

from pathlib import Path

from datasets import DATASETS
from utils.setting_kinds import FORMER_VALUES
from utils.settings import Config


def run_path(config: Config) -> Path:
    """OUTPUT_DIR/dataset/trainer/backbone[/run_name]/16shots/seed1.

    Where only a folder under the trainer's former name exists, that one.
    """
    path = _path_under(config, config.prompt_trainer, config.run_name)
    for former, current in FORMER_VALUES["prompt_trainer"].items():
        trainer = former if config.prompt_trainer == current else config.prompt_trainer
        earlier = _path_under(config, trainer, config.run_name.replace(f"{current}-from-", f"{former}-from-"))
        if earlier != path and earlier.is_dir() and not path.exists():
            return earlier
    return path


def _path_under(config: Config, trainer: str, run_name: str) -> Path:
    variant = [run_name] if run_name else []
    parts = [
        dataset_name(config),
        trainer.replace(":", "-"),
        config.backbone.replace("/", "-"),
        *variant,
        f"{config.shots}shots",
        f"seed{config.seed}",
    ]
    return Path(config.output_dir).joinpath(*parts)


def dataset_name(config: Config) -> str:
    """What paths and tables call the dataset: its key, or for an image folder --dataset_name or the folder's own name.

    A folder that has the name of a registered dataset is called "folder-NAME", so that the two stay apart.
    """
    if config.dataset != "folder":
        return config.dataset
    name = config.dataset_name or (Path(config.root_path).resolve().name if config.root_path else "") or config.dataset
    return f"folder-{name}" if name in DATASETS and name != "folder" else name


def evaluation_name(trainer: str, source: str, classes: str) -> str:
    """--run_name of an evaluation: "bbt-from-digits", and "bbt-from-digits-new" on the new classes."""
    return f"{trainer}-from-{source}" + (f"-{classes}" if classes != "all" else "")
