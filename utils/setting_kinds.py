"""Properties of settings: identity, paths, the released code's departures, and names in earlier versions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from utils.settings import Config

# settings of where a run is stored, not of what it computes
NOT_IDENTITY = frozenset(
    {
        "config",
        "output_dir",
        "run_name",
        "dataset_name",
        "overwrite",
        "save_every",
        "max_seconds",
        "rank_timeout",
        "confusion",
        "logger",
        "cache",
        "cache_dir",
    }
)

# settings that name input files or folders, which are compared by content where possible
PATHS = ("root_path", "split_file", "checkpoint", "load_prompt")

# rows of the table "paper versus released code" in README.md that a run can choose, in the released code's own terms
RELEASED = ("fresh-mean-gradient", "fresh-mean-start", "gradient-buffer", "matrix-radius", "zero-start", "matrix-w")
DEPARTURES = (*RELEASED, "abs-score", "keep-lowest")


LOGGERS = ("tensorboard", "wandb")

# names under which earlier versions wrote settings, and values, into config.yaml and prompt.safetensors
FORMER_KEYS = {"normalise_adapter": "normalize_adapter"}
FORMER_VALUES = {"prompt_trainer": {"zo-pruned": "sharpzo"}}


def with_current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as this version names them."""
    renamed = {FORMER_KEYS.get(key, key): value for key, value in settings.items()}
    return renamed | {
        key: former.get(renamed[key], renamed[key]) if isinstance(renamed[key], str) else renamed[key]
        for key, former in FORMER_VALUES.items()
        if key in renamed
    }


def prompt_settings(config: Config) -> dict[str, Any]:
    """The settings that determine a trained prompt: not those of storage, machine or logging."""
    fields = dataclasses.fields(config)
    return {field.name: getattr(config, field.name) for field in fields if field.metadata["group"] not in ("run", "log")}


def uses_tangents(config: Config) -> bool:
    """Whether a run differentiates in forward mode, so that the precision of tangents matters to it."""
    return "jvp" in config.as_dict().values() or "forward-gradient" in (config.prompt_trainer, config.stage2)


def loggers_of(config: Config) -> list[str]:
    """The loggers that `--logger` names."""
    return [] if config.logger == "none" else [name.strip() for name in config.logger.split(",")]


def departures(config: Config) -> frozenset[str]:
    """The released code's departures from the paper that `--fidelity` selects."""
    named = {"paper": (), "released": RELEASED}.get(config.fidelity)
    return frozenset(named if named is not None else (part.strip() for part in config.fidelity.split(",")))
