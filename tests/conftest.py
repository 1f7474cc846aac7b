"""Shared stand-ins: a tiny random CLIP in open_clip's architecture, a quadratic loss, and the real data if it is available."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import open_clip
import pytest
import torch
from hypothesis import settings
from open_clip.model import CLIP
from torch import Tensor

from clip.backbone import Backbone
from main_sharpzo import main
from tests.helpers.runs import FLAGS, Broken, folder_of, outcome
from utils import progress

MINI: list[Backbone] = []
CLASSNAMES = ("red square", "blue_circle", "a small dog", "river")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run tests marked slow")


def pytest_configure(config: pytest.Config) -> None:
    """How many inputs tests/runs/test_fuzz.py tries: the same few each time, or many new ones."""
    settings.register_profile("ordinary", max_examples=40, derandomize=True, database=None)
    settings.register_profile("slow", max_examples=1000, print_blob=True)
    settings.load_profile("slow" if config.getoption("--run-slow") else "ordinary")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--run-slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow; give --run-slow"))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Image features that tests compute are cached apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def no_progress_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the short runs of the tests would log progress among the lines that tests compare."""
    monkeypatch.setattr(progress, "LEAST_SECONDS", math.inf)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real splits, lists and images that SHARPZO_TEST_DATA names; tests that need it skip without."""
    folder = os.environ.get("SHARPZO_TEST_DATA")
    if not folder:
        pytest.skip("SHARPZO_TEST_DATA is not set: it names a folder of real CoOp splits, few-shot lists and images")
    return Path(folder)


def make_tiny_backbone(seed: int = 0, vision: dict[str, int] | None = None, **text: int) -> Backbone:
    """A random CLIP of width 32: two text layers, 77 positions, CLIP's tokenizer, 32 × 32 images."""
    text_cfg = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2} | text
    vision_cfg = {"image_size": 32, "patch_size": 16, "layers": 1, "width": 32, "head_width": 16} | (vision or {})
    model = CLIP(24, vision_cfg, text_cfg, quick_gelu=True)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 or name.endswith(("bias", "class_embedding")):
            parameter.data.normal_(0, 0.1, generator=generator)
    model.token_embedding.weight.data.normal_(0, 0.5, generator=generator)
    model.logit_scale.data.fill_(3.0)
    model = model.eval().requires_grad_(False)
    tokenizer = open_clip.SimpleTokenizer(context_length=text_cfg["context_length"])
    return Backbone("tiny", model, tokenizer, open_clip.transform.image_transform(32, False), torch.device("cpu"))


@pytest.fixture(scope="session")
def tiny_backbone() -> Backbone:
    return make_tiny_backbone()


@pytest.fixture
def one_mini(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs share one Mini, so that each need not build it."""
    from clip import backbone

    if not MINI:
        MINI.append(backbone.load_backbone("Mini", torch.device("cpu")))
    load = backbone.load_backbone
    monkeypatch.setattr(
        backbone,
        "load_backbone",
        lambda name, device, checkpoint=None, trust=False: (
            MINI[0] if name == "Mini" and checkpoint is None else load(name, device, checkpoint, trust)
        ),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """The results of an uninterrupted run of tests.helpers.runs.FLAGS."""
    root = tmp_path_factory.mktemp("whole")
    assert main([*FLAGS, "--output_dir", str(root)]) == 0
    return outcome(folder_of(root, "sharpzo"))


@pytest.fixture
def broken(tmp_path: Path, capsys: pytest.CaptureFixture) -> Broken:
    return Broken(tmp_path / "outputs", capsys)


class Quadratic:
    """L(w) = ½ Σ c_i (w_i − t_i)², as optimizers see a loss; records every batch of queries."""

    def __init__(self, d: int):
        self.curvature = torch.linspace(0.5, 2.0, d, dtype=torch.float64)
        self.target = torch.linspace(-1.0, 1.0, d, dtype=torch.float64)
        self.batches: list[Tensor] = []

    def __call__(self, W: Tensor, mu: float | None = None) -> Tensor:
        self.batches.append(W.clone())
        return 0.5 * (self.curvature * (W - self.target).square()).sum(1)

    def gradient(self, w: Tensor, moved: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        return self(w[None])[0], self.curvature * (w - self.target)

    def jvp(self, w: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        return self(w.expand(len(tangents), -1))[0], tangents @ (self.curvature * (w - self.target))

    @property
    def queries(self) -> int:
        return sum(len(batch) for batch in self.batches)


@pytest.fixture
def quadratic() -> Callable[[int], Quadratic]:
    return Quadratic
