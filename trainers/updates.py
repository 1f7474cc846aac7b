"""Updates: what w moves by, given a gradient estimate. Any of them combines with any estimator in `optimizer.Descent`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


class Update:
    """Maps gradients to steps; w moves against the step. All state is held in tensors that are changed in place."""

    def start(self, w: Tensor) -> None:
        """Allocates the state for a point like w (d,)."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The state, by name."""
        return {}

    @property
    def figures(self) -> Mapping[str, float]:
        """What the last step adds to the log."""
        return {}

    def __call__(self, gradient: Tensor, w: Tensor) -> Tensor:
        """The step (d,) at w, learning rate included."""
        raise NotImplementedError


class SGD(Update):
    """η g."""

    def __init__(self, *, lr: float):
        self.lr = lr

    def __call__(self, gradient: Tensor, w: Tensor) -> Tensor:
        return self.lr * gradient


class Sign(Update):
    """η sign(g), coordinate by coordinate (ZO-signSGD, Liu et al. 2019)."""

    def __init__(self, *, lr: float):
        self.lr = lr

    def __call__(self, gradient: Tensor, w: Tensor) -> Tensor:
        return self.lr * gradient.sign()


class Momentum(Update):
    """η m with m ← β₁ m + (1 − β₁) g, m = 0 at first: normalized, so that η means what it means for SGD."""

    def __init__(self, *, lr: float, beta1: float = 0.9):
        self.lr, self.beta1 = lr, beta1

    def start(self, w: Tensor) -> None:
        self.m = torch.zeros_like(w)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return {"m": self.m}

    def __call__(self, gradient: Tensor, w: Tensor) -> Tensor:
        self.m.copy_(self.beta1 * self.m + (1 - self.beta1) * gradient)
        return self.lr * self.m


class Moments(Update):
    """The state of Adam and its relatives: two running means m and v (d,), and the number of steps t."""

    def start(self, w: Tensor) -> None:
        self.m, self.v = torch.zeros_like(w), torch.zeros_like(w)
        self.t = 0

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return {"m": self.m, "v": self.v}


class Adam(Moments):
    """η m̂ / (√v̂ + ε) with m as in `Momentum`, v ← β₂ v + (1 − β₂) g², m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ)."""

    def __init__(self, *, lr: float, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8):
        self.lr, self.beta1, self.beta2, self.epsilon = lr, beta1, beta2, epsilon

    def __call__(self, gradient: Tensor, w: Tensor) -> Tensor:
        self.t += 1
        self.m.copy_(self.beta1 * self.m + (1 - self.beta1) * gradient)
        self.v.copy_(self.beta2 * self.v + (1 - self.beta2) * gradient.square())
        m = self.m / (1 - self.beta1**self.t)
        return self.lr * (m / ((self.v / (1 - self.beta2**self.t)).sqrt() + self.epsilon))


class RefinedAdam(Moments):
    """η m / √(v + ε) with m as in `Momentum` and v ← β₂ v + (1 − β₂) m²: the second moment of m, not of g (R-AdaZO).

    As in the official code, the bias is not corrected, so that the first step is η / √(1 − β₂) per coordinate whatever g is:
    10η at β₂ = 0.99. `bias_correction` divides m and v as Adam does.
    """

    def __init__(
        self, *, lr: float, beta1: float = 0.9, beta2: float = 0.99, epsilon: float = 1e-8, bias_correction: bool = False
    ):
        self.lr, self.beta1, self.beta2, self.epsilon, self.bias_correction = lr, beta1, beta2, epsilon, bias_correction

    def __call__(self, gradient: Tensor, w: Tensor) -> Tensor:
        self.t += 1
        self.m.copy_(self.beta1 * self.m + (1 - self.beta1) * gradient)
        self.v.copy_(self.beta2 * self.v + (1 - self.beta2) * self.m.square())
        m, v = self.m, self.v
        if self.bias_correction:
            m, v = m / (1 - self.beta1**self.t), v / (1 - self.beta2**self.t)
        return self.lr * m / (v + self.epsilon**2).sqrt()


class Cosine(Update):
    """The steps of `update` times ½ (1 + cos(π t / T)) in call t = 0, 1, …, and 0 from t = T on. Logs the factor, `schedule`."""

    def __init__(self, update: Update, *, steps: int):
        self.update, self.steps = update, steps
        self.t = 0
        self.factor = 1.0

    def start(self, w: Tensor) -> None:
        self.update.start(w)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return self.update.tensors

    @property
    def figures(self) -> Mapping[str, float]:
        return {**self.update.figures, "schedule": self.factor}

    def __call__(self, gradient: Tensor, w: Tensor) -> Tensor:
        self.factor = 0.5 * (1 + math.cos(math.pi * min(1.0, self.t / self.steps)))
        self.t += 1
        return self.factor * self.update(gradient, w)
