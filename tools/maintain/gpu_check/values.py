"""Features and gradients of random towers, and image features, against float64 on the CPU."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from clip.backbone import Backbone, load_backbone
from clip.text import TextFeatures
from tools.common.engine_costs import random_backbone
from tools.maintain.gpu_check.report import CTX_INIT, Report, make_objective, on, set_replay
from trainers.blackbox.gradients import cge

WORDS = ("red", "blue", "Boeing", "737", "-", "small", "dog", "river", "of", "the", "a")
TOWERS: tuple[dict[str, int], ...] = (
    {},
    {"layers": 1},
    {"heads": 4, "layers": 3},
    {"context_length": 32, "heads": 1},
    {"width": 128, "heads": 2, "layers": 4},
)
Row = dict[str, Any]
# the largest relative error of a row that is allowed in each precision on these towers
TOLERANCES = {"float64": 1e-12, "float32": 3e-6, "bfloat16": 0.1, "float16": 0.02}


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
                report.require(replay_repeats(fast, contexts), "a replayed pass differs in its bits from a launched one")
    report.note("feature_errors", worst)
    for name, error in worst.items():
        report.require(error < TOLERANCES[name], f"features in {name}: error {error:.1e}, more than {TOLERANCES[name]:.0e}")
    check_gradients(device, report)
    check_image_features(device, report)


def replay_repeats(fast: TextFeatures, contexts: Tensor) -> bool:
    """Whether passes as CUDA graphs, of several shapes in turn, give the bits of passes without graphs."""
    ours = {}
    for replay in (True, False):
        set_replay(fast, replay)
        ours[replay] = [fast(contexts[:B] + shift) for shift in (0, 1) for B in (1, len(contexts))]
    set_replay(fast, True)
    return all(map(torch.equal, ours[True], ours[False]))


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
