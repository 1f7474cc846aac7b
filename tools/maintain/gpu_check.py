"""Checks a torch device, one part per process: the engine's values, whole runs and their resume, speed. See gpu_check.sh.

    python -m tools.maintain.gpu_check --device cuda --output gpu_check
    python -m tools.maintain.gpu_check --device cpu --output /tmp/check --quick      # a rehearsal in a minute

Values are compared with open_clip's own tower in float64 on the CPU. TF32 stays off, as it does in runs.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.backbone import Backbone, load_backbone
from clip.prompt import context_embeddings, make_projection
from clip.text import TextFeatures
from tools.benchmark import TEXT, class_names, measure, projection_std, random_backbone, table
from tools.common.tangent_costs import tangent_table
from trainers.blackbox.batches import FullBatch
from trainers.blackbox.gradients import cge
from trainers.blackbox.objective import Objective, Samples
from trainers.blackbox.text_prompt import TextPrompt

WORDS = ("red", "blue", "Boeing", "737", "-", "small", "dog", "river", "of", "the", "a")
TOWERS: tuple[dict[str, int], ...] = (
    {},
    {"layers": 1},
    {"heads": 4, "layers": 3},
    {"context_length": 32, "heads": 1},
    {"width": 128, "heads": 2, "layers": 4},
)
Row = dict[str, Any]
# the worst row's relative error that each precision may show on these towers
TOLERANCES = {"float64": 1e-12, "float32": 3e-6, "bfloat16": 0.1, "float16": 0.02}
CTX_INIT = "a photo of a"
DIMENSION = 512
SHOTS = 16
SHORT_RUN = {"--shots": 4, "--popsize": 10, "--intrinsic_dim": 64, "--change_point": 10, "--save_every": 5, "--eval_every": 20}


class Report(dict[str, Any]):
    """What a part found, kept in its file after every entry; `failures` says what is not as it should be."""

    def __init__(self, path: Path):
        super().__init__(failures=[])
        self.path = path

    def note(self, name: str, value: object) -> None:
        self[name] = value
        self.path.write_text(json.dumps(self, indent=2) + "\n", encoding="utf-8")
        print(f"{name}: {value}", flush=True)

    def require(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self["failures"].append(otherwise)
            self.note("failures", self["failures"])


def on(device: torch.device, backbone: Backbone) -> Backbone:
    return dataclasses.replace(backbone, model=backbone.model.to(device), device=device)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 5, inner: int = 1) -> float:
    """The median time of `work` over `repeats`, each of `inner` calls in a row; one call before is not counted."""
    work()
    times = []
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        for _ in range(inner):
            work()
        synchronize(device)
        times.append((time.perf_counter() - started) / inner)
    return statistics.median(times)


# values


def random_tower(rng: random.Random, text: dict[str, int]) -> Backbone:
    backbone = random_backbone({"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2} | text)
    generator = torch.Generator().manual_seed(rng.randrange(1 << 30))
    for parameter in backbone.model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return backbone


def check_values(device: torch.device, report: Report, quick: bool) -> None:
    """Features of random towers, names and contexts in every precision, against float64 on the CPU."""
    rng = random.Random(0)
    worst = dict.fromkeys(TOLERANCES, 0.0)
    for text in TOWERS if not quick else TOWERS[:2]:
        backbone = random_tower(rng, text)
        for class_specific in (False, True):
            names = [" ".join(rng.choices(WORDS, k=rng.randint(1, 6))) for _ in range(rng.randint(1, 12))]
            names.append(names[0])
            B, n_ctx, width = rng.randint(1, 5), 4, backbone.model.token_embedding.weight.shape[1]
            shape = (B, len(names), n_ctx, width) if class_specific else (B, n_ctx, width)
            contexts = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            cpu = torch.device("cpu")
            with torch.inference_mode():
                exact = TextFeatures(on(cpu, backbone), names, CTX_INIT, 1 << 30, "stock")(contexts, torch.float64)
                fast = TextFeatures(on(device, backbone), names, CTX_INIT, 1 << 30, "fast")
                for name in TOLERANCES:
                    ours = fast(contexts, getattr(torch, name)).cpu().double()
                    error = float(((ours - exact).norm(dim=-1) / exact.norm(dim=-1)).max())
                    worst[name] = max(worst[name], error)
            on(cpu, backbone)
            if device.type == "cuda":
                report.require(replay_repeats(fast, contexts), "a replayed pass gives other bits than a launched one")
    report.note("feature_errors", worst)
    for name, error in worst.items():
        report.require(error < TOLERANCES[name], f"features in {name}: error {error:.1e}, more than {TOLERANCES[name]:.0e}")
    check_gradients(device, report)
    check_image_features(device, report)


def replay_repeats(fast: TextFeatures, contexts: Tensor) -> bool:
    """Whether passes as CUDA graphs, of several shapes in turn, give the bits of passes that are not."""
    ours = {}
    for replay in (True, False):
        set_replay(fast, replay)
        ours[replay] = [fast(contexts[:B] + shift) for shift in (0, 1) for B in (1, len(contexts))]
    set_replay(fast, True)
    return all(map(torch.equal, ours[True], ours[False]))


def set_replay(text: TextFeatures, replay: bool) -> None:
    if text.engine:
        text.engine.replay = replay


def check_image_features(device: torch.device, report: Report) -> None:
    """The bundled towers' features of random pictures in float32, against float64 on the CPU."""
    errors = {}
    pictures = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for name in ("Mini", "Mini-RN"):
        with torch.inference_mode():
            ours = load_backbone(name, device).model.encode_image(pictures.to(device), normalize=True).cpu().double()
            tower = load_backbone(name, torch.device("cpu")).model.double()
            exact = tower.encode_image(pictures.double(), normalize=True)
        errors[name] = float((ours - exact).norm(dim=-1).max())
    report.note("image_feature_errors", errors)
    for name, error in errors.items():
        report.require(error < 5e-6, f"image features of {name}: error {error:.1e}, more than 5e-06")


