"""The one loop that drives every optimizer: steps, the query budget, and what is logged of them."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from tqdm import tqdm

from trainers import TRAINERS, moves_a_matrix, registered
from trainers.blackbox.problem import Problem
from trainers.blackbox.task import FewShotTask
from trainers.optimizer import Optimizer
from utils.errors import RunError, UserError
from utils.files import is_terminal
from utils.interrupt import Deadline, StepTimer
from utils.replay import ReplayLog
from utils.settings import Config


def build_problem(config: Config, task: FewShotTask) -> Problem:
    """What `--prompt_trainer` searches, on the run's images and CLIP."""
    return registered(TRAINERS[config.prompt_trainer].problem)(config, task)


def build_optimizer(config: Config, problem: Problem) -> Optimizer:
    """The optimizer that `--prompt_trainer` names. Raises UserError where `--max_queries` leaves no room for its first step."""
    if problem.matrix and moves_a_matrix(config.prompt_trainer, config.stage2):
        problem = dataclasses.replace(problem, initial=problem.initial.view(problem.matrix))
    optimizer = registered(TRAINERS[config.prompt_trainer].build)(config, problem)
    first = optimizer.num_queries(1)
    if 0 < config.max_queries < first:
        raise UserError(f"--max_queries: {config.max_queries}: the first step alone asks {first} queries; allow at least so many")
    return optimizer


def optimize(
    config: Config,
    optimizer: Optimizer,
    problem: Problem,
    evaluate: Callable[[Tensor], dict[str, float]],
    record: Callable[[dict[str, Any]], None],
    progress: ReplayLog | None = None,
    stop: Deadline | None = None,
) -> Tensor:
    """Runs the problem's steps, or until the next one would exceed `--max_queries`; returns the last estimate w (d,).

    `record` gets one dict a step (and one for step 0); every `--eval_every` steps and at the end, `evaluate(w)` adds to it.
    `progress`: steps that it has kept are repeated from their answers, without a record; new ones are kept every `--save_every`
    steps, and whatever ends the loop. Raises Interrupted before a step that `stop` forbids.
    """
    started, stop = time.perf_counter(), stop or Deadline()
    objective, steps, kept = problem.objective, problem.steps, progress.kept if progress else None
    budget = config.max_queries or math.inf
    planned = min(optimizer.num_queries(steps), budget)
    if progress:
        objective.query = progress.query

    def note(step: int, figures: dict[str, float], with_evaluation: bool) -> None:
        nonlocal started
        wild = [f"{name} {value}" for name, value in figures.items() if isinstance(value, float) and not math.isfinite(value)]
        if wild:
            raise RunError(f"{', '.join(wild)}: the step sizes are too large (--zo_lr, --sigma) or too small to divide by")
        now = time.perf_counter()
        seconds = now - started
        entry = {"step": step, "stage": optimizer.stage, "seconds": round(seconds, 3)} | objective.costs()
        record(entry | figures | (evaluate(optimizer.solution) if with_evaluation else {}))
        if progress:
            progress.checkpoint(step, seconds, objective.costs() | {"evaluations": objective.evaluations}, objective.extras())
            if step and step % config.save_every == 0:
                progress.save()
        # evaluating and writing is for the reader of the log, and no time of the method's
        started += time.perf_counter() - now

    def finish_replay() -> None:
        nonlocal started
        progress.verify()
        try:
            objective.restore(kept.costs, progress.extras())
        except (KeyError, ValueError, RuntimeError) as error:
            raise RunError(f"{progress.folder}: what is kept does not fit this run ({error}); --overwrite starts anew") from error
        started = time.perf_counter() - kept.seconds

    if not kept:
        note(0, {}, with_evaluation=True)
    elif not kept.step:
        finish_replay()
    with tqdm(total=planned, unit="query", smoothing=0.05, disable=not is_terminal()) as bar, save_on_exit(progress):
        step, pace, noting = 0, StepTimer(), 0.0
        while step < steps and objective.queries + optimizer.num_queries(1) <= budget:
            stop.check(pace.ahead(optimizer.num_queries(1)) + noting)
            step += 1
            stage, before, begun = optimizer.stage, objective.queries, time.monotonic()
            with annotate_step(step):
                figures = optimizer.step(objective)
            bar.update(objective.queries - before)
            if kept and step <= kept.step:
                if step == kept.step:
                    finish_replay()
                continue
            stepped = time.monotonic()
            pace.add(objective.queries - before, stepped - begun)
            last = step == steps or objective.queries + optimizer.num_queries(1) > budget
            due = config.eval_every and step % config.eval_every == 0
            with annotate_step(step):
                note(step, {"stage": stage} | figures, with_evaluation=bool(due or last))
            bar.set_postfix(stage=stage, step=step, loss=f"{figures['loss']:.4f}", refresh=False)
            noting = max(noting, time.monotonic() - stepped)
        if kept and step < kept.step:
            progress.verify()
    return optimizer.solution


@contextlib.contextmanager
def annotate_step(step: int) -> Iterator[None]:
    """A RunError of the block says in which step it was."""
    try:
        yield
    except RunError as error:
        raise RunError(f"{error}; in step {step}") from error


@contextlib.contextmanager
def save_on_exit(progress: ReplayLog | None) -> Iterator[None]:
    """Saves the last complete step whatever ends the block."""
    try:
        yield
    except BaseException:
        # a full disk may be what ended it; what was saved before still stands then
        with contextlib.suppress(OSError):
            if progress:
                progress.save()
        raise
    if progress:
        progress.save()
