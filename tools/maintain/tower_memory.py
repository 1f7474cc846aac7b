"""Peak memory of whole runs on a CPU at ViT-B/16's size, by stage and by how the text tower is stored, in a table.

    python -m tools.maintain.tower_memory --work DIR [--only NAME …]        # random weights, ten of EuroSAT's names, 40 images

Each run is its own process, on one thread. Measured are its resident set after the imports ("Python"), its peak until the
optimizer starts (weights loaded, images encoded), and its peak from then on, for which the kernel's peak is reset. Measurements
in DIR are reused. Linux only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from tools.common.cli import command, make_parser, user_path
from tools.common.tables import Table
from utils.config import REPOSITORY
from utils.errors import RunError, UserError
from utils.files import write_json
from utils.seeds import numpy_generator

IMAGES_PER_CLASS = 4
SIZES = ("--intrinsic_dim", "32", "--batch_size", "8", "--shots", "1", "--threads", "1", "--no-save_model")
STAGES = {"stage 1": ("--total_steps", "1", "--change_point", "1"), "stage 2": ("--total_steps", "3", "--change_point", "0")}
FORWARD: dict[str, tuple[str, ...]] = {
    f"sharpzo, {stage}, {kind}": (*flags, "--tower_weights", kind)
    for kind in ("float32", "bfloat16", "int8")
    for stage, flags in STAGES.items()
}
# with images encoded in every step, as published, and with cached features
BACKWARD: dict[str, tuple[str, ...]] = {
    f"{trainer}, backpropagation, {images} images": ("--prompt_trainer", trainer, *steps, "--train_features", images)
    for trainer, steps in (("craft", ("--total_steps", "2")), ("coop", ("--epochs", "2")))
    for images in ("fresh", "cached")
}
CASES = FORWARD | BACKWARD


def make_inputs(folder: Path) -> list[str]:
    """A checkpoint of random weights and a folder of random images below `folder`, as flags of main_sharpzo.py."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    from tools.common.engine_costs import class_names

    checkpoint, images = folder / "ViT-B-16.safetensors", folder / "images"
    if not checkpoint.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        model = open_clip.create_model("ViT-B-16-quickgelu", pretrained=None)
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, checkpoint)
    pixels = numpy_generator(0, "memory images")
    for name in class_names("eurosat"):
        for number in range(IMAGES_PER_CLASS):
            path = images / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_file():
                Image.fromarray(pixels.integers(0, 256, (64, 64, 3), dtype="uint8")).save(path)
    inputs = ("--dataset", "folder", "--root_path", str(images), "--backbone", "ViT-B-16-quickgelu")
    return [*inputs, "--checkpoint", str(checkpoint), "--cache_dir", str(folder / "features")]


def resident() -> dict[str, float]:
    """MiB of this process: resident now, and the peak since it was last reset."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"now": int(lines["VmRSS"].split()[0]) / 1024, "most": int(lines["VmHWM"].split()[0]) / 1024}


def measure_here(output: Path, flags: list[str]) -> int:
    """Runs in this process and writes its memory as JSON."""
    import open_clip  # noqa: F401

    import main_sharpzo
    from trainers import jobs

    memory: dict[str, float] = {"python": resident()["now"]}
    optimize: Callable[..., Any] = jobs.optimize

    def watched(*arguments: Any, **options: Any) -> Any:
        memory["loading"], memory["ready"] = resident()["most"], resident()["now"]
        # resets the peak that the kernel records
        Path("/proc/self/clear_refs").write_text("5")
        found = optimize(*arguments, **options)
        memory["stage"] = resident()["most"]
        return found

    jobs.optimize = watched
    status = main_sharpzo.main(flags)
    if status == 0:
        write_json(output, memory)
    return status


def measure(name: str, work: Path, inputs: list[str]) -> dict[str, float]:
    output = work / f"{name.replace(', ', '-').replace(' ', '')}.json"
    if not output.is_file():
        flags = [*inputs, *SIZES, *CASES[name], "--output_dir", str(work / "runs"), "--run_name", output.stem, "--overwrite"]
        call = [sys.executable, "-m", "tools.maintain.tower_memory", "--one", str(output), "--work", str(work), "--", *flags]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(call, capture_output=True, text=True, cwd=REPOSITORY, env=environment)
        if done.returncode:
            raise RunError(f"{name}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return json.loads(output.read_text(encoding="utf-8"))


@command
def main(argv: list[str]) -> int:
    parser = make_parser("tools.maintain.tower_memory", __doc__)
    parser.add_argument("--work", type=user_path, required=True, help="folder of weights, images and measurements")
    parser.add_argument("--only", nargs="+", choices=list(CASES), metavar="NAME", help="; ".join(CASES))
    parser.add_argument("--one", type=user_path, help="measure the run of the flags after -- in this process, into this file")
    at = argv.index("--") if "--" in argv else len(argv)
    arguments = parser.parse_args(argv[:at])
    if not Path("/proc/self/clear_refs").exists():
        raise UserError("/proc/self/clear_refs: not found; this measurement needs Linux")
    if arguments.one:
        return measure_here(arguments.one, argv[at + 1 :])
    work = arguments.work.absolute()
    inputs = make_inputs(work)
    # the images are encoded once, so that the runs differ only in their steps
    rows = {name: measure(name, work, inputs) for name in arguments.only or CASES}
    table = Table("Peak memory, MiB", ["run", "Python", "loading", "before the first step", "during the steps"])
    for name, found in rows.items():
        table.rows.append([name, *(f"{found[key]:,.0f}" for key in ("python", "loading", "ready", "stage"))])
    print(table.grid())
    return 0


if __name__ == "__main__":
    sys.exit(main())