def check_gradients(device: torch.device, report: Report) -> None:
    """CGE, forward mode and backpropagation of one objective, against backpropagation in float64 on the CPU."""
    backbone = random_tower(random.Random(1), {})
    names = ["Boeing 737-300", "Boeing 737-400", "cat", "cat", "a small dog"]
    w = 0.02 * torch.randn(16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    exact = make_objective(on(torch.device("cpu"), backbone), names, 16, 1.0, "float64")[0].gradient(w)[1]
    on_device = on(device, backbone)

    def error(gradient: Tensor) -> float:
        return float((gradient.cpu() - exact).norm() / exact.norm())

    errors, basis = {}, torch.eye(16, dtype=torch.float64)
    for precision in ("float32", "float64"):
        objective, _ = make_objective(on_device, names, 16, 1.0, precision)
        errors[f"backpropagation {precision}"] = error(objective.gradient(w)[1])
        errors[f"tangents {precision}"] = error(objective.jvp(w, basis)[1])
        errors[f"differences {precision}"] = error(cge(objective, w, 1e-3 if precision == "float32" else 1e-5)[0])
        stock, _ = make_objective(on_device, names, 16, 1.0, precision, "stock")
        errors[f"torch's forward mode {precision}"] = error(stock.jvp(w, basis)[1])
    objective, _ = make_objective(on_device, names, 16, 1.0, "float32")
    objective.tangent_precision = "bfloat16"
    errors["tangents bfloat16"] = error(objective.jvp(w, basis)[1])
    report.note("gradient_errors", errors)
    for name, value in errors.items():
        limit = {"float64": 1e-6, "bfloat16": 2.5e-2, "float32": 5e-3 if "differences" in name else 1e-5}[name.split()[-1]]
        report.require(value < limit, f"gradient by {name}: error {value:.1e}, more than {limit:.0e}")


def make_objective(
    backbone: Backbone, names: list[str], d: int, std: float, precision: str, engine: str = "fast"
) -> tuple[Objective, TextFeatures]:
    """Random image features, SHOTS per class, as tools.benchmark has them, on the backbone's device."""
    K, width = len(names), backbone.model.text_projection.shape[1]
    generator = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(SHOTS * K, width, generator=generator), dim=-1).to(backbone.device)
    images = Samples(features, (torch.arange(SHOTS * K) % K).to(backbone.device))
    projection = make_projection(context_embeddings(backbone, CTX_INIT), d, std, torch.Generator().manual_seed(1))
    text = TextFeatures(backbone, names, CTX_INIT, 4 << 30, engine)
    model = TextPrompt(projection.contexts, text_features=text, logit_scale=100.0, classes=K, width=width, memory_limit=4 << 30)
    return Objective(model, FullBatch(images, 0), precision), text


# runs


