"""The one loop that drives every optimiser: steps, the query budget, and what is logged of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor
from tqdm import tqdm

from trainers import TRAINERS, moves_a_matrix, registered
from trainers.objective import Objective
from trainers.problem import Problem, Task
from trainers.sharpzo import Optimizer
from utils.files import is_terminal
from utils.settings import Config


def build_problem(config: Config, task: Task) -> Problem:
    """What `--prompt_trainer` searches, on the run's images and CLIP."""
    return registered(TRAINERS[config.prompt_trainer].problem)(config, task)


def build_optimizer(config: Config, problem: Problem) -> Optimizer:
    """The optimiser that `--prompt_trainer` names."""
    build = registered(TRAINERS[config.prompt_trainer].build)
    w0 = problem.initial
    if problem.matrix and moves_a_matrix(config.prompt_trainer, config.stage2):
        w0 = w0.view(problem.matrix)
    return build(config, w0, lambda w: problem.objective.accuracy(w, problem.val))


def optimise(
    config: Config,
    optimizer: Optimizer,
    objective: Objective,
    evaluate: Callable[[Tensor], dict[str, float]],
    record: Callable[[dict[str, Any]], None],
) -> Tensor:
    """Runs up to T steps, or until the next one would exceed `--max_queries`; returns the last estimate w (d,).

    `record` gets one dict a step (and one for step 0); every `--eval_every` steps and at the end, `evaluate(w)` adds to it.
    """
    started = time.perf_counter()
    budget = config.max_queries or float("inf")
    planned = min(optimizer.plan(config.total_steps), budget)

    def note(step: int, figures: dict[str, float], with_evaluation: bool) -> None:
        nonlocal started
        now = time.perf_counter()
        entry = {"step": step, "stage": optimizer.stage, "seconds": round(now - started, 3)} | objective.costs()
        record(entry | figures | (evaluate(optimizer.estimate) if with_evaluation else {}))
        # evaluating and writing is for the reader of the log, and no time of the method's
        started += time.perf_counter() - now

    note(0, {}, with_evaluation=True)
    with tqdm(total=planned, unit="query", smoothing=0.05, disable=not is_terminal()) as bar:
        step = 0
        while step < config.total_steps and objective.queries + optimizer.plan(1) <= budget:
            step += 1
            stage = optimizer.stage
            before = objective.queries
            figures = optimizer.step(objective)
            last = step == config.total_steps or objective.queries + optimizer.plan(1) > budget
            due = config.eval_every and step % config.eval_every == 0
            note(step, {"stage": stage} | figures, with_evaluation=bool(due or last))
            bar.set_postfix(stage=stage, step=step, loss=f"{figures['loss']:.4f}", refresh=False)
            bar.update(objective.queries - before)
    return optimizer.estimate
