"""What makes two runs the same run: the settings that decide their result, and the content of a scored prompt."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.files import sha256
from utils.setting_kinds import NOT_IDENTITY, PATHS, with_current_names
from utils.settings import Config

DEFAULTS = {field.name: field.default for field in dataclasses.fields(Config)}


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
