"""What a trainer is given to solve: the images and the frozen CLIP of a run, and what a vector w means to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clip.prompt import FullSpace, initial_context, make_projection
from clip.text import TextFeatures
from trainers.blackbox.batches import FullBatch, MiniBatches
from trainers.blackbox.objective import Objective, SampleSet, criterion
from trainers.blackbox.task import FewShotTask
from trainers.blackbox.text_prompt import TextPrompt
from utils.seeds import torch_generator
from utils.settings import Config


@dataclass(frozen=True)
class Problem:
    """The black box, the point w (d,) to start from, and the image sets that a point is judged on for the log.

    `steps`: how many an optimizer may take. `steps_per_epoch`: mini-batches in a pass over the training images.
    """

    objective: Objective
    initial: Tensor
    train: SampleSet
    val: SampleSet
    test: SampleSet
    steps: int
    steps_per_epoch: int = 1
    warnings: Sequence[str] = ()
    matrix: tuple[int, int] | None = None

    def validate(self, w: Tensor) -> float:
        """Validation accuracy at w, in [0, 1]."""
        return float(self.objective.query(w.numpy(), 1, lambda: np.array([self.objective.accuracy(w, self.val)]))[0])


def text_problem(
    config: Config,
    task: FewShotTask,
    text: TextFeatures,
    contexts: Callable[[Tensor], Tensor],
    initial: Tensor,
    keep: Callable[[Tensor], dict[str, Tensor]] | None = None,
    batches: MiniBatches | FullBatch | None = None,
) -> Problem:
    """A problem whose prompt is on the text side. `batches`: what a call is scored on; default: all training images."""
    batches = batches or FullBatch(task.train_samples, len(task.train_samples))
    model = TextPrompt(
        contexts,
        text,
        task.backbone.logit_scale,
        len(task.dataset.classnames),
        task.test_samples.inputs.shape[1],
        config.memory_limit << 20,
        keep,
    )
    objective = Objective(model, batches, config.precision, config.batch_size, criterion(config))
    return Problem(
        objective,
        initial,
        task.train_samples,
        task.val_samples,
        task.test_samples,
        steps=min(config.total_steps, config.epochs * batches.batches_per_epoch or config.total_steps),
        steps_per_epoch=batches.batches_per_epoch,
        warnings=text.warnings,
    )


def projected_prompt(config: Config, task: FewShotTask) -> Problem:
    """The paper's: w ∈ R^d moves the words `ctx_init` by A·w, A fixed and random, and is scored on all training images.

    With `--prompt_space full` w is the offset itself, n_ctx · width entries long.
    """
    text, p0 = text_and_context(config, task)
    if config.prompt_space == "full":
        space = FullSpace(p0)
        problem = text_problem(config, task, text, space.contexts, initial_vector(config, space.d), lambda w: {"p0": p0})
        return dataclasses.replace(problem, matrix=tuple(p0.shape))
    projection = make_projection(p0, config.intrinsic_dim, config.std, torch_generator(config.seed, "projection"))

    def keep(w: Tensor) -> Mapping[str, Tensor]:
        return {"A": projection.A, "p0": projection.p0}

    return text_problem(config, task, text, projection.contexts, initial_vector(config, projection.d), keep)


def text_and_context(config: Config, task: FewShotTask) -> tuple[TextFeatures, Tensor]:
    """Text features of the run's classes, and the context p0 (n_ctx, width) that `ctx_init` or `n_ctx` asks for."""
    generator = torch_generator(config.seed, "initial context")
    words, p0 = initial_context(task.backbone, config.ctx_init, config.n_ctx, generator)
    options = config.memory_limit << 20, config.engine, config.class_token_position
    return TextFeatures(task.backbone, task.dataset.classnames, words, *options), p0


def initial_vector(config: Config, d: int) -> Tensor:
    """The first w (d,) ~ N(0, init_std²)."""
    return config.init_std * torch.randn(d, generator=torch_generator(config.seed, "first w"), dtype=torch.float64)
