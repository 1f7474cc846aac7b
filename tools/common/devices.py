"""The devices and datasets that a sweep needs, checked before its first run."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from datasets.roots import check_dataset
from trainers import TRAINERS
from utils.errors import UserError
from utils.settings import Config


def check_datasets(configs: Iterable[Config]) -> None:
    """Raises UserError where none of the runs can have its images: a wrong --root_path; a dataset that lacks fails its runs."""
    wrong = []
    for dataset, root, trains in dict.fromkeys((c.dataset, c.root_path, bool(TRAINERS[c.prompt_trainer].build)) for c in configs):
        try:
            check_dataset(dataset, root, trains)
        except UserError as error:
            wrong.append(error)
        else:
            return
    if wrong:
        raise wrong[0]


def add_running_options(parser: argparse.ArgumentParser) -> None:
    """What the sweep and tools.reproduce share: where runs go, and on how many processes."""
    parser.add_argument("--root_path", help="folder that holds the datasets, in CoOp's layout")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--devices", nargs="+", help="one process on each: cuda:0 cuda:1 …, or cpu")
    where.add_argument("--processes", type=int, help="so many processes side by side on the CPU or the one GPU")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and run nothing")
    parser.add_argument("--benchmark", type=Path, help="JSON of tools.benchmark --output, to estimate times from")


def devices_of(arguments: argparse.Namespace) -> list[str]:
    """A device for each process, "" where the run chooses. Raises UserError for what is no device, or for no process."""
    if arguments.processes is not None and arguments.processes < 1:
        raise UserError(f"--processes: {arguments.processes}: it must be at least 1")
    for device in arguments.devices or ():
        if not re.fullmatch(r"cpu|cuda:\d+", device):
            raise UserError(f"--devices: {device!r} is no device; use cpu or cuda:N")
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    for device in arguments.devices or ():
        if device.startswith("cuda:") and shown != [""] and int(device.removeprefix("cuda:")) >= len(shown):
            raise UserError(f"--devices: {device}: CUDA_VISIBLE_DEVICES shows {len(shown)} cards")
    return arguments.devices or [""] * (arguments.processes or 1)


def check_devices(devices: Sequence[str]) -> None:
    """Raises UserError for a card that this machine does not have: its runs would choose the CPU."""
    wanted = [int(device.removeprefix("cuda:")) for device in devices if device.startswith("cuda:")]
    if wanted:
        import torch

        if max(wanted) >= torch.cuda.device_count():
            raise UserError(f"--devices: cuda:{max(wanted)}: this machine has {torch.cuda.device_count()} CUDA devices")
