"""Times the scoring engine against open_clip's own text tower, at the real size of ViT-B/16's, with nothing downloaded.

    python -m tools.benchmark                                       # eurosat dtd caltech101 fgvc_aircraft, about 10 minutes
    python -m tools.benchmark --datasets imagenet --rounds 1        # slow: the stock tower takes minutes a query
    python -m tools.benchmark --threads 1 --output benchmark.json
    python -m tools.benchmark --datasets eurosat --generation       # one whole stage-1 step, and the error of its gradient
    python -m tools.benchmark --tangents --threads 1                # also ∇L by the tangent engine against central differences

Weights and image features are random, class names are the datasets'. Stock, engine, and the machine's own rate at square
2048 float32 products are measured in turn, round by round, and medians are reported. `peak_fraction` is the rate at which
the engine does the multiply-adds that distinct prompt positions need (padding not counted), over that rate.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from clip.backbone import Backbone
from clip.engine import Engine
from clip.prompt import Projection, context_embeddings, make_projection
from clip.text import TextFeatures
from tools.common.cli import command, make_parser, user_path
from tools.common.pass_memory import most_allocated
from tools.common.tables import Table
from tools.common.tangent_costs import measure_tangents, tangent_table
from trainers.blackbox.batches import FullBatch
from trainers.blackbox.cmaes import CMAES
from trainers.blackbox.estimators import CGE
from trainers.blackbox.gradients import cge
from trainers.blackbox.objective import Objective, Samples
from trainers.blackbox.text_prompt import TextPrompt
from trainers.sharpzo.stage1 import SharpnessAwareCMAES
from utils.config import REPOSITORY
from utils.device import device_name, pick_device
from utils.documents import read_yaml
from utils.seeds import numpy_generator, torch_generator

CTX_INIT = "a photo of a"
D_INTRINSIC = 512
SHOTS = 16
DEFAULT = ("eurosat", "dtd", "caltech101", "fgvc_aircraft")
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
# classes whose features are compared with a float64 pass of open_clip's tower, which is slow
CHECKED_CLASSES = 100
# of the square products that the rate of a device is measured by
PEAK_SIZE = {"cpu": 2048, "cuda": 8192}


def class_names(dataset: str) -> list[str]:
    if dataset == "imagenet":
        return list(open_clip.IMAGENET_CLASSNAMES)
    return json.loads(Path(__file__).with_name("common").joinpath("classnames.json").read_text(encoding="utf-8"))[dataset]


def projection_std(dataset: str) -> float:
    """The std of A in the dataset's own YAML: the noise of finite differences depends on it."""
    return float(read_yaml(REPOSITORY / "configs" / f"{dataset}.yaml")["std"].value)


def random_backbone(text: dict[str, int], device: str = "cpu") -> Backbone:
    """A CLIP whose text tower has the sizes `text` and weights of a plausible scale; its image tower is a stub."""
    vision = {"image_size": 32, "patch_size": 32, "layers": 1, "width": 32, "head_width": 32}
    model = open_clip.model.CLIP(text["width"], vision, text, quick_gelu=True)
    generator = torch_generator(0, "benchmark weights")
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.data.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)
    model = model.eval().requires_grad_(False).to(device)
    tokenizer = open_clip.SimpleTokenizer(context_length=text["context_length"])
    return Backbone("random", model, tokenizer, open_clip.transform.image_transform(32, False), torch.device(device))


