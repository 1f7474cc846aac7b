"""What makes two runs the same run: their folder and the settings that decide their result."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import DATASETS
from utils.files import sha256
from utils.setting_kinds import FORMER_VALUES, NOT_IDENTITY, PATHS, with_current_names
from utils.settings import Config

DEFAULTS = {field.name: field.default for field in dataclasses.fields(Config)}


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


def scored_another(path: Path, config: Config) -> bool:
    """Whether the finished run in `path` scored a `--load_prompt` with other content; a missing file counts as the same."""
    prompt = Path(config.load_prompt or "")
    if not config.load_prompt or not prompt.is_file():
        return False
    try:
        scored = json.loads((path / "result.json").read_text(encoding="utf-8"))["prompt_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return True
    return scored != sha256(prompt)


def fingerprint(config: Config) -> str:
    """SHA-256 of the settings that decide what a run computes. Data and weights are hashed by content instead (ReplayLog).

    Defaults are left out, so that a version with a new setting still resumes the runs of the version before.
    """
    settings = identity(config.as_dict())
    given = {key: value for key, value in settings.items() if key not in PATHS and value != DEFAULTS[key]}
    return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()


def identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide what a run computes, of this run or from an earlier run's config.yaml.

    Former names are translated, a setting that the earlier version lacked has its default, and a path is the same file however
    it is written.
    """
    current: dict[str, Any] = DEFAULTS | with_current_names(settings)
    identifying = {key: value for key, value in current.items() if key not in NOT_IDENTITY}
    paths = {key: identifying[key] for key in PATHS if identifying.get(key) and isinstance(identifying[key], str)}
    return identifying | {key: str(Path(path).absolute()) for key, path in paths.items()}
