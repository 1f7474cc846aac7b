"""CoOp (Zhou et al. 2022), the first-order reference: the context itself by SGD with warm-up and cosine decay."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from clip.prompt import random_context
from trainers.baselines.gradient_descent import descend_by_backpropagation
from trainers.blackbox.batches import mini_batches
from trainers.blackbox.problem import Problem, text_and_context, text_problem
from trainers.blackbox.task import FewShotTask
from trainers.optimizer import Descent
from trainers.updates import Update
from utils.numbers import ceil_div
from utils.seeds import torch_generator
from utils.settings import Config

WARMUP_LR = 1e-5


class CosineSGD(Update):
    """g = ∇L + λ w; m ← β m + g; the step is η_e m.

    η_e changes with the epoch e, of `steps_per_epoch` steps: 1e-5 in the first `warmup` epochs, then cosine decay from `lr` over
    `epochs` epochs, counted from its own start. Logs `lr`, the η_e of the step.
    """

    def __init__(self, *, lr: float, momentum: float, weight_decay: float, epochs: int, steps_per_epoch: int, warmup: int):
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.epochs, self.steps_per_epoch, self.warmup = epochs, steps_per_epoch, warmup

    def start(self, w: Tensor) -> None:
        self.buffer = torch.zeros_like(w)
        self.steps = 0
        self.last_rate = self.rate()

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return {"momentum": self.buffer}

    @property
    def figures(self) -> Mapping[str, float]:
        return {"lr": self.last_rate}

    def rate(self) -> float:
        """η of the next step."""
        epoch = self.steps // self.steps_per_epoch
        if epoch < self.warmup:
            return WARMUP_LR
        return 0.5 * self.lr * (1 + math.cos(math.pi * (epoch - self.warmup) / self.epochs))

    def __call__(self, gradient: Tensor, w: Tensor) -> Tensor:
        self.last_rate = self.rate()
        self.steps += 1
        self.buffer.copy_(self.momentum * self.buffer + gradient + self.weight_decay * w)
        return self.last_rate * self.buffer


def problem(config: Config, task: FewShotTask) -> Problem:
    """w is the context itself, n_ctx · width numbers, or K times as many with `--csc`; a query scores a mini-batch."""
    text, p0 = text_and_context(config, task)
    shape = (len(task.dataset.classnames), *p0.shape) if config.csc else tuple(p0.shape)
    # without initial words, the contexts of the classes are drawn independently
    independent = config.csc and not config.ctx_init
    initial = random_context(shape, torch_generator(config.seed, "initial context")) if independent else p0.expand(shape)
    return text_problem(
        config,
        task,
        text=text,
        contexts=lambda W: W.view(-1, *shape),
        initial=initial.reshape(-1),
        batches=mini_batches(config, task),
    )


def build(config: Config, problem: Problem) -> Descent:
    batches_per_epoch = problem.steps_per_epoch
    update = CosineSGD(
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        epochs=config.epochs or ceil_div(problem.steps, batches_per_epoch),
        steps_per_epoch=batches_per_epoch,
        warmup=config.warmup_epochs,
    )
    return descend_by_backpropagation(problem.initial, update)
