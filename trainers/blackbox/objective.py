"""The black box that trainers minimize: vectors in, training losses out, forward only. The only door to the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from trainers.blackbox.criteria import Criterion, cross_entropies, error_rates, focusing, mean_cross_entropy
from trainers.blackbox.forward_mode import slopes_along
from trainers.blackbox.ledger import Computed, Ledger
from trainers.blackbox.linearized import LinearizedPrompt
from trainers.blackbox.passes import Passes
from trainers.blackbox.samples import BatchSource, Classified, SampleSet, classify
from utils.errors import RunError, UserError
from utils.numbers import ceil_div

# below this finite-difference step, float32 noise of the tower (5e-7 of the loss) drowns the difference
FLOAT64_BELOW = 1e-4
DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16", "float16")}


class Model(Protocol):
    """CLIP with a prompt that a vector w (d,) determines."""

    def logits(self, W: Tensor, dtype: torch.dtype) -> Callable[[Any], Tensor]:
        """For points W (B, d): a function from a batch's inputs (n, …) to logits (B, n, K) float64."""

    def points_per_pass(self) -> int:
        """How many points have their logits computed together."""

    def images_per_pass(self, points: int) -> int:
        """How many images are scored together at that many points."""

    def tower_images(self, points: int, images: int) -> int:
        """How many images pass the image tower for that many points and images; 0 if the inputs are features."""

    def tensors(self, w: Tensor) -> dict[str, Tensor]:
        """The tensors to save so that the prompt at w can be used again."""


@runtime_checkable
class ForwardModeModel(Model, Protocol):
    """A model whose loss `Objective.jvp` can differentiate: those with the prompt on the text side."""

    def tangents_per_pass(self, dtype: torch.dtype) -> int:
        """How many directions share one pass in torch's forward mode."""

    def linearized(self, w: Tensor, dtype: torch.dtype, tangent_dtype: torch.dtype) -> LinearizedPrompt | None:
        """The prompt near w (d,), where the tangent engine can run."""


