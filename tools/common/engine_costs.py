"""What tools.benchmark measures: random towers at the real size, both scoring paths on them, and their time, memory and error."""

from __future__ import annotations

import json
import resource
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
from trainers.blackbox.batches import FullBatch
from trainers.blackbox.cmaes import CMAES
from trainers.blackbox.estimators import CGE
from trainers.blackbox.gradients import cge
from trainers.blackbox.objective import Objective
from trainers.blackbox.samples import Samples
from trainers.blackbox.text_prompt import TextPrompt
from trainers.sharpzo.stage1 import SharpnessAwareCMAES
from utils.config import REPOSITORY
from utils.documents import read_yaml
from utils.numbers import ceil_div
from utils.seeds import numpy_generator, torch_generator

CTX_INIT = "a photo of a"
D_INTRINSIC = 512
SHOTS = 16
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
# classes whose features are compared with a float64 pass of open_clip's tower, which is slow
CHECKED_CLASSES = 100
# of the square products that the rate of a device is measured by
PEAK_SIZE = {"cpu": 2048, "cuda": 8192}


def class_names(dataset: str) -> list[str]:
    if dataset == "imagenet":
        return list(open_clip.IMAGENET_CLASSNAMES)
    return json.loads(Path(__file__).with_name("classnames.json").read_text(encoding="utf-8"))[dataset]


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
    layers, rows, leaves = engine.folded.depth, len(tree), len(tree.leaf_rows)
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
    every = ceil_div(len(subject.names), CHECKED_CLASSES)
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
