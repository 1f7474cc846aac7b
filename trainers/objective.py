"""The black box that trainers minimise: vectors in, training losses out, forward only. The only door to the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.errors import RunError

# below this finite-difference step, float32 noise of the tower (5e-7 of the loss) drowns the difference
FLOAT64_BELOW = 1e-4
DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16", "float16")}


@dataclass(frozen=True)
class Images:
    """What is scored: L2-normalised features (N, D) float32 and labels (N,) int64 on the model's device."""

    features: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


class Objective:
    """L(w): mean cross-entropy over all training images, logits = scale · image · textᵀ.

    Calling it with W (B, d) gives B losses in float64 and counts B queries.
    """

    def __init__(
        self,
        contexts: Callable[[Tensor], Tensor],
        text_features: Callable[[Tensor, torch.dtype], Tensor],
        images: Images,
        logit_scale: float,
        classes: int,
        precision: str = "auto",
        memory_limit: int = 1 << 30,
    ):
        """`contexts`: (B, d) → (B, n_ctx, width). `text_features`: contexts, dtype → (B, K, D). `memory_limit`: bytes."""
        self.contexts = contexts
        self.text_features = text_features
        self.images = images
        self.logit_scale = logit_scale
        self.classes = classes
        self.precision = precision
        self.memory_limit = memory_limit
        self.queries = 0
        self.evaluations = 0

    def __call__(self, W: Tensor, mu: float | None = None) -> Tensor:
        """Losses (B,) float64, on the CPU, of W (B, d).

        `mu`: the finite-difference step that the rows are apart, from which precision "auto" chooses the dtype of the pass.
        Raises RunError where a loss is not finite.
        """
        self.queries += len(W)
        with torch.inference_mode():
            losses = torch.cat([self._losses(rows, self.dtype(mu)) for rows in W.split(self._rows_a_pass())]).cpu()
        self._refuse_non_finite(losses, W)
        # a copy made outside inference mode is an ordinary tensor, which optimisers may keep and change
        return losses.clone()

    def gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """L(w) and ∇L(w) (d,) by backpropagation, for comparison only; counts one query. RunError where not finite."""
        self.queries += 1
        w = w.detach().clone().requires_grad_(True)
        with torch.enable_grad():
            loss = self._losses(w[None], self.dtype(None))[0]
            loss.backward()
        self._refuse_non_finite(loss.detach()[None] + w.grad.sum(), w.detach()[None])
        return loss.detach().cpu(), w.grad.cpu()

    def dtype(self, mu: float | None) -> torch.dtype:
        """The dtype of a pass over points that are `mu` apart."""
        if self.precision == "auto":
            return torch.float64 if mu is not None and mu < FLOAT64_BELOW else torch.float32
        return DTYPES[self.precision]

    def loss_at(self, w: Tensor) -> float:
        """L(w) for the log: counted as an evaluation, not as a query. Raises RunError where it is not finite."""
        self.evaluations += 1
        with torch.inference_mode():
            loss = self._losses(w[None], self.dtype(None))
        self._refuse_non_finite(loss, w[None])
        return float(loss[0])

    def accuracy(self, w: Tensor, images: Images) -> float:
        """Top-1 accuracy at w on any images, in [0, 1]; counted as an evaluation, not as a query."""
        self.evaluations += 1
        with torch.inference_mode():
            text = self.text_features(self.contexts(w[None]), self.dtype(None))[0]
            return accuracy(text, images)

    def _losses(self, W: Tensor, dtype: torch.dtype) -> Tensor:
        text = self.text_features(self.contexts(W), dtype)
        features, labels = self.images.features.to(dtype), self.images.labels
        total = torch.zeros(len(W), dtype=torch.float64, device=text.device)
        step = self._images_a_pass(*text.shape[:2])
        for some, their_labels in zip(features.split(step), labels.split(step), strict=True):
            # (B, n, K): the products in the pass's precision, the reduction in float64, where it costs nothing
            logits = self.logit_scale * (some @ text.transpose(1, 2)).double()
            hit = logits.gather(2, their_labels.expand(len(W), -1)[..., None])[..., 0]
            total = total + (logits.logsumexp(2) - hit).sum(1)
        return total / len(labels)

    def _refuse_non_finite(self, losses: Tensor, W: Tensor) -> None:
        bad = ~torch.isfinite(losses)
        if bad.any():
            worst = int(bad.nonzero()[0])
            raise RunError(
                f"loss {losses[worst].item()} at query {self.queries - len(W) + worst + 1} (‖w‖ = {W[worst].norm().item():.3g}): "
                "the step sizes are too large (--zo_lr, --sigma) or the precision too low (--precision)"
            )

    def _rows_a_pass(self) -> int:
        """Queries whose text features are held at once: many products' worth, within an eighth of the memory limit."""
        features_a_query = self.classes * self.images.features.shape[1] * torch.float64.itemsize
        return max(1, min(256, self.memory_limit // (8 * features_a_query)))

    def _images_a_pass(self, queries: int, classes: int) -> int:
        return max(1, self.memory_limit // (queries * classes * 3 * torch.float64.itemsize))


def accuracy(text: Tensor, images: Images) -> float:
    """Share of `images` whose nearest text feature, of `text` (K, D), is that of their label."""
    hits = 0
    for rows in torch.arange(len(images), device=text.device).split(4096):
        predicted = (images.features[rows].to(text.dtype) @ text.T).argmax(1)
        hits += int((predicted == images.labels[rows]).sum())
    return hits / len(images)