def outcome(root: Path) -> tuple[list[Row], Row]:
    """The log and the result of the run below `root`, without their times."""
    folder = next(root.rglob("result.json")).parent
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((folder / "result.json").read_text())
    return [without_times(row) for row in rows], without_times(result)


def without_times(row: Row) -> Row:
    return {key: value for key, value in row.items() if "seconds" not in key}


def check_runs(device: torch.device, report: Report, quick: bool) -> None:
    """The default run; a short one, its repeat under --deterministic, and one that is interrupted and resumed: equal bits."""
    from main_sharpzo import main

    base = report.path.parent / "runs"
    short = [str(text) for pair in SHORT_RUN.items() for text in pair] + ["--total_steps", "60" if quick else "300"]

    def run(name: str, *flags: str) -> Path:
        status = main(["--device", str(device), *flags, "--output_dir", str(base / name), "--overwrite"])
        report.require(status == 0, f"the run {name} ended with status {status}")
        return base / name

    def seconds_of(root: Path) -> float:
        return json.loads(next(root.rglob("result.json")).read_text())["seconds"]

    ends = {name: outcome(run(name, *short, "--deterministic")) for name in ("first", "second")}
    report.note("deterministic_repeats", ends["first"] == ends["second"])
    report.require(report["deterministic_repeats"], "two runs with --deterministic differ")

    resumed = ["--device", str(device), *short, "--deterministic", "--output_dir", str(base / "resumed")]
    with interrupt_at(base / "resumed", step=30):
        status = main(resumed)
    report.require(status == 3, f"the interrupted run ended with status {status}, not 3")
    same = main(resumed) == 0 and outcome(base / "resumed") == ends["first"]
    report.note("resume_repeats", same)
    report.require(same, "the resumed run does not end as the unbroken one")

    plain, reference = outcome(run("plain", *short)), outcome(run("cpu", *short, "--device", "cpu"))
    report.note("short_run_test_accuracy", {"device": plain[1]["test_accuracy"], "cpu": reference[1]["test_accuracy"]})
    report.note("short_run_seconds", {"device": seconds_of(base / "plain"), "cpu": seconds_of(base / "cpu")})
    apart = abs(plain[0][0]["train_loss"] - reference[0][0]["train_loss"])
    report.note("first_loss_apart", apart)
    report.require(apart < 1e-5, f"the loss at the first w is {apart:.1e} from the CPU's")

    if not quick:
        root = run("default")
        report.note("default_run", outcome(root)[1] | {"seconds": seconds_of(root)})


@contextlib.contextmanager
def interrupt_at(root: Path, step: int) -> Iterator[None]:
    """Sends this process SIGINT once the log of the run below `root` has reached `step`."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            if any(len(log.read_bytes().splitlines()) > step for log in root.rglob("metrics.jsonl")):
                os.kill(os.getpid(), signal.SIGINT)
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


# trainers


def check_trainers(device: torch.device, report: Report, quick: bool) -> None:
    """A few steps of every trainer must end well."""
    from main_sharpzo import main
    from trainers import TRAINERS

    flags = ["--shots", "2", "--popsize", "4", "--intrinsic_dim", "16", "--total_steps", "6", "--change_point", "3"]
    flags += ["--prune_interval", "2", "--eval_every", "3", "--overwrite", "--device", str(device)]
    names = [name for name, info in TRAINERS.items() if info.build]
    statuses = {}
    for name in names[:3] if quick else names:
        try:
            statuses[name] = main([*flags, "--prompt_trainer", name, "--output_dir", str(report.path.parent / "trainers")])
        except (RuntimeError, TypeError, ValueError, KeyError, AttributeError):
            traceback.print_exc()
            statuses[name] = 70
        report.note("trainer_statuses", statuses)
    failed = [name for name, status in statuses.items() if status]
    report.require(not failed, f"trainers that failed: {', '.join(failed)} (see trainers.log)")


# machine


def check_machine(device: torch.device, report: Report, quick: bool) -> None:
    """What the machine is, and the rates that its own library reaches."""
    report.note("device", torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor())
    report.note("torch", torch.__version__)
    report.note("tf32", {"matmul": torch.backends.cuda.matmul.allow_tf32, "precision": torch.get_float32_matmul_precision()})
    report.note("product_tflops", product_rates(device, 1024 if quick else 8192))
    flags = Path("/proc/cpuinfo")
    if flags.exists():
        words = set(flags.read_text().split())
        report.note("cpu_flags", sorted(words & {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile"}))
    torch.set_num_threads(1)
    report.note("cpu_product_tflops_one_thread", product_rates(torch.device("cpu"), 512 if quick else 2048))


def product_rates(device: torch.device, size: int) -> dict[str, float]:
    """Rates of square products of random numbers, in TFLOP/s."""
    rates = {}
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        square = torch.randn(size, size, device=device).to(dtype)
        out = torch.empty_like(square)
        taken = seconds(functools.partial(torch.mm, square, square, out=out), device, 3)
        rates[str(dtype).removeprefix("torch.")] = round(2e-12 * size**3 / taken, 3)
    return rates


# speed


def check_speed(device: torch.device, report: Report, quick: bool) -> None:
    """tools.benchmark's figures, and steps of stage 2 with and without CUDA graphs."""
    backbone = random_backbone(TEXT if not quick else TEXT | {"width": 64, "heads": 2, "layers": 3}, str(device))
    torch.set_num_threads(4 if device.type == "cuda" else 1)
    rows: list[Row] = []
    for dataset in ("eurosat",) if quick else ("eurosat", "dtd", "fgvc_aircraft", "imagenet"):
        passes = 1 if dataset == "imagenet" else 4
        rows.append(measure(dataset, class_names(dataset), backbone, 3, passes, generation=False, tangents=True))
        if device.type == "cuda":
            rows[-1] |= steps_per_second(dataset, backbone)
        report.note("rows", rows)
    (report.path.parent / "speed.md").write_text(table(rows) + "\n\n" + tangent_table(rows) + "\n", encoding="utf-8")
    if device.type == "cuda":
        report.note("profiles", {way: profile(backbone, "fgvc_aircraft", way) for way in ("queries", "tangents")})


