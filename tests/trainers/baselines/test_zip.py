"""ZIP's prompt: its sizes, its maps against explicit matrices, its start, and a prompt file that needs nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from scipy.linalg import hadamard as scipy_hadamard
from torch import Tensor

from clip.prompt import load_prompt
from datasets import DATASETS
from main_sharpzo import main
from trainers import TRAINERS
from trainers.baselines.zip import LowRankContext, fastfood_map, hadamard
from utils.config import load_config


def make_context(m: int = 8, width: int = 16, q: int = 6, rank: int = 5, seed: int = 0) -> LowRankContext:
    generator = torch.Generator().manual_seed(seed)
    theta0 = 0.02 * torch.randn(m, width, generator=generator, dtype=torch.float64)
    return LowRankContext(theta0, maps=torch.stack([fastfood_map(width, q, generator) for _ in range(m)]), rank=rank)


@pytest.mark.parametrize(("m", "q", "parameters"), [(8, 62, 417), (4, 125, 775), (16, 31, 271)])
def test_number_of_parameters_at_intrinsic_dimension_500(m: int, q: int, parameters: int) -> None:
    assert 500 // m == q
    assert LowRankContext(torch.zeros(m, 512), maps=torch.zeros(m, 512, q), rank=5).d == parameters


def test_context_is_the_formula_token_by_token() -> None:
    context = make_context()
    W = torch.randn(3, context.d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for w, theta in zip(W, context(W), strict=True):
        U, s = w[:40].view(8, 5), w[40:45]
        V, shared = w[45:75].view(6, 5), w[75:]
        for i in range(8):
            v = sum(U[i, j] * s[j] * V[:, j] for j in range(5)) + shared
            torch.testing.assert_close(theta[i], context.theta0[i] + context.maps[i] @ v)


def test_prompt_starts_at_theta0_and_only_u_and_the_shared_row_have_a_slope_there() -> None:
    context = make_context()
    w = context.initial(torch.Generator().manual_seed(2)).requires_grad_(True)
    theta = context(w[None])[0]
    assert torch.equal(theta, context.theta0)
    theta.sum().backward()
    U, s, V, shared = w.grad.split(context.sizes)
    assert U.abs().min() > 0
    assert shared.abs().min() > 0
    assert not s.any()
    assert not V.any()


@pytest.mark.parametrize("width", [16, 512])
def test_map_is_the_product_of_its_five_factors(width: int) -> None:
    q = width // 3
    ours = fastfood_map(width, q, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    B = torch.diag(1.0 - 2.0 * torch.randint(2, (width,), generator=generator, dtype=torch.float64))
    order = torch.randperm(width, generator=generator)
    P = torch.eye(width, dtype=torch.float64)[order]
    G = torch.diag(torch.randn(width, generator=generator, dtype=torch.float64))
    H = torch.from_numpy(scipy_hadamard(width)).double()
    expected = (H @ G @ P @ H @ B)[:, :q] / torch.sqrt(width * G.diagonal().square().sum())
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(ours.norm(dim=0), torch.ones(q, dtype=torch.float64))


def test_map_to_a_width_that_is_not_a_power_of_two_preserves_lengths_on_average() -> None:
    norms = torch.stack([fastfood_map(48, 8, torch.Generator().manual_seed(seed)).norm(dim=0) for seed in range(40)])
    assert float(norms.square().mean()) == pytest.approx(1.0, abs=0.1)


def test_hadamard_is_scipys() -> None:
    assert torch.equal(hadamard(64), torch.from_numpy(scipy_hadamard(64)).double())


def test_published_settings_are_the_defaults() -> None:
    config = load_config(["--config", "configs/eurosat.yaml", "--prompt_trainer", "zip"], TRAINERS, DATASETS)
    settings = (config.n_ctx, config.ctx_init, config.intrinsic_dim, config.rank, config.sp_avg, config.zo_clip, config.moms)
    assert settings == (8, "", 500, 5, 5, True, 0.0)
    assert (config.max_queries, config.train_batch, config.train_features) == (5000, 128, "fresh")
    assert config.max_queries // (2 * config.sp_avg) == 500
    rerun = load_config(["--config", "configs/eurosat.yaml", "--prompt_trainer", "zip-20k"], TRAINERS, DATASETS)
    assert (rerun.max_queries, rerun.total_steps) == (0, 20_000)


def run_zip(tmp_path: Path, *flags: str) -> tuple[Path, dict]:
    arguments = ["--prompt_trainer", "zip", "--shots", "2", "--max_queries", "40", "--output_dir", str(tmp_path), *flags]
    assert main(arguments) == 0
    folder = tmp_path / "digits" / "zip" / "Mini" / "2shots" / "seed1"
    return folder, json.loads((folder / "result.json").read_text())


def rebuilt(tensors: dict[str, Tensor]) -> Tensor:
    return LowRankContext(tensors["theta0"], maps=tensors["maps"], rank=5)(tensors["w"][None])[0]


def test_saved_prompt_holds_all_it_is_made_of(tmp_path: Path) -> None:
    folder, result = run_zip(tmp_path, "--train_features", "cached")
    tensors, about = load_prompt(folder / "prompt.safetensors")
    assert tensors["w"].shape == (5 * (8 + 62 + 1) + 62,)
    # loaded tensors have another alignment in memory, which changes the last bit of products on some processors
    torch.testing.assert_close(rebuilt(tensors), tensors["context"], rtol=0, atol=1e-14)
    assert not torch.equal(tensors["context"], tensors["theta0"])
    assert about["prompt_trainer"] == "zip"
    # 20 training images, cached: one pass through the tower each
    assert (result["queries"], result["forwards"], result["tower_images"]) == (40, 40, 20)


def test_fresh_batches_pass_the_image_tower_once_per_step(tmp_path: Path) -> None:
    _, result = run_zip(tmp_path, "--train_features", "fresh", "--train_batch", "8")
    assert (result["queries"], result["forwards"], result["tower_images"]) == (40, 40, 4 * 8)


def test_intrinsic_dimension_too_small_for_the_tokens_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--prompt_trainer", "zip", "--shots", "1", "--intrinsic_dim", "5", "--output_dir", str(tmp_path / "o")]) == 2
    assert "--intrinsic_dim" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