class Objective:
    """L(w): mean cross-entropy, or another `criterion`, of a prompted CLIP over a batch of images: all of them, or a mini-batch.

    Calling it with W (B, d) gives B losses in float64, all on the one batch that `draw` returns for the call, and counts B
    queries. `forwards` counts mini-batches of `batch_size` images.
    """

    def __init__(
        self,
        model: Model,
        draw: BatchSource,
        precision: str = "auto",
        batch_size: int = 256,
        criterion: Criterion | None = None,
        tangent_precision: str = "float32",
        population_precision: str = "same",
    ):
        self.model, self.next_batch, self.precision, self.batch_size = model, draw, precision, batch_size
        self.tangent_precision, self.population_precision = tangent_precision, population_precision
        self.criterion = criterion or cross_entropies
        self._passed: set[torch.dtype] = set()
        self._ledger: Ledger = Computed()
        self.passes = Passes()
        self._trained: Mapping[str, Tensor] = {}
        self.queries = 0
        self.forwards = 0
        self.prompted_images = 0
        self.evaluations = 0

    def replay_from(self, ledger: Ledger) -> None:
        """Takes the results of all further queries from `ledger`, which records new ones and replays those of an earlier run."""
        self._ledger = ledger

    def query(self, points: np.ndarray, size: int, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """`size` numbers at `points`, computed or replayed. Every number that depends on the model passes here, for resuming."""
        return self._ledger.query(points, size, compute)

    def __call__(self, W: Tensor, mu: float | None = None) -> Tensor:
        """Losses (B,) float64, on the CPU, of W (B, d).

        `mu`: the finite-difference step between the rows, from which precision "auto" chooses the dtype of the pass; ∞ if the
        losses are only ranked.
        Raises RunError if a loss is not finite.
        """
        images = self._draw_for(len(W))

        def compute() -> np.ndarray:
            with torch.inference_mode():
                parts = self.passes.cut(W.detach(), self.model.points_per_pass())
                losses = torch.cat(self.passes.map(lambda rows: self._losses(rows, images, self.dtype(mu)), parts))
            self._refuse_non_finite(losses, W)
            return losses.numpy()

        return torch.from_numpy(self.query(W.detach().numpy(), len(W), compute))

    def gradient(self, w: Tensor, trained: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """L(w) and ∇L(w) (d,) by backpropagation, for comparison only; counts one query. RunError if not finite.

        `trained`: all tensors, by name, that the caller changes in place by its gradients. A checkpoint then stores these tensors
        instead of d numbers per step: the gradient of a replayed loss is zero, and `restore` sets the tensors afterward.
        """
        self._refuse_without_derivative()
        images = self._draw_for(1)
        gradient = torch.zeros_like(w)

        def compute() -> np.ndarray:
            at = w.detach().clone().requires_grad_(True)
            with torch.enable_grad():
                loss = self._losses(at[None], images, self.dtype(None))[0]
                loss.backward()
            found = torch.zeros_like(w) if at.grad is None else at.grad
            value = loss.detach()[None].cpu()
            self._refuse_non_finite(value + found.sum(), at.detach()[None])
            gradient.copy_(found)
            return torch.cat([value, found[: 0 if trained else None]]).numpy()

        # after the first update a replayed w differs from the recorded one, so only the first call is verified
        verified = w[: 0 if self._trained else None]
        loss, *_ = numbers = torch.from_numpy(self.query(verified.detach().numpy(), 1 if trained else 1 + len(w), compute))
        self._trained = trained or {}
        return loss, gradient if trained else numbers[1:]

    def extras(self) -> dict[str, np.ndarray]:
        """State besides the recorded losses, as copies."""
        return {name: tensor.numpy().copy() for name, tensor in self._trained.items()}

    def restore(self, costs: Mapping[str, int], extras: Mapping[str, np.ndarray]) -> None:
        """Sets the costs and extras of an interrupted run, whose losses have been replayed."""
        self.evaluations = costs["evaluations"]
        for name, tensor in self._trained.items():
            tensor.copy_(torch.tensor(extras[name]))

    def companions(self) -> dict[str, np.ndarray]:
        """The tensors that the deployed prompt needs besides w, as copies: none, unless a method also trains an adapter."""
        return {}

    def deploy(self, companions: Mapping[str, np.ndarray]) -> None:
        """Restores the result of an earlier call of `companions`."""

    def jvp(self, w: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """L(w) and its slopes ∇L·v (m,) along the `tangents` (m, d), in forward mode: no graph, no step μ.

        Counts m queries, one per tangent: a tangent costs the products of a forward pass, and all share the pass of w.
        RunError if not finite.
        """
        self._refuse_without_derivative()
        model = self.model
        if not isinstance(model, ForwardModeModel):
            raise TypeError(f"forward mode needs a prompt on the text side, and this model is a {type(model).__name__}")
        images = self._draw_for(len(tangents))

        def compute() -> np.ndarray:
            loss, slopes = (found.cpu() for found in self._slopes(model, w, tangents, images))
            self._refuse_non_finite(loss[None] + slopes, w.expand(len(slopes), -1))
            return torch.cat([loss[None], slopes]).numpy()

        points = torch.cat([w[None], tangents]).detach()
        loss, *_ = numbers = torch.from_numpy(self.query(points.numpy(), len(points), compute))
        return loss, numbers[1:]

    def _slopes(self, model: ForwardModeModel, w: Tensor, tangents: Tensor, images: SampleSet) -> tuple[Tensor, Tensor]:
        """L(w) and its slopes, by the tangent engine if it supports the tower and the criterion."""
        dtype = self.dtype(None)
        if focusing(self.criterion) is not None:
            # half precision is only for tangents
            exact = torch.float64 if dtype == torch.float64 else torch.float32
            near = model.linearized(w, exact, exact if exact == torch.float64 else DTYPES[self.tangent_precision])
            if near is not None:
                return near.loss_and_slopes(tangents, images.split(model.images_per_pass(1)), self.criterion, self.passes)
        if dtype not in self._passed:
            # tensors that later passes reuse must not be created inside a transform
            with torch.inference_mode():
                self._losses(w[None], images, dtype)
            self._passed.add(dtype)

        def loss_and_slopes(part: Tensor) -> Tensor:
            loss, slopes = slopes_along(lambda point: self._losses(point[None], images, dtype)[0], w, part)
            return torch.cat([loss[None], slopes])

        parts = self.passes.map(loss_and_slopes, self.passes.cut(tangents, model.tangents_per_pass(dtype)), extra=1)
        return parts[0][0], torch.cat([part[1:] for part in parts])

    def costs(self) -> dict[str, int]:
        """What has been spent so far: loss evaluations, mini-batch forwards, training images through the image tower."""
        tower_images = self.next_batch.encoded + self.prompted_images
        return {"queries": self.queries, "forwards": self.forwards, "tower_images": tower_images}

    def _draw_for(self, points: int) -> SampleSet:
        images = self.next_batch()
        self.queries += points
        self.forwards += points * ceil_div(len(images), self.batch_size)
        self.prompted_images += self.model.tower_images(points, len(images))
        return images

    def dtype(self, mu: float | None) -> torch.dtype:
        """The dtype of a pass over points that differ by `mu`; ∞: over points whose losses are only ranked."""
        if mu == math.inf and self.population_precision != "same":
            return DTYPES[self.population_precision]
        if self.precision == "auto":
            return torch.float64 if mu is not None and mu < FLOAT64_BELOW else torch.float32
        return DTYPES[self.precision]

    def loss_at(self, w: Tensor, images: SampleSet) -> float:
        """L(w) on `images`, for the log: counted as an evaluation, not as a query. Raises RunError if it is not finite."""
        self.evaluations += 1
        with torch.inference_mode():
            loss = self._losses(w[None], images, self.dtype(None))
        self._refuse_non_finite(loss, w[None])
        return float(loss[0])

    def accuracy(self, w: Tensor, images: SampleSet) -> float:
        """Top-1 accuracy at w on any images, in [0, 1]; counted as an evaluation, not as a query."""
        return self.classify(w, images).share_right

    def classify(self, w: Tensor, images: SampleSet) -> Classified:
        """The classes at w of any images; counted as an evaluation, not as a query."""
        self.evaluations += 1
        with torch.inference_mode():
            logits = self.model.logits(w[None], self.dtype(None))
            return classify(lambda inputs: self.deployed(logits(inputs))[0], images, self.model.images_per_pass(1))

    def cross_entropy(self, w: Tensor, images: SampleSet) -> float:
        """Mean cross-entropy at w of the logits that classify, for any criterion; counted as an evaluation."""
        self.evaluations += 1
        with torch.inference_mode():
            logits = self.model.logits(w[None], self.dtype(None))
            return mean_cross_entropy(lambda inputs: self.deployed(logits(inputs))[0], images, self.model.images_per_pass(1))

    def deployed(self, logits: Tensor) -> Tensor:
        """The logits that classify."""
        return logits

    def _losses(self, W: Tensor, images: SampleSet, dtype: torch.dtype) -> Tensor:
        logits = self.model.logits(W, dtype)
        total = torch.zeros((), dtype=torch.float64)
        for part in images.split(self.model.images_per_pass(len(W))):
            total = total + self.criterion(logits(part.inputs), part.labels).sum(1)
        return total / len(images)

    def _refuse_without_derivative(self) -> None:
        if self.criterion is error_rates:
            raise UserError(
                "--objective accuracy: it has no derivative; choose a trainer and a smoothness_estimator that require none"
            )

    def _refuse_non_finite(self, losses: Tensor, W: Tensor) -> None:
        bad = ~torch.isfinite(losses)
        if bad.any():
            worst = int(bad.nonzero()[0])
            raise RunError(
                f"loss {losses[worst].item()} at query {self.queries - len(W) + worst + 1} (‖w‖ = {W[worst].norm().item():.3g}): "
                "the step sizes are too large (--zo_lr, --sigma) or the precision too low (--precision)"
            )
