"""CoOp (Zhou et al. 2022), the first-order reference: the context itself by SGD with warm-up and cosine decay."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clip.prompt import random_context
from trainers.blackbox.gradients import Loss
from utils.seeds import torch_generator
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.blackbox.problem import Problem
    from trainers.blackbox.task import FewShotTask

WARMUP_LR = 1e-5


class SGD:
    """g = ∇L + λ w; m ← β m + g; w ← w − η_e m. One query (a forward and a backward pass) a step.

    η_e changes with the epoch e, of `steps_per_epoch` steps: 1e-5 in the first `warmup` epochs, then cosine decay from `lr` over
    `epochs` epochs, counted from its own start.
    """

    stage = 1

    def __init__(
        self, w0: Tensor, lr: float, momentum: float, weight_decay: float, epochs: int, steps_per_epoch: int, warmup: int
    ):
        self.solution = w0.clone()
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.epochs, self.steps_per_epoch, self.warmup = epochs, steps_per_epoch, warmup
        self.buffer = torch.zeros_like(w0)
        self.steps = 0

    def num_queries(self, steps: int) -> int:
        return steps

    def rate(self) -> float:
        """η of the next step."""
        epoch = self.steps // self.steps_per_epoch
        if epoch < self.warmup:
            return WARMUP_LR
        return 0.5 * self.lr * (1 + math.cos(math.pi * (epoch - self.warmup) / self.epochs))

    def step(self, loss: Loss) -> dict[str, float]:
        """One update; `loss` must offer `gradient(w, moved)`. Returns loss (before the update), grad_norm and lr."""
        value, gradient = loss.gradient(self.solution, {"w": self.solution, "momentum": self.buffer})
        rate = self.rate()
        self.buffer.copy_(self.momentum * self.buffer + gradient + self.weight_decay * self.solution)
        self.solution -= rate * self.buffer
        self.steps += 1
        return {"loss": float(value), "grad_norm": float(gradient.norm()), "lr": rate}


def problem(config: Config, task: FewShotTask) -> Problem:
    """w is the context itself, n_ctx · width numbers, or K times as many with `--csc`; scored on mini-batches."""
    from trainers.blackbox.batches import mini_batches
    from trainers.blackbox.problem import text_and_context, text_problem

    text, p0 = text_and_context(config, task)
    shape = (len(task.dataset.classnames), *p0.shape) if config.csc else tuple(p0.shape)
    # classes that share no words draw their contexts independently
    drawn = config.csc and not config.ctx_init
    start = random_context(shape, torch_generator(config.seed, "initial context")) if drawn else p0.expand(shape)
    return text_problem(config, task, text, lambda W: W.view(-1, *shape), start.reshape(-1), None, mini_batches(config, task))


def build(config: Config, problem: Problem) -> SGD:
    batches_per_epoch = problem.steps_per_epoch
    epochs = config.epochs or -(-problem.steps // batches_per_epoch)
    return SGD(problem.initial, config.lr, config.momentum, config.weight_decay, epochs, batches_per_epoch, config.warmup_epochs)
