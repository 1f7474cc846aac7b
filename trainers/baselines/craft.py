"""CraFT (Wang et al., ICML 2024): a projected prompt by CMA-ES together with an adapter on the logits by backpropagation.

z̃ = z + MLP(z) with logits z. The fitness of a candidate is CE(z, y) + λ KL(softmax z̃ ‖ softmax z) on all images; after each
generation the adapter is trained for one epoch of Adam on CE(z̃, y) + λ' KL(softmax z ‖ softmax z̃).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from trainers.blackbox.batches import LazySamples, MiniBatches, mini_batches
from trainers.blackbox.cmaes import NaiveCMAES, naive_cmaes
from trainers.blackbox.criteria import cross_entropies
from trainers.blackbox.objective import Model, Objective
from trainers.blackbox.problem import Problem, projected_prompt
from trainers.blackbox.samples import BatchSource
from trainers.blackbox.task import FewShotTask
from trainers.saved import Scorer, text_prompt
from utils.errors import UserError
from utils.seeds import torch_generator
from utils.settings import Config


class Adapter(nn.Sequential):
    """Linear(K, h) – ReLU – Linear(h, K) with torch's default initialization, drawn from `generator`."""

    def __init__(self, classes: int, *, hidden: int, generator: torch.Generator):
        # skip_init: torch's own initialization would draw from its global generator
        first, second = skip_init(nn.Linear, classes, hidden), skip_init(nn.Linear, hidden, classes)
        super().__init__(first, nn.ReLU(), second)
        for layer in (first, second):
            limit = 1 / math.sqrt(layer.in_features)
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -limit, limit, generator=generator)

    def adapted(self, logits: Tensor) -> Tensor:
        """z̃ = z + MLP(z), float64, of logits (…, K)."""
        return logits + self(logits.float()).double()


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(softmax p ‖ softmax q) over the last dimension."""
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


class CraftObjective(Objective):
    """The candidates' fitness, the adapter on which it depends, and the accuracy of prompt and adapter together."""

    def __init__(self, model: Model, *, batches: BatchSource, adapter: Adapter, adapter_batches: MiniBatches, config: Config):
        """`batches`: the samples of each query. `adapter_batches`: those on which the adapter is trained."""
        super().__init__(model, batches, config.precision, config.batch_size, self.fitness)
        self.adapter, self.adapter_batches, self.consistency = adapter, adapter_batches, config.consistency
        self.adam = torch.optim.Adam(adapter.parameters(), lr=config.lr)

    def fitness(self, logits: Tensor, labels: Tensor) -> Tensor:
        """CE(z, y) + λ KL(softmax z̃ ‖ softmax z), (B, n) of logits z (B, n, K) and labels y (n,)."""
        kl = divergence(self.adapter.adapted(logits), logits)
        return cross_entropies(logits, labels) + self.consistency * kl

    def deployed(self, logits: Tensor) -> Tensor:
        return self.adapter.adapted(logits)

    def train_adapter(self, w: Tensor, consistency: float) -> float:
        """One epoch with the prompt at w (d,) and λ' = `consistency`; one query (forward and backward) per batch. Mean loss."""
        batches = [self.adapter_batches() for _ in range(self.adapter_batches.batches_per_epoch)]
        self.queries += len(batches)
        self.forwards += len(batches)
        return float(self.query(w.numpy(), 1, lambda: np.array([self._epoch(w, consistency, batches)]))[0])

    def _epoch(self, w: Tensor, consistency: float, batches: Sequence[LazySamples]) -> float:
        with torch.inference_mode():
            logits_of = self.model.logits(w[None], self.dtype(None))
        losses = []
        for lazy in batches:
            # tensors that the backward pass saves must be made outside inference mode: the samples, and a copy of the logits
            [batch] = lazy.split(len(lazy))
            with torch.inference_mode():
                logits = logits_of(batch.inputs)[0]
            with torch.enable_grad():
                logits = logits.clone()
                adapted = self.adapter.adapted(logits)
                loss = F.cross_entropy(adapted, batch.labels) + consistency * divergence(logits, adapted).mean()
                self.adam.zero_grad()
                loss.backward()
            self.adam.step()
            losses.append(float(loss.detach()))
        self._refuse_non_finite(torch.tensor(losses), w.expand(len(losses), -1))
        return sum(losses) / len(losses)

    def companions(self) -> dict[str, np.ndarray]:
        """The adapter's parameters."""
        return {name: tensor.cpu().numpy().copy() for name, tensor in self.adapter.state_dict().items()}

    def deploy(self, companions: Mapping[str, np.ndarray]) -> None:
        self.adapter.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in companions.items()})

    def extras(self) -> dict[str, np.ndarray]:
        """The adapter's parameters and Adam's moments."""
        state = {f"adapter.{name}": tensor for name, tensor in self.adapter.state_dict().items()}
        for i, moments in self.adam.state_dict()["state"].items():
            state |= {f"adam.{i}.{name}": tensor for name, tensor in moments.items()}
        return {name: tensor.cpu().numpy().copy() for name, tensor in state.items()}

    def restore(self, costs: Mapping[str, int], extras: Mapping[str, np.ndarray]) -> None:
        super().restore(costs, extras)
        state: dict[str, dict[str, Tensor]] = {"adapter": {}, "adam": {}}
        for key, array in extras.items():
            kind, _, name = key.partition(".")
            state[kind][name] = torch.from_numpy(array.copy())
        self.adapter.load_state_dict(state["adapter"])
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in state["adam"].items():
            i, _, name = key.partition(".")
            moments.setdefault(int(i), {})[name] = tensor
        self.adam.load_state_dict(self.adam.state_dict() | {"state": moments})

    def costs(self) -> dict[str, int]:
        costs = super().costs()
        encoded = self.adapter_batches.encoded if self.adapter_batches.fresh else 0
        return costs | {"tower_images": costs["tower_images"] + encoded}


