"""The devices and datasets that a sweep needs, checked before its first run."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Sequence

from datasets.roots import check_dataset
from tools.common.cli import user_path, user_path_text
from trainers import TRAINERS
from utils.errors import UserError
from utils.settings import Config


def add_running_options(parser: argparse.ArgumentParser) -> None:
    """What the sweep and tools.reproduce share: where data is, and on how many processes runs go."""
    parser.add_argument("--root_path", type=user_path_text, help="folder that holds the datasets, in CoOp's layout")
    parser.add_argument("--devices", nargs="+", help="cuda:0 cuda:1 …, or cpu (default: each run chooses)")
    parser.add_argument("--processes", type=int, default=1, help="processes per device (default: 1)")
    parser.add_argument("--dry-run", action="store_true", help="print the plan; run nothing")
    parser.add_argument("--print-commands", action="store_true", help="print the commands of unfinished runs and nothing else")
    parser.add_argument(
        "--benchmark",
        type=user_path,
        help="estimate times from a JSON file of tools.benchmark --output or a CSV of tools.summarize --csv",
    )


def devices_of(arguments: argparse.Namespace) -> list[str]:
    """A device for each process, "" where the run chooses. Raises UserError for unknown devices and for no process."""
    if arguments.processes < 1:
        raise UserError(f"--processes: {arguments.processes} is out of range; it must be at least 1")
    for device in arguments.devices or ():
        if not re.fullmatch(r"cpu|cuda:\d+", device):
            raise UserError(f"--devices: {device!r} is not a device; use cpu or cuda:N")
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    for device in arguments.devices or ():
        if device.startswith("cuda:") and shown != [""] and int(device.removeprefix("cuda:")) >= len(shown):
            raise UserError(f"--devices: {device}: CUDA_VISIBLE_DEVICES lists {len(shown)} GPUs")
    return [device for device in arguments.devices or [""] for _ in range(arguments.processes)]


def check_devices(devices: Sequence[str]) -> None:
    """Raises UserError for a GPU that this machine does not have: its runs would choose the CPU."""
    requested = [int(device.removeprefix("cuda:")) for device in devices if device.startswith("cuda:")]
    if requested:
        import torch

        if max(requested) >= torch.cuda.device_count():
            raise UserError(f"--devices: cuda:{max(requested)}: this machine has {torch.cuda.device_count()} CUDA devices")


def check_datasets(configs: Iterable[Config]) -> None:
    """Raises UserError if no run has its images: a wrong --root_path. A single missing dataset only fails its own runs."""
    wrong = missing_datasets(configs)
    if wrong and None not in wrong:
        raise UserError(wrong[0])


def missing_datasets(configs: Iterable[Config]) -> list[str | None]:
    """For each dataset of the runs what is wrong with it, or None."""
    wrong: list[str | None] = []
    for dataset, root, trains in dict.fromkeys((c.dataset, c.root_path, bool(TRAINERS[c.prompt_trainer].build)) for c in configs):
        try:
            check_dataset(dataset, root, trains)
            wrong.append(None)
        except UserError as error:
            wrong.append(str(error))
    return wrong


def warnings_for(configs: Iterable[Config], devices: Sequence[str]) -> list[str]:
    """What would fail if the plan ran on this machine, each reason once, for a dry run."""
    found = list(dict.fromkeys(text for text in missing_datasets(configs) if text))
    try:
        check_devices(devices)
    except UserError as error:
        found.append(str(error))
    return found
