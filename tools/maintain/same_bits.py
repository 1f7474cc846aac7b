"""Runs every trainer in two checkouts and prints where their results differ.

    python -m tools.maintain.same_bits OLD_CHECKOUT NEW_CHECKOUT --work DIR [--only NAME …]

Each case is a run of the embedded default (digits, Mini CLIP) of about 2000 queries on one thread. Compared are every line of
metrics.jsonl without its seconds, the tensors of prompt.safetensors bit for bit, and the test accuracy. Runs in DIR are
reused, so the runs of one old checkout serve many comparisons. Exit status 0 if nothing differs, 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open

from tools.common.cli import user_path

# two-stage trainers change stages early, so that both stages run within the budget
TWO_STAGES = ("--change_point", "2", "--prune_interval", "20", "--max_queries", "3000")
STAGE2 = ("mezo", "sparse-mezo", "cge", "zo-sign", "zo-momentum", "zo-adam", "zo-conservative", "forward-gradient", "polystep")
TRAINERS = (
    *("fo", "bbt", "zip", "craft", "blackvip", "bpt-vlm", "mezo", "sparse-mezo", "cge", "zo-sign", "zo-momentum", "zo-adam"),
    *("zo-conservative", "forward-gradient", "lozo", "polystep", "rank-sgd", "sep-cma", "spsa"),
)
CASES: dict[str, tuple[str, ...]] = (
    {
        "zo-pruned": ("--prompt_trainer", "zo-pruned", *TWO_STAGES),
        "zo": ("--prompt_trainer", "zo", *TWO_STAGES),
        "cma-es": ("--prompt_trainer", "cma-es", "--max_queries", "2000"),
        "magnitude": ("--prompt_trainer", "zo-pruned", "--pruning", "magnitude", *TWO_STAGES),
        "auto": ("--prompt_trainer", "zo-pruned", "--change_point", "auto", "--max_queries", "2000"),
        "released": ("--prompt_trainer", "zo", "--fidelity", "released", *TWO_STAGES),
        "keep-lowest": ("--prompt_trainer", "zo-pruned", "--fidelity", "abs-score,keep-lowest,gradient-buffer", *TWO_STAGES),
        "coop": ("--prompt_trainer", "coop", "--epochs", "10"),
        "csc": ("--prompt_trainer", "coop", "--csc", "--epochs", "5"),
        "deep": ("--prompt_trainer", "bpt-vlm", "--deep", "--max_queries", "1500"),
        "slope": ("--prompt_trainer", "zo-sign", "--sign_of", "slope", "--max_queries", "500"),
        "cge-forward": (
            *("--prompt_trainer", "cge", "--cge_differences", "forward", "--cge_share", "0.3"),
            *("--max_queries", "2000"),
        ),
        "full": ("--prompt_trainer", "zo-pruned", "--prompt_space", "full", *TWO_STAGES),
        "zero-shot": ("--prompt_trainer", "zero-shot"),
    }
    | {name: ("--prompt_trainer", name, "--max_queries", "1000" if name == "blackvip" else "2000") for name in TRAINERS}
    | {f"then-{name}": ("--prompt_trainer", "zo-pruned", "--stage2", name, *TWO_STAGES) for name in STAGE2}
    | {
        f"smoothness-{name}": ("--prompt_trainer", "cma-es", "--smoothness_estimator", name, "--max_queries", "1000")
        for name in ("zo-forward", "rge", "jvp", "fo", "none")
    }
)


def run(checkout: Path, output: Path, flags: tuple[str, ...]) -> Path:
    """Runs one case in `checkout`, unless `output` contains it already; returns its run folder."""
    if not list(output.glob("**/result.json")):
        common = ("--threads", "1", "--seed", "1", "--eval_every", "50", "--output_dir", str(output), "--overwrite")
        command = [sys.executable, "main_sharpzo.py", *flags, *common]
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{checkout}: {' '.join(command)}: {done.stderr.strip()[-2000:]}")
    (result,) = output.glob("**/result.json")
    return result.parent


def differences(old: Path, new: Path) -> Iterator[str]:
    """One line for each difference between two run folders."""
    lines = [[_without_seconds(line) for line in (path / "metrics.jsonl").read_text().splitlines()] for path in (old, new)]
    if len(lines[0]) != len(lines[1]):
        yield f"metrics.jsonl: {len(lines[0])} lines, now {len(lines[1])}"
    for number, (before, after) in enumerate(zip(*lines, strict=False), 1):
        keys = [key for key in before | after if before.get(key) != after.get(key)]
        if keys:
            shown = ", ".join(f"{key} {before.get(key)} → {after.get(key)}" for key in keys)
            yield f"metrics.jsonl, line {number}: {shown}"
            break
    prompts = [path / "prompt.safetensors" for path in (old, new)]
    if [path.exists() for path in prompts] == [True, True]:
        with safe_open(prompts[0], "pt") as before, safe_open(prompts[1], "pt") as after:
            if set(before.keys()) != set(after.keys()):
                yield f"prompt.safetensors: holds {sorted(before.keys())}, now {sorted(after.keys())}"
            for name in set(before.keys()) & set(after.keys()):
                if before.get_tensor(name).numpy().tobytes() != after.get_tensor(name).numpy().tobytes():
                    yield f"prompt.safetensors: {name} differs"
    elif prompts[0].exists() != prompts[1].exists():
        yield "prompt.safetensors: only one run wrote it"
    accuracies = [json.loads((path / "result.json").read_text())["test_accuracy"] for path in (old, new)]
    if accuracies[0] != accuracies[1]:
        yield f"test accuracy {accuracies[0]}, now {accuracies[1]}"


def _without_seconds(line: str) -> dict[str, object]:
    return {key: value for key, value in json.loads(line).items() if "seconds" not in key}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=user_path)
    parser.add_argument("new", type=user_path)
    parser.add_argument("--work", type=user_path, required=True, help="folder for the runs: DIR/CHECKOUT_NAME/CASE")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    arguments = parser.parse_args()
    different = 0
    for name in arguments.only:
        folders = []
        for label, checkout in (("old", arguments.old), ("new", arguments.new)):
            folders.append(run(checkout.resolve(), arguments.work.resolve() / label / name, CASES[name]))
        found = list(differences(*folders))
        print(f"{name}: {'; '.join(found) or 'same'}", flush=True)
        different += bool(found)
    print(f"{different} of {len(arguments.only)} cases differ")
    return min(different, 1)


if __name__ == "__main__":
    sys.exit(main())
