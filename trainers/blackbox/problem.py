"""The problem that an optimizer solves: a run's images, its frozen CLIP, and the prompt that a vector w determines."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clip.prompt import FullSpace, Projection, initial_context, make_projection
from clip.text import TextFeatures
from trainers.blackbox.batches import FullBatch, MiniBatches
from trainers.blackbox.criteria import criterion
from trainers.blackbox.objective import Objective
from trainers.blackbox.samples import SampleSet
from trainers.blackbox.task import FewShotTask
from trainers.blackbox.text_prompt import ExtraTensors, TextPrompt
from utils.seeds import torch_generator
from utils.settings import Config


@dataclass(frozen=True)
class Problem:
    """The black box, the initial point w (d,), and the sample sets on which points are scored for the log.

    `steps`: maximum number of optimizer steps. `steps_per_epoch`: mini-batches in a pass over the training images. `matrix`: the
    shape of w for optimizers that move a matrix, if w is one.
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
    *,
    text: TextFeatures,
    contexts: Callable[[Tensor], Tensor],
    initial: Tensor,
    extra_tensors: ExtraTensors | None = None,
    batches: MiniBatches | FullBatch | None = None,
) -> Problem:
    """A problem with the prompt on the text side, the contexts (B, …, n_ctx, width) of W (B, d).

    `batches`: the samples of each query; default: all training images. `extra_tensors`: see `TextPrompt`.
    """
    batches = batches or FullBatch(task.train_samples, len(task.train_samples))
    model = TextPrompt(
        contexts,
        text_features=text,
        logit_scale=task.backbone.logit_scale,
        classes=len(task.dataset.classnames),
        width=task.test_samples.inputs.shape[1],
        memory_limit=config.memory_limit << 20,
        extra_tensors=extra_tensors,
    )
    options = config.precision, config.batch_size, criterion(config), config.tangent_precision, config.population_precision
    return Problem(
        Objective(model, batches, *options),
        initial,
        task.train_samples,
        task.val_samples,
        task.test_samples,
        steps=num_steps(config, batches.batches_per_epoch),
        steps_per_epoch=batches.batches_per_epoch,
        warnings=text.warnings,
    )


def num_steps(config: Config, batches_per_epoch: int) -> int:
    """`--total_steps`, or `--epochs` in steps if that is fewer."""
    return min(config.total_steps, config.epochs * batches_per_epoch or config.total_steps)


def projected_prompt(config: Config, task: FewShotTask, extra_tensors: ExtraTensors | None = None) -> Problem:
    """The paper's problem: w ∈ R^d moves the context `ctx_init` by A·w, A fixed and random; a query scores all training images.

    With `--prompt_space full`, w is the offset itself, n_ctx · width numbers. `extra_tensors(w)`: further tensors to save.
    """
    text, p0 = text_and_context(config, task)
    space: FullSpace | Projection
    if config.prompt_space == "full":
        space, fixed, matrix = FullSpace(p0), {"p0": p0}, (p0.shape[0], p0.shape[1])
    else:
        space = make_projection(p0, config.intrinsic_dim, config.std, torch_generator(config.seed, "projection"))
        fixed, matrix = {"A": space.A, "p0": space.p0}, None

    def tensors(w: Tensor) -> Mapping[str, Tensor]:
        return {**fixed, **(extra_tensors(w) if extra_tensors else {})}

    initial = initial_vector(config, space.d)
    problem = text_problem(config, task, text=text, contexts=space.contexts, initial=initial, extra_tensors=tensors)
    return dataclasses.replace(problem, matrix=matrix)


def text_and_context(config: Config, task: FewShotTask) -> tuple[TextFeatures, Tensor]:
    """Text features of the run's classes, and the initial context p0 (n_ctx, width) by `--ctx_init` or `--n_ctx`."""
    generator = torch_generator(config.seed, "initial context")
    init_words, p0 = initial_context(task.backbone, config.ctx_init, config.n_ctx, generator)
    return text_features(config, task, init_words), p0


def text_features(config: Config, task: FewShotTask, init_words: str) -> TextFeatures:
    """Text features of the run's classes after a context at the positions of `init_words`."""
    return TextFeatures(
        task.backbone,
        task.dataset.classnames,
        init_words,
        memory_limit=config.memory_limit << 20,
        engine=config.engine,
        position=config.class_token_position,
    )


def initial_vector(config: Config, d: int) -> Tensor:
    """The initial w (d,) ~ N(0, init_std²)."""
    return config.init_std * torch.randn(d, generator=torch_generator(config.seed, "first w"), dtype=torch.float64)
