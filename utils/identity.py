"""What makes two runs the same run: their folder and the settings that decide their result."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from utils.files import sha256
from utils.settings import NOT_IDENTITY, PATHS, Config


def run_path(config: Config) -> Path:
    """OUTPUT_DIR/dataset/trainer/backbone[/run_name]/16shots/seed1."""
    backbone = config.backbone.replace("/", "-")
    variant = [config.run_name] if config.run_name else []
    parts = [config.dataset, config.prompt_trainer, backbone, *variant, f"{config.shots}shots", f"seed{config.seed}"]
    return Path(config.output_dir).joinpath(*parts)


def evaluation_name(trainer: str, source: str, classes: str) -> str:
    """--run_name of an evaluation: "bbt-from-digits", and "bbt-from-digits-new" on the new classes."""
    return f"{trainer}-from-{source}" + (f"-{classes}" if classes != "all" else "")


def scored_another(path: Path, config: Config) -> bool:
    """Whether the finished run in `path` scored a `--load_prompt` whose content has changed since.

    A prompt that is gone cannot be told from the one that was scored.
    """
    prompt = Path(config.load_prompt or "")
    if not config.load_prompt or not prompt.is_file():
        return False
    try:
        scored = json.loads((path / "result.json").read_text(encoding="utf-8"))["prompt_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return True
    return scored != sha256(prompt)


def fingerprint(config: Config) -> str:
    """SHA-256 of the settings that decide what a run computes: whose the kept answers are."""
    return hashlib.sha256(json.dumps(identity(config.as_dict()), sort_keys=True).encode()).hexdigest()


def identity(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide what a run computes; a path is the same file however it is written."""
    kept = {key: value for key, value in settings.items() if key not in NOT_IDENTITY}
    return kept | {key: str(Path(kept[key]).absolute()) for key in PATHS if kept.get(key) and isinstance(kept[key], str)}
