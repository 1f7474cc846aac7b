"""A text prompt near one w: its logits there, and the slopes of a loss along changes of w, by the tangent engine."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd import forward_ad

from clip.tangents import Linearized
from trainers.blackbox.criteria import Criterion, focal_derivatives
from trainers.blackbox.passes import Passes

if TYPE_CHECKING:
    from trainers.blackbox.samples import Batch


class LinearizedPrompt:
    """What `near`, the text features about C(w), says of w (d,) itself, with `contexts` (B, d) → (B, …, n_ctx, width)."""

    def __init__(self, near: Linearized, contexts: Callable[[Tensor], Tensor], w: Tensor, logit_scale: float):
        self.near, self.contexts, self.w, self.logit_scale = near, contexts, w, logit_scale

    def loss_and_slopes(
        self, tangents: Tensor, batches: Iterable[Batch], criterion: Criterion, passes: Passes
    ) -> tuple[Tensor, Tensor]:
        """The mean L(w) of a criterion over all images, and dL (m,) along `tangents` (m, d), in `passes`; both float64.

        The criterion is one that `focal_derivatives` knows; images come as features (n, D).
        """
        features, losses, sensitivity, count = self.near.features, [], torch.zeros((), dtype=torch.float64), 0
        with torch.inference_mode():
            for batch in batches:
                logits = self.logit_scale * (batch.inputs.to(features) @ features.T).double()
                losses.append(criterion(logits[None], batch.labels).sum())
                # ∂L/∂features (K, D)
                of_logits = focal_derivatives(logits, batch.labels, criterion)
                sensitivity = sensitivity.to(features.device) + self.logit_scale * (of_logits.T @ batch.inputs.double())
                count += len(batch)
            sensitivity = sensitivity / count
            parts = passes.cut(tangents, self.near.chunk)
            slopes = passes.map(lambda part: self.near.slopes(self._directions(part), sensitivity), parts)
            return torch.stack(losses).sum() / count, torch.cat(slopes)

    def _directions(self, tangents: Tensor) -> Tensor:
        """Changes of the context (m, …, n_ctx, width) along changes of w."""
        # inference mode drops tangents, some versions of torch silently
        with torch.inference_mode(False), torch.no_grad(), forward_ad.dual_level(), warnings.catch_warnings():
            # torch itself compiles some of its forward-mode rules by a function that it calls deprecated
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            points = forward_ad.make_dual(self.w.repeat(len(tangents), 1), tangents.to(self.w))
            directions = forward_ad.unpack_dual(self.contexts(points)).tangent
        if directions is None:
            raise RuntimeError("torch lost the tangents of the context: it does not depend on w, or inference mode is on")
        return directions
