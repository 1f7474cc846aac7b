"""The one loop that drives every optimizer within its steps, its query budget and its time."""

from __future__ import annotations

import dataclasses
import math

from torch import Tensor

from trainers import TRAINERS, moves_a_matrix, registered
from trainers.blackbox.problem import Problem
from trainers.blackbox.task import FewShotTask
from trainers.optimizer import Optimizer
from trainers.step_log import StepLog
from utils.errors import UserError
from utils.interrupt import Deadline
from utils.settings import Config


def build_problem(config: Config, task: FewShotTask) -> Problem:
    """What `--prompt_trainer` searches, on the run's images and CLIP."""
    problem: Problem = registered(TRAINERS[config.prompt_trainer].problem)(config, task)
    return problem


def build_optimizer(config: Config, problem: Problem) -> Optimizer:
    """The optimizer that `--prompt_trainer` names. Raises UserError if `--max_queries` does not cover its first step."""
    if problem.matrix and moves_a_matrix(config.prompt_trainer, config.stage2):
        problem = dataclasses.replace(problem, initial=problem.initial.view(problem.matrix))
    optimizer: Optimizer = registered(TRAINERS[config.prompt_trainer].build)(config, problem)
    first = optimizer.num_queries(1)
    if 0 < config.max_queries < first:
        raise UserError(
            f"--max_queries: {config.max_queries}: the first step alone takes {first} queries; allow at least that many"
        )
    return optimizer


def optimize(
    optimizer: Optimizer, problem: Problem, log: StepLog, *, max_queries: int = 0, deadline: Deadline | None = None
) -> Tensor:
    """Runs the problem's steps, stopping before one that would exceed `max_queries` (0: no limit); returns the solution w (d,).

    If the `log` has an early stop, the solution is the best by validation, and the objective deploys it. Raises Interrupted
    before a step that would end after the `deadline`.
    """
    objective, budget, deadline = problem.objective, max_queries or math.inf, deadline or Deadline()

    def allowed(step: int) -> bool:
        return step <= problem.steps and objective.queries + optimizer.num_queries(1) <= budget

    log.start(optimizer, objective, planned=planned_queries(optimizer, problem, max_queries))
    with log.saved_on_exit():
        step = 1
        while allowed(step):
            deadline.check(ahead=log.expected_seconds(optimizer.num_queries(1)))
            stage = optimizer.stage
            with log.timed(step):
                figures = optimizer.step(objective)
            log.add(stage, figures, last=not allowed(step + 1))
            if log.stops_early():
                break
            step += 1
    if log.early_stop is None:
        return optimizer.solution
    objective.deploy(log.early_stop.companions)
    return log.early_stop.solution


def planned_queries(optimizer: Optimizer, problem: Problem, max_queries: int = 0) -> int:
    """How many queries a run takes: exact, or an upper bound where a rule decides later."""
    return int(min(optimizer.num_queries(problem.steps), max_queries or math.inf))
