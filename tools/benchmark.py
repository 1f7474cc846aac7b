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
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from clip.backbone import Backbone
from tools.common.cli import command, make_parser, user_path
from tools.common.engine_costs import (
    D_INTRINSIC,
    PEAK_SIZE,
    TEXT,
    Subject,
    class_names,
    feature_error,
    make_subject,
    measure_generation,
    multiply_adds,
    peak_memory,
    projection_std,
    random_backbone,
    reset_peak_memory,
    square_product,
    timed,
)
from tools.common.pass_memory import most_allocated
from tools.common.tables import Table
from tools.common.tangent_costs import measure_tangents, tangent_table
from utils.device import device_name, pick_device

DEFAULT = ("eurosat", "dtd", "caltech101", "fgvc_aircraft")


def measure(
    dataset: str, names: list[str], backbone: Backbone, rounds: int, passes: int, generation: bool, tangents: bool = False
) -> dict[str, object]:
    """One row of the table for class names `names`: `passes` engine passes, one stock query and a product per round."""
    subject = make_subject(names, backbone, D_INTRINSIC, projection_std(dataset))
    fast, by_engine, W = subject.fast, subject.by_engine, subject.W
    chunk = fast.chunk(torch.float32)
    batch = W[: min(len(W), chunk * passes)]
    multiply = square_product(backbone.device)

    if fast.engine is None:
        raise RuntimeError(fast.warnings[-1])
    pass_bytes = most_allocated(lambda: by_engine(batch[:chunk]), backbone.device)
    reset_peak_memory(backbone.device)
    by_engine(batch)
    memory = peak_memory(backbone.device)
    median = median_times(subject, batch, multiply, rounds, double=passes > 1)
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


def median_times(subject: Subject, batch: Tensor, multiply: Callable[[], object], rounds: int, double: bool) -> dict[str, float]:
    """Median seconds: "stock" and "engine" per query, "double" per float64 query, "step" of stage 2, "peak" of `multiply`."""
    by_engine, by_stock, W = subject.by_engine, subject.by_stock, subject.W
    multiply()
    by_stock(W[:1])
    by_engine(W[:2])
    if double:
        by_engine(batch, mu=1e-5)
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
    return {name: statistics.median(values) for name, values in times.items() if values}


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
    parser.add_argument(
        "--tower_weights", choices=("float32", "bfloat16", "int8"), default="float32", help="of the engine's tower"
    )
    parser.add_argument("--tangents", action="store_true", help="also time ∇L by the tangent engine and by differences")
    parser.add_argument("--generation", action="store_true", help="also time one stage-1 step and check its gradient")
    parser.add_argument("--output", type=user_path, help="also write the rows as JSON")
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    backbone = random_backbone(TEXT, str(pick_device(arguments.device))).with_tower_weights(arguments.tower_weights)
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
