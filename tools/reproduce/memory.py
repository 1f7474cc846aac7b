"""Peak memory of a run, measured in a process of its own.

    python -m tools.reproduce.memory OUTPUT.json FLAGS-OF-MAIN …

On a GPU: the peak of CUDA's allocator. On a CPU: the process's largest resident set, Python and libraries included. The run is
short and its folder is discarded: the first steps of each stage need as much memory as later ones.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import main_sharpzo
from tools.common.runner import visible
from tools.common.runs import Job
from utils.config import REPOSITORY
from utils.device import pick_device
from utils.errors import RunError
from utils.files import write_json
from utils.identity import fingerprint

# Two steps of each stage, without the feature cache, so that the image tower's share counts as in a first run.
SHORT = ("--total_steps", "4", "--change_point", "2", "--max_queries", "0", "--overwrite", "--no-cache", "--run_name", "memory")


@dataclass(frozen=True)
class Measurement:
    """The peak memory of a job on `device` ("": the run's own choice), kept in `folder` by settings and kind of device."""

    job: Job
    folder: Path
    device: str

    @property
    def output(self) -> Path:
        config = self.job.config
        kind = pick_device(self.device.partition(":")[0] or config.device).type
        return self.folder / f"{config.dataset}-{config.prompt_trainer}-{kind}-{fingerprint(config)[:12]}.json"

    @property
    def command(self) -> list[str]:
        device = ["--device", "cpu"] if self.device == "cpu" else []
        return [sys.executable, "-m", "tools.reproduce.memory", str(self.output), *self.job.flags, *device]

    def take(self, run: bool = True) -> dict[str, Any] | None:
        """{"mib", "of"}, measured before or now; None where it was not and nothing may `run`. RunError where the run fails."""
        if not self.output.is_file():
            if not run:
                return None
            paths = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
            environment = os.environ | {"PYTHONPATH": paths} | visible(self.device, os.environ)
            done = subprocess.run(self.command, capture_output=True, text=True, env=environment)
            if done.returncode:
                lines = done.stderr.strip().splitlines()
                raise RunError(f"measuring memory of {' '.join(self.job.flags)}: {lines[-1] if lines else done.returncode}")
        return json.loads(self.output.read_text(encoding="utf-8"))


def main() -> int:
    output, *flags = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        status = main_sharpzo.main([*flags, *SHORT, "--output_dir", folder])
    if status:
        return status
    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        peak, of = torch.cuda.max_memory_allocated() / 2**20, f"CUDA allocator, {torch.cuda.get_device_name()}"
    else:
        peak, of = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "process, CPU"
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    write_json(Path(output), {"mib": peak, "of": of})
    return 0


if __name__ == "__main__":
    sys.exit(main())
