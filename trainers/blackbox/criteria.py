"""The cost of an image: cross-entropy, focal loss or classification error, and the derivatives of the first two."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.samples import SampleSet

# logits (B, n, K) and labels (n,) → the cost of each image at each point, (B, n)
Criterion = Callable[[Tensor, Tensor], Tensor]
FOCAL_GAMMA = 2.0


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """−log softmax(scores) at the labels: (B, n) of scores (B, n, K) and labels (n,)."""
    hit = logits.gather(2, labels.expand(len(logits), -1)[..., None])[..., 0]
    return logits.logsumexp(2) - hit


def mean_cross_entropy(scores: Callable[[Any], Tensor], images: SampleSet, images_per_pass: int) -> float:
    """The mean of −log softmax(`scores(inputs)`) (n, K) at the labels, in nats; scores are logits, scale included."""
    total = torch.zeros((), dtype=torch.float64)
    for part in images.split(images_per_pass):
        total = total + cross_entropies(scores(part.inputs).double()[None], part.labels).sum().cpu()
    return float(total) / len(images)


def focal_losses(logits: Tensor, labels: Tensor, gamma: float = FOCAL_GAMMA) -> Tensor:
    """(1 − p)^γ · (−log p) at the labels' probabilities p (Lin et al. 2017), (B, n) of scores (B, n, K); γ 0: cross-entropy."""
    entropies = cross_entropies(logits, labels)
    return (-torch.expm1(-entropies)).clamp(min=0.0) ** gamma * entropies


def focusing(criterion: Criterion) -> float | None:
    """γ of a focal loss, 0 for cross-entropy; None for another criterion."""
    if isinstance(criterion, functools.partial) and criterion.func is focal_losses:
        return float(criterion.keywords.get("gamma", FOCAL_GAMMA))
    if criterion is focal_losses:
        return FOCAL_GAMMA
    return 0.0 if criterion is cross_entropies else None


def focal_derivatives(logits: Tensor, labels: Tensor, criterion: Criterion) -> Tensor:
    """∂/∂logits (n, K) of each image's cross-entropy e = −log p or focal loss (1 − p)^γ · e. ValueError for another criterion.

    ∂e/∂logits = softmax(logits) − one-hot(labels), and d[(1 − p)^γ · e]/de = (1 − p)^γ · (1 + γ·p·e / (1 − p)).
    """
    gamma = focusing(criterion)
    if gamma is None:
        raise ValueError(f"{criterion} has no derivative in closed form")
    derivatives = logits.softmax(1)
    derivatives[torch.arange(len(labels), device=labels.device), labels] -= 1
    if gamma:
        entropies = cross_entropies(logits[None], labels)[0]
        missed = (-torch.expm1(-entropies)).clamp(min=0.0)
        # e / (1 − p) tends to 1 as p does
        ratio = torch.where(missed > 0, entropies / missed, 1.0)
        derivatives *= (missed**gamma * (1 + gamma * torch.exp(-entropies) * ratio))[:, None]
    return derivatives


def error_rates(logits: Tensor, labels: Tensor) -> Tensor:
    """0 if the highest score is the label's and 1 otherwise, (B, n) of scores (B, n, K); their mean is 1 − accuracy."""
    return (logits.argmax(2) != labels).double()


def criterion(config: Config) -> Criterion:
    """The criterion that `--objective` names."""
    named = {"cross-entropy": cross_entropies, "accuracy": error_rates}
    return named.get(config.objective) or functools.partial(focal_losses, gamma=config.focal_gamma)
