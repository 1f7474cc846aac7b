"""Replays a recording of the authors' released code with our code under `--fidelity released`.

    python -m tools.maintain.replay_trace released_trace.npz

Prints the largest deviation of each quantity from the recording, and its limit; exit status 1 if a limit is exceeded. The
recording's random stream replaces ours: one numpy RandomState for pycma and for the seeds of stage 2.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor

from clip.backbone import Backbone
from clip.prompt import Projection
from clip.text import TextFeatures
from tools.common.cli import user_path
from trainers.blackbox.batches import FullBatch
from trainers.blackbox.cmaes import CMAES
from trainers.blackbox.estimators import CGE, RGE
from trainers.blackbox.masks import Dense
from trainers.blackbox.objective import Objective
from trainers.blackbox.samples import Samples
from trainers.blackbox.text_prompt import TextPrompt
from trainers.sharpzo.released import ReleasedCMAES, ReleasedSparseZO
from utils.setting_kinds import RELEASED

CTX_INIT = "a photo of a"
# tolerances for float32 operations in a different order
LIMITS = {"candidates": 1e-9, "fitness": 2e-6, "epsilon": 1e-2, "w": 1e-3, "accuracy": 0.0}


@dataclass(frozen=True)
class Trace:
    """A recording: its settings, and its arrays as tensors by name."""

    settings: dict[str, Any]
    arrays: dict[str, Tensor]


def read_trace(path: Path) -> Trace:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "settings"}
        return Trace(json.loads(str(file["settings"])), arrays)


def build_objective(trace: Trace, engine: str) -> Objective:
    """Our own prompt, text path and objective on the recorded text tower, projection and features."""
    arrays = trace.arrays
    state = {name.removeprefix("text."): tensor for name, tensor in arrays.items() if name.startswith("text.")}
    width, embed_dim = state["text_projection"].shape
    layers = sum(name.endswith("ln_1.weight") for name in state)
    heads = trace.settings["heads"]
    text_cfg = {"context_length": 77, "vocab_size": 49408, "width": width, "heads": heads, "layers": layers}
    vision_cfg = {"image_size": 32, "patch_size": 32, "layers": 1, "width": 32, "head_width": 32}
    model = open_clip.model.CLIP(embed_dim, vision_cfg, text_cfg, quick_gelu=True).eval().requires_grad_(False)
    missing, unexpected = model.load_state_dict(state, strict=False)
    stub = ("visual.", "token_", "logit_")
    assert not unexpected and all(name.startswith(stub) for name in missing), (missing, unexpected)
    model.token_embedding.weight.data[arrays["token_ids"]] = arrays["token_rows"]
    tokenizer = open_clip.SimpleTokenizer(context_length=77)
    preprocess = open_clip.transform.image_transform(32, False)
    backbone = Backbone("recorded", model, tokenizer, preprocess, torch.device("cpu"))
    text = TextFeatures(backbone, trace.settings["names"], CTX_INIT, 1 << 30, engine)
    p0 = model.token_embedding.weight[tokenizer.encode(CTX_INIT)].double()
    projection = Projection(p0, arrays["A"].double())
    images = Samples(arrays["train_features"], arrays["train_labels"])
    model = TextPrompt(
        projection.contexts,
        text_features=text,
        logit_scale=100.0,
        classes=len(trace.settings["names"]),
        width=images.inputs.shape[1],
    )
    return Objective(model, FullBatch(images, encoded=0))


class RecordedFitness:
    """Our losses for the gradient; for the candidates, the recorded losses, after comparing ours with them."""

    def __init__(self, trace: Trace, objective: Objective, stage1: ReleasedCMAES, note: Callable[[str, Tensor], None]):
        self.trace, self.objective, self.stage1, self.note = trace, objective, stage1, note
        self.step = 0

    def __call__(self, W: Tensor, mu: float | None = None) -> Tensor:
        gradient, arrays = self.stage1.gradient, self.trace.arrays
        if mu is not None or gradient is None:
            return self.objective(W, mu)
        x, epsilon = arrays["stage1_candidates"][self.step], arrays["stage1_epsilon"][self.step].double()
        ours = self.stage1.rho * gradient / gradient.norm()
        self.note("candidates", W - ours - x)
        self.note("epsilon", (ours - epsilon) / epsilon.norm())
        fitness = arrays["stage1_fitness"][self.step]
        self.note("fitness", (self.objective(x + epsilon) - fitness) / fitness.max())
        self.step += 1
        return fitness

    def gradient(self, w: Tensor, trained: Mapping[str, Tensor] | None = None, /) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("the released code never backpropagates")

    def jvp(self, w: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("the released code has no forward mode")


def replay(trace: Trace, engine: str = "fast") -> dict[str, float]:
    """The largest deviation of each recorded quantity."""
    settings, arrays = trace.settings, trace.arrays
    objective = build_objective(trace, engine)
    stream = np.random.RandomState(settings["seed"])
    worst = dict.fromkeys(LIMITS, 0.0)

    def note(quantity: str, difference: Tensor) -> None:
        worst[quantity] = max(worst[quantity], float(difference.abs().max()))

    zeros = torch.zeros(settings["intrinsic_dim"], dtype=torch.float64)
    cmaes = CMAES(zeros, sigma=settings["sigma"], popsize=settings["popsize"], bound=settings["bound"], normal=stream.randn)
    stage1 = ReleasedCMAES(
        cmaes,
        rho=settings["rho"],
        estimator=CGE(mu=settings["zo_eps_cge"]),
        departures=RELEASED,
        first_mean=arrays["w0_population"].double().mean(0),
    )
    fitness = RecordedFitness(trace, objective, stage1, note)
    accuracies = dict(zip(arrays["eval_step"].tolist(), arrays["eval_accuracy"].tolist(), strict=True))
    test = Samples(arrays["test_features"], arrays["test_labels"])

    def check_accuracy(step: int, w: Tensor) -> None:
        if step in accuracies:
            worst["accuracy"] = max(worst["accuracy"], abs(100 * objective.accuracy(w, test) - accuracies[step]))

    for step in range(settings["change_point"]):
        stage1.step(fitness)
        check_accuracy(step, stage1.solution)

    def normal(*shape: int) -> Tensor:
        seed = int(stream.randint(10**9))
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()

    stage2 = ReleasedSparseZO(
        stage1.solution,
        lr=settings["zo_lr"],
        estimator=RGE(mu=settings["zo_eps_rge"], normal=normal),
        pruning=Dense(),
        departures=RELEASED,
        rows=settings["popsize"],
    )
    if stage1.gradient is not None:
        stage2.set_buffer(stage1.gradient)
    for step in range(settings["change_point"], settings["total_steps"]):
        stage2.step(objective)
        note("w", stage2.solution - arrays["stage2_w"][step - settings["change_point"]])
        check_accuracy(step, stage2.solution)
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=user_path, help="recording, as an npz file")
    parser.add_argument("--engine", choices=("fast", "stock"), default="fast")
    arguments = parser.parse_args()
    worst = replay(read_trace(arguments.trace), arguments.engine)
    for quantity, value in worst.items():
        verdict = "ok" if value <= LIMITS[quantity] else "TOO FAR"
        print(f"{quantity:<12}{value:10.2e}   limit {LIMITS[quantity]:.0e}   {verdict}")
    return int(any(value > LIMITS[quantity] for quantity, value in worst.items()))


if __name__ == "__main__":
    sys.exit(main())
