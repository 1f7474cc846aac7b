"""Checks a torch device, one part per process: the engine's values, whole runs and their resume, speed. See gpu_check.sh.

    python -m tools.maintain.gpu_check --device cuda --output gpu_check
    python -m tools.maintain.gpu_check --device cpu --output /tmp/check --quick      # a rehearsal of one minute

Values are compared with open_clip's own tower in float64 on the CPU. TF32 stays off, as it does in runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from tools.common.cli import command, make_parser, user_path
from tools.maintain.gpu_check.report import Report, Row
from tools.maintain.gpu_check.runs import check_runs, check_trainers
from tools.maintain.gpu_check.speed import check_machine, check_speed
from tools.maintain.gpu_check.values import check_values
from utils.device import pick_device

NOT_IN_TABLE = {"dataset", "device", "threads", "rounds", "coordinates"}
CHECKS = {"values": check_values, "runs": check_runs, "trainers": check_trainers, "machine": check_machine, "speed": check_speed}


def run_part(name: str, device: torch.device, output: Path, quick: bool) -> int:
    # convolutions use TF32 by default
    torch.backends.cudnn.allow_tf32 = False
    report = Report(output / f"{name}.json")
    started = time.perf_counter()
    CHECKS[name](device, report, quick)
    report.note("seconds", round(time.perf_counter() - started, 1))
    return 1 if report["failures"] else 0


def collect(output: Path, statuses: dict[str, int]) -> dict[str, Row]:
    """What the parts found; a part that did not finish counts as failed."""
    found = {name: json.loads(path.read_text()) for name in CHECKS if (path := output / f"{name}.json").exists()}
    for name, status in statuses.items():
        part = found.setdefault(name, {"failures": []})
        if "seconds" not in part:
            last = ((output / f"{name}.log").read_text().splitlines() or [""])[-1]
            part["failures"].append(f"{name} stopped with status {status}: {last} (see {name}.log)")
    return found


def markdown(found: dict[str, Row]) -> str:
    """The findings: a table of speeds, a list of the rest, and the failures."""
    machine, rows = found.get("machine", {}), found.get("speed", {}).get("rows", [])
    lines = [f"{machine.get('device')}, torch {machine.get('torch')}, products in TFLOP/s: {machine.get('product_tflops')}", ""]
    numbers = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in NOT_IN_TABLE]
    lines += ["| | " + " | ".join(row["dataset"] for row in rows) + " |", "|" + "---|" * (1 + len(rows))]
    for name in numbers:
        cells = (f"{row[name]:.3g}" if row.get(name) is not None else "–" for row in rows)
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    for part in ("values", "runs", "trainers"):
        lines += ["", *(f"- {name.replace('_', ' ')}: {value}" for name, value in found.get(part, {}).items())]
    failures = [f"- {part}: {failure}" for part, notes in found.items() for failure in notes["failures"]]
    return "\n".join([*lines, "", "Failures:" if failures else "All checks passed.", *failures]) + "\n"


@command
def main(argv: list[str]) -> int:
    parser = make_parser("tools.maintain.gpu_check", __doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=user_path, default=Path("gpu_check"))
    parser.add_argument("--quick", action="store_true", help="small towers and few steps, to test the check itself")
    parser.add_argument("--part", choices=tuple(CHECKS), help="only this part, in this process")
    arguments = parser.parse_args(argv)
    device = pick_device(arguments.device)
    arguments.output.mkdir(parents=True, exist_ok=True)
    if arguments.part:
        return run_part(arguments.part, device, arguments.output, arguments.quick)

    def start(name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tools.maintain.gpu_check", "--part", name, *argv]
        log = (arguments.output / f"{name}.log").open("w")
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    # these share the device; speed is measured alone afterwards
    started = {name: start(name) for name in ("values", "runs", "trainers")}
    statuses = {name: process.wait() for name, process in started.items()}
    statuses |= {name: start(name).wait() for name in ("machine", "speed")}
    found = collect(arguments.output, statuses)
    (arguments.output / "gpu_check.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (arguments.output / "gpu_check.md").write_text(markdown(found), encoding="utf-8")
    print(markdown(found))
    return 1 if any(statuses.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