def multiply_adds(engine: Engine, images: int, d: int) -> int:
    """What one query must multiply: distinct tree nodes, attention links, read-out, projection A and logits."""
    tree = engine.tree()
    w, D = engine.folded.readout.shape
    layers, rows, leaves = len(engine.folded.layers), len(tree), len(tree.leaf_rows)
    products = (layers - 1) * rows * 12 * w * w - len(tree.tokens) * 3 * w * w
    products += rows * 2 * w * w + leaves * 10 * w * w
    attention = 2 * w * ((layers - 1) * tree.rows.links + tree.leaves.links)
    return products + attention + leaves * w * D + tree.n_ctx * w * d + images * len(tree.leaf_of_class) * D


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peak_memory(device: torch.device) -> float:
    """The device's or, on the CPU, the process's high-water mark since the last reset, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


@dataclass(frozen=True)
class Subject:
    """What is measured for one list of class names: the same objective by both paths, and points to ask for."""

    names: list[str]
    projection: Projection
    fast: TextFeatures
    by_engine: Objective
    by_stock: Objective
    W: Tensor


def make_subject(names: list[str], backbone: Backbone, d: int, std: float) -> Subject:
    """Random image features (SHOTS a class), a random projection of entries N(0, std²), and d random points."""
    K, N = len(names), SHOTS * len(names)
    generator = torch_generator(0, "benchmark images")
    width = backbone.model.text_projection.shape[1]
    features = F.normalize(torch.randn(N, width, generator=generator), dim=-1).to(backbone.device)
    images = Samples(features, (torch.arange(N) % K).to(backbone.device))
    projection = make_projection(context_embeddings(backbone, CTX_INIT), d, std, torch_generator(0, "projection"))
    W = 0.02 * torch.randn(d, d, generator=generator, dtype=torch.float64)
    fast, stock = (TextFeatures(backbone, names, CTX_INIT, 1 << 30, engine) for engine in ("fast", "stock"))
    by_engine, by_stock = (
        Objective(
            TextPrompt(projection.contexts, text_features=text, logit_scale=100.0, classes=K, width=width), FullBatch(images, 0)
        )
        for text in (fast, stock)
    )
    return Subject(names, projection, fast, by_engine, by_stock, W)


def feature_error(subject: Subject, backbone: Backbone) -> float:
    """‖t − t₆₄‖ / ‖t₆₄‖ of the worst row, against open_clip's tower in float64."""
    every = -(-len(subject.names) // CHECKED_CLASSES)
    contexts = subject.projection.contexts(subject.W[:1])
    with torch.inference_mode():
        exact = TextFeatures(backbone, subject.names[::every], CTX_INIT, 1 << 30, "stock")(contexts, torch.float64)[0]
        ours = subject.fast(contexts)[0][::every].double()
    return float(((ours - exact).norm(dim=-1) / exact.norm(dim=-1)).max())


def measure_generation(subject: Subject) -> dict[str, float]:
    """One stage-1 step at S = 40: its time, the share of it spent outside the text features, and the error of its gradient."""
    w, d = subject.W[0], subject.projection.d
    spent = 0.0

    def text(contexts: Tensor, dtype: torch.dtype) -> Tensor:
        nonlocal spent
        started = time.perf_counter()
        features = subject.fast(contexts, dtype)
        spent += time.perf_counter() - started
        return features

    objective = replace_text(subject.by_engine, text)
    generator = numpy_generator(0, "CMA-ES")
    inner = CMAES(w, sigma=0.4, popsize=40, bound=5.0, normal=lambda n, size: generator.standard_normal((n, size)))
    stage = SharpnessAwareCMAES(inner, rho=0.1, estimator=CGE(mu=1e-3))
    stage.step(objective)
    spent = 0.0
    seconds = timed(lambda: stage.step(objective))
    share = 1 - spent / seconds

    exact_objective = replace_text(subject.by_engine, subject.fast)
    exact_objective.precision = "float64"
    exact = exact_objective.gradient(w)[1]
    errors = {}
    for name, mu in (("cge_error_float32", 1e-3), ("cge_error_float64", 1e-5)):
        gradient, _ = cge(subject.by_engine, w, mu)
        errors[name] = float((gradient - exact).norm() / exact.norm())
    return {"generation_seconds": seconds, "queries_a_generation": 2 * d + 40, "share_outside_text": share} | errors


def replace_text(objective: Objective, text: Callable[..., Tensor]) -> Objective:
    """The same objective on other text features."""
    model: Any = objective.model
    return Objective(model.with_text_features(text), objective.next_batch)


def square_product(device: torch.device) -> Callable[[], object]:
    """A product of two square matrices on the device, done when it returns."""
    size = PEAK_SIZE[device.type]
    square = torch.randn(size, size, generator=torch_generator(0, "benchmark product")).to(device)
    product = torch.empty_like(square)

    def multiply() -> None:
        torch.mm(square, square, out=product)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return multiply


def measure(
    dataset: str, names: list[str], backbone: Backbone, rounds: int, passes: int, generation: bool, tangents: bool = False
) -> dict[str, object]:
    """One row of the table for class names `names`: `passes` engine passes, one stock query and a product a round."""
    subject = make_subject(names, backbone, D_INTRINSIC, projection_std(dataset))
    fast, by_engine, by_stock, W = subject.fast, subject.by_engine, subject.by_stock, subject.W
    chunk = fast.chunk(torch.float32)
    batch = W[: min(len(W), chunk * passes)]
    multiply = square_product(backbone.device)

    if fast.engine is None:
        raise RuntimeError(fast.warnings[-1])
    pass_bytes = most_allocated(lambda: by_engine(batch[:chunk]), backbone.device)
    reset_peak_memory(backbone.device)
    by_engine(batch)
    memory = peak_memory(backbone.device)
    multiply()
    by_stock(W[:1])
    by_engine(W[:2])
    double = timed(lambda: by_engine(batch, mu=1e-5)) if passes > 1 else 0.0
    times: dict[str, list[float]] = {"stock": [], "engine": [], "step": [], "double": [], "peak": []}
    for _ in range(rounds):
        times["peak"].append(timed(multiply))
        times["engine"].append(timed(lambda: by_engine(batch)) / len(batch))
        # steps follow one another in a run, so the first, on cold caches, is not typical
        times["step"] += [timed(lambda: by_engine(W[:2])) for _ in range(4)][1:]
        times["peak"].append(timed(multiply))
        times["stock"].append(timed(lambda: by_stock(W[:1])))
        if double:
            times["double"].append(timed(lambda: by_engine(batch, mu=1e-5)) / len(batch))
    median = {name: statistics.median(values) for name, values in times.items() if values}
    peak = 2 * PEAK_SIZE[backbone.device.type] ** 3 / median["peak"]
    work = 2 * multiply_adds(fast.engine, len(by_engine.next_batch()), D_INTRINSIC)

    extra = measure_generation(subject) if generation else {}
    extra |= measure_tangents(by_engine, fast, W[0], rounds, passes) if tangents else {}
    return {
        "dataset": dataset,
        "classes": len(names),
        "images": len(by_engine.next_batch()),
        "threads": torch.get_num_threads(),
        "device": device_name(backbone.device),
        "coordinates": D_INTRINSIC,
        "rows_a_query": len(fast.engine.tree()),
        "queries_per_pass": chunk,
        "stock_seconds": median["stock"],
        "engine_seconds": median["engine"],
        "ratio": median["stock"] / median["engine"],
        "peak_gflops": peak / 1e9,
        "peak_fraction": work / median["engine"] / peak,
        "ratio_limit": median["stock"] * peak / work,
        "stage2_step_seconds": median["step"],
        "stage2_peak_fraction": 2 * work / median["step"] / peak,
        "float64_over_float32": median.get("double", 0.0) / median["engine"] or None,
        "engine_peak_gib": memory,
        "pass_mib": pass_bytes / 2**20,
        "modeled_pass_mib": fast.engine.pass_bytes(torch.float32) / 2**20,
        "max_feature_error": feature_error(subject, backbone),
        "rounds": rounds,
        **extra,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    heads = (
        "names, N",
        "threads",
        "stock, s",
        "engine, s",
        "ratio",
        "share of peak",
        "limit",
        "step, s",
        "step's share",
        "f64/f32",
    )
    measured = Table("Engine against open_clip", [*heads, "GiB", "pass, MiB (model)", "error"])
    for r in rows:
        double = f"{r['float64_over_float32']:.2f}" if r["float64_over_float32"] else "–"
        cells = (
            f"{r['dataset']} {r['classes']}, {r['images']}",
            str(r["threads"]),
            f"{r['stock_seconds']:.3g}",
            f"{r['engine_seconds']:.3g}",
            f"{r['ratio']:.1f}",
            f"{r['peak_fraction']:.2f}",
            f"{r['ratio_limit']:.1f}",
            f"{r['stage2_step_seconds']:.3g}",
            f"{r['stage2_peak_fraction']:.2f}",
            double,
            f"{r['engine_peak_gib']:.2f}",
            f"{r['pass_mib']:.0f} ({r['modeled_pass_mib']:.0f})",
            f"{r['max_feature_error']:.1e}",
        )
        measured.rows.append(cells)
    return measured.grid()


@command
def main(argv: list[str]) -> int:
    parser = make_parser("tools.benchmark", __doc__)
    parser.add_argument("--datasets", nargs="+", default=DEFAULT, choices=(*DEFAULT, "imagenet"))
    parser.add_argument("--threads", type=int, help="default: PyTorch's choice")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passes", type=int, default=4, help="engine passes per round")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 …")
    parser.add_argument("--tangents", action="store_true", help="also time ∇L by the tangent engine and by differences")
    parser.add_argument("--generation", action="store_true", help="also time one stage-1 step and check its gradient")
    parser.add_argument("--output", type=user_path, help="also write the rows as JSON")
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    backbone = random_backbone(TEXT, str(pick_device(arguments.device)))
    rows = []
    for dataset in arguments.datasets:
        options = arguments.rounds, arguments.passes, arguments.generation, arguments.tangents
        rows.append(measure(dataset, class_names(dataset), backbone, *options))
        print(f"{dataset}: done", file=sys.stderr, flush=True)
    print(table(rows))
    if arguments.tangents:
        print(f"\nPer coordinate; a tangent counts as one query, a central difference as two.\n\n{tangent_table(rows)}\n")
    print(f"torch {torch.__version__}, {rows[0]['device']}, peak {rows[0]['peak_gflops']:.0f} GFLOP/s")
    for row in rows:
        if "generation_seconds" in row:
            print(
                f"{row['dataset']}: a generation of {row['queries_a_generation']} queries takes "
                f"{row['generation_seconds']:.1f} s, {row['share_outside_text']:.1%} of it outside the text "
                f"features; CGE against autograd in float64: "
                f"{row['cge_error_float32']:.1e} (float32, μ 1e-3), {row['cge_error_float64']:.1e} (float64, μ 1e-5)"
            )
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
