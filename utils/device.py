"""The device of a run, and how torch computes on it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from utils.errors import UserError
from utils.settings import Config

if TYPE_CHECKING:
    import torch

DEFAULT_MEMORY_LIMIT = {"cpu": 1024, "cuda": 4096}


def pick_device(name: str) -> torch.device:
    """The torch device that `--device` names. Raises UserError if this machine does not have it."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # torch accepts more names, such as meta and mps, on which a run fails later
    kind, colon, index = name.partition(":")
    if kind not in DEFAULT_MEMORY_LIMIT or (colon and not (index.isascii() and index.isdigit() and len(index) <= 3)):
        raise UserError(f"--device: {name!r} is not a device; use auto, cpu, cuda or cuda:N")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device: {name!r} is not a device; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device: {name}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def device_name(device: torch.device) -> str:
    """The card's product name, or "cpu"."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@contextlib.contextmanager
def arithmetic(config: Config) -> Iterator[None]:
    """Applies `--threads` and `--deterministic` to torch, and restores its former state afterward.

    Float32 convolutions keep all their bits: cuDNN would round their inputs to TF32 by default.
    """
    import torch

    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    tf32, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    torch.set_num_threads(config.threads or threads)
    if config.deterministic:
        # cuBLAS reads the variable when it first starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(config.deterministic or deterministic)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.allow_tf32 = tf32