class Craft:
    """A CMA-ES generation, then an epoch of the adapter: S + `batches` queries per step.

    λ' = λ during the first 1/`part` of the `steps`, then 0.
    """

    stage = 1

    def __init__(self, inner: NaiveCMAES, *, batches: int, consistency: float, part: int, steps: int):
        self.inner, self.batches = inner, batches
        self.consistency, self.part, self.steps = consistency, part, steps
        self.done = 0

    @property
    def solution(self) -> Tensor:
        return self.inner.solution

    def num_queries(self, steps: int) -> int:
        return self.inner.num_queries(steps) + steps * self.batches

    def step(self, objective: CraftObjective) -> dict[str, float]:
        """Returns the figures of the CMA-ES generation, and the adapter's mean loss over the epoch."""
        figures = self.inner.step(objective)
        self.done += 1
        consistency = self.consistency if self.done * self.part <= self.steps else 0.0
        return figures | {"adapter_loss": objective.train_adapter(self.solution, consistency)}


def problem(config: Config, task: FewShotTask) -> Problem:
    """BBT's prompt together with an adapter. Raises UserError for features that contradict --no-normalize_adapter."""
    if not config.normalize_adapter and config.train_features == "cached":
        raise UserError("--no-normalize_adapter: cached features are normalized; use --train_features fresh")
    adapter = Adapter(
        len(task.dataset.classnames), hidden=config.adapter_dim, generator=torch_generator(config.seed, "adapter")
    ).to(task.backbone.device)

    def adapter_tensors(w: Tensor) -> dict[str, Tensor]:
        return {f"adapter.{name}": tensor for name, tensor in adapter.state_dict().items()}

    unadapted = projected_prompt(config, task, adapter_tensors)
    adapter_batches = mini_batches(config, task, drop_last=False, normalize=config.normalize_adapter)
    objective = CraftObjective(
        unadapted.objective.model,
        batches=unadapted.objective.next_batch,
        adapter=adapter,
        adapter_batches=adapter_batches,
        config=config,
    )
    return dataclasses.replace(unadapted, objective=objective, steps_per_epoch=adapter_batches.batches_per_epoch)


def restore(config: Config, task: FewShotTask, tensors: Mapping[str, Tensor]) -> Scorer:
    """A saved prompt with the adapter that was trained with it, which requires the number of classes of its training."""
    unadapted = text_prompt(config, task, tensors)
    adapter = Adapter(len(task.dataset.classnames), hidden=config.adapter_dim, generator=torch.Generator())
    adapter.load_state_dict({key.removeprefix("adapter."): value for key, value in tensors.items() if key.startswith("adapter.")})
    adapter.to(task.backbone.device)
    return dataclasses.replace(unadapted, logits=lambda images: adapter.adapted(unadapted.logits(images)))


def build(config: Config, problem: Problem) -> Craft:
    inner = naive_cmaes(config, len(problem.initial))
    steps = problem.steps
    if config.max_queries:
        steps = min(steps, config.max_queries // (inner.num_queries(1) + problem.steps_per_epoch))
    return Craft(
        inner,
        batches=problem.steps_per_epoch,
        consistency=config.consistency,
        part=config.consistency_part,
        steps=steps,
    )