def steps_per_second(dataset: str, backbone: Backbone) -> dict[str, float]:
    """Steps of stage 2, two queries each, with and without CUDA graphs."""
    objective, text = make_objective(backbone, class_names(dataset), DIMENSION, projection_std(dataset), "auto")
    W = 0.02 * torch.randn(2, DIMENSION, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    rates = {}
    for name, replay in (("steps_per_second", True), ("steps_per_second_without_graphs", False)):
        set_replay(text, replay)
        rates[name] = 1 / seconds(lambda: objective(W), backbone.device, 3, 20)
    return rates


def profile(backbone: Backbone, dataset: str, way: str) -> list[str]:
    """The kernels that take most of the device's time in a pass of queries, or of tangents in bfloat16."""
    objective, text = make_objective(backbone, class_names(dataset), DIMENSION, projection_std(dataset), "float32")
    objective.tangent_precision = "bfloat16"
    W = torch.eye(DIMENSION, dtype=torch.float64)[: text.chunk(torch.float32)]

    def work() -> None:
        if way == "queries":
            objective(W)
        else:
            objective.jvp(W[0], W)

    work()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        work()
        synchronize(backbone.device)
    events = sorted(found.key_averages(), key=lambda event: -event.self_device_time_total)
    total = sum(event.self_device_time_total for event in events) or 1.0
    return [f"{event.self_device_time_total / total:.1%} {event.count} × {event.key[:110]}" for event in events[:16]]


# the whole


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
    """What the parts found; one that did not reach its end has failed."""
    found = {name: json.loads(path.read_text()) for name in CHECKS if (path := output / f"{name}.json").exists()}
    for name, status in statuses.items():
        part = found.setdefault(name, {"failures": []})
        if "seconds" not in part:
            last = ((output / f"{name}.log").read_text().splitlines() or [""])[-1]
            part["failures"].append(f"{name} broke off with status {status}: {last} (see {name}.log)")
    return found


def markdown(found: dict[str, Row]) -> str:
    """What was found, as a table of speeds, a list of the rest, and what is not as it should be."""
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
    return "\n".join([*lines, "", "Not as it should be:" if failures else "All as it should be.", *failures]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, default=Path("gpu_check"))
    parser.add_argument("--quick", action="store_true", help="small towers and few steps, to try the check itself")
    parser.add_argument("--part", choices=tuple(CHECKS), help="only this part, in this process")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(f"error: --device: {device}: this machine has no CUDA device", file=sys.stderr)
        return 2
    arguments.output.mkdir(parents=True, exist_ok=True)
    if arguments.part:
        return run_part(arguments.part, device, arguments.output, arguments.quick)

    def start(name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tools.maintain.gpu_check", "--part", name, *sys.argv[1:]]
        log = (arguments.output / f"{name}.log").open("w")
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    # these share the device; speeds are measured alone
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
