"""Command lines resolved, refused and run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from datasets import DATASETS
from tools.reproduce.suites import MINI
from trainers import TRAINERS
from utils.config import REPOSITORY, load_config
from utils.errors import UserError
from utils.settings import Config

# dataset: sigma, zo_eps_cge, change_point, zo_lr, std, bound
TABLE_8 = {
    "oxford_pets": (0.1, 1e-3, 100, 1e-3, 0.2, 5.0),
    "oxford_flowers": (0.4, 1e-3, 500, 1e-3, 0.2, 5.0),
    "fgvc_aircraft": (0.2, 1e-3, 400, 1e-3, 0.2, 0.0),
    "dtd": (0.4, 1e-5, 300, 1e-3, 1.0, 5.0),
    "eurosat": (0.4, 1e-3, 500, 1e-3, 1.0, 5.0),
    "stanford_cars": (1.0, 1e-3, 100, 1e-3, 0.2, 5.0),
    "food101": (0.1, 1e-3, 100, 1e-3, 0.2, 0.0),
    "sun397": (0.4, 1e-3, 400, 1e-1, 0.2, 5.0),
    "caltech101": (0.4, 1e-3, 200, 1e-3, 0.2, 5.0),
    "ucf101": (0.1, 1e-3, 200, 1e-3, 0.2, 5.0),
    "imagenet": (1.0, 1e-5, 200, 1e-1, 1.0, 0.0),
}


SHIFTS = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")


LAPTOP = {"digits", *MINI.shifts, *MINI.datasets, *(name for name in DATASETS if name.startswith("icons_"))}


COMMON = {
    "popsize": 40,
    "intrinsic_dim": 512,
    "ctx_init": "a photo of a",
    "rho": 0.1,
    "smoothness_estimator": "zo",
    "zo_eps_mask": 1e-5,
    "zo_eps_rge": 1e-3,
    "prune_interval": 200,
    "num_pertub": 1,
    "prune_ratio": 0.5,
    "total_steps": 20_000,
    "pruning": "zscore",
    "prompt_trainer": "sharpzo",
    "fidelity": "paper",
    "backbone": "ViT-B/16",
    "shots": 16,
    "seed": 1,
}


def resolve(*argv: str) -> Config:
    return load_config(list(argv), TRAINERS, DATASETS)


def refusal(*argv: str) -> str:
    """The one line with which `argv` is refused."""
    with pytest.raises(UserError) as caught:
        resolve(*argv)
    message = str(caught.value)
    assert message.strip()
    assert len(message.splitlines()) == 1
    return message


def command(*argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(REPOSITORY / "main_sharpzo.py")]
    return subprocess.run([*program, *argv], cwd=cwd, capture_output=True, text=True, timeout=600)
