"""CraFT: the two divergences, the adapter's epochs against torch, when its own term stops, and its costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from clip.prompt import load_prompt
from main_sharpzo import main
from trainers.baselines.craft import Adapter, Craft, CraftObjective, divergence
from trainers.blackbox.batches import FullBatch, MiniBatches
from trainers.blackbox.cmaes import naive_cmaes
from trainers.blackbox.criteria import cross_entropies
from trainers.blackbox.samples import Samples
from utils.settings import Config

K, D = 5, 7
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = Samples(F.normalize(torch.randn(12, D, generator=GENERATOR), dim=-1), torch.arange(12) % K)


class LinearScores:
    """Scores that are a linear function of the features; w is the matrix."""

    def logits(self, W, dtype):
        return lambda features: 10 * features.double() @ W.view(-1, K, D).transpose(1, 2).double()

    def points_per_pass(self) -> int:
        return 4

    def images_per_pass(self, points: int) -> int:
        return 5

    def tower_images(self, points: int, images: int) -> int:
        return 0


def make_objective(consistency: float = 0.3, fresh: bool = False) -> CraftObjective:
    adapter = Adapter(K, hidden=6, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    adapter_batches = MiniBatches(
        12, size=5, generator=generator, load=lambda which, n: IMAGES[which], fresh=fresh, drop_last=False
    )
    config = Config(consistency=consistency, lr=1e-2)
    return CraftObjective(
        LinearScores(), batches=FullBatch(IMAGES, 12), adapter=adapter, adapter_batches=adapter_batches, config=config
    )


def points(B: int) -> torch.Tensor:
    return torch.randn(B, K * D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_divergence_is_torchs() -> None:
    p, q = torch.randn(2, 9, K, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    expected = F.kl_div(q.log_softmax(-1), p.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(divergence(p, q), expected)


def test_fitness_is_cross_entropy_plus_the_adapted_scores_divergence_from_the_plain() -> None:
    objective, W = make_objective(), points(6)
    for loss, w in zip(objective(W), W, strict=True):
        z = 10 * IMAGES.inputs.double() @ w.view(K, D).T
        adapted = z + objective.adapter(z.float()).double().detach()
        kl = (adapted.softmax(-1) * (adapted.log_softmax(-1) - z.log_softmax(-1))).sum(-1).mean()
        torch.testing.assert_close(loss, F.cross_entropy(z, IMAGES.labels) + 0.3 * kl)


def test_an_epoch_of_the_adapter_is_adam_on_its_loss_batch_by_batch() -> None:
    objective, twin, w = make_objective(), make_objective(), points(1)[0]
    loss = objective.train_adapter(w, consistency=0.2)
    adam = torch.optim.Adam(twin.adapter.parameters(), lr=1e-2)
    losses = []
    for _ in range(3):
        batch = twin.adapter_batches().loaded
        z = 10 * batch.inputs.double() @ w.view(K, D).T
        adapted = z + twin.adapter(z.float()).double()
        kl = (z.softmax(-1) * (z.log_softmax(-1) - adapted.log_softmax(-1))).sum(-1).mean()
        value = cross_entropies(adapted[None], batch.labels).mean() + 0.2 * kl
        adam.zero_grad()
        value.backward()
        adam.step()
        losses.append(float(value.detach()))
    assert loss == pytest.approx(sum(losses) / 3)
    for ours, theirs in zip(objective.adapter.parameters(), twin.adapter.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_images_are_classified_by_the_adapted_scores() -> None:
    objective, w = make_objective(), points(1)[0]
    plain = objective.accuracy(w, IMAGES)
    with torch.no_grad():
        objective.adapter[2].bias[3] += 1e4
    assert objective.accuracy(w, IMAGES) == pytest.approx(2 / 12)
    assert plain != pytest.approx(2 / 12)


def test_a_query_is_a_candidate_or_a_batch_of_the_adapter() -> None:
    objective = make_objective(fresh=True)
    optimizer = Craft(naive_cmaes(Config(popsize=4, sigma=0.1, bound=0.0), K * D), batches=3, consistency=0.1, part=1, steps=10)
    assert optimizer.num_queries(1) == 4 + 3
    optimizer.step(objective)
    # 12 images cached for the candidates, and 12 anew for the adapter
    assert objective.costs() == {"queries": 7, "forwards": 7, "tower_images": 24}


def test_the_adapters_own_term_stops_after_its_part_of_the_steps() -> None:
    optimizer = Craft(naive_cmaes(Config(popsize=4, sigma=0.1, bound=0.0), K * D), batches=3, consistency=0.7, part=4, steps=8)
    objective, seen = make_objective(), []
    objective.train_adapter = lambda w, consistency: seen.append(consistency) or 0.0
    for _ in range(4):
        optimizer.step(objective)
    assert seen == [0.7, 0.7, 0.0, 0.0]


def test_adapter_starts_as_torch_starts_one_and_from_its_own_generator() -> None:
    before = torch.get_rng_state()
    adapter, again = (Adapter(100, hidden=256, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    for ours, theirs in zip(adapter.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert float(adapter[0].weight.detach().abs().max()) == pytest.approx(0.1, rel=0.01)
    assert float(adapter[2].weight.detach().abs().max()) == pytest.approx(1 / 16, rel=0.01)
    assert torch.equal(torch.get_rng_state(), before)


def test_run_saves_the_adapter_and_its_accuracy_is_that_of_both(tmp_path: Path) -> None:
    flags = ["--shots", "2", "--total_steps", "3", "--popsize", "4", "--train_features", "cached", "--output_dir", str(tmp_path)]
    assert main(["--prompt_trainer", "craft", *flags]) == 0
    folder = tmp_path / "digits" / "craft" / "Mini" / "2shots" / "seed1"
    tensors, _ = load_prompt(folder / "prompt.safetensors")
    assert tensors["adapter.0.weight"].shape == (256, 10)
    assert tensors["adapter.2.bias"].shape == (10,)
    result = json.loads((folder / "result.json").read_text())
    assert result["queries"] == 3 * (4 + 1)


def test_raw_features_cannot_come_from_the_cache(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ["--no-normalize_adapter", "--train_features", "cached", "--shots", "1", "--output_dir", str(tmp_path)]
    assert main(["--prompt_trainer", "craft", *flags]) == 2
    assert "--no-normalize_adapter" in capsys.readouterr().err
