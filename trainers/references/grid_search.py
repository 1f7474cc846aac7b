"""The optimizer of the references: it tries given points and selects the one with the highest validation accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from trainers.blackbox.objective import Objective


class GridSearch:
    """One candidate per step; the solution has the highest validation accuracy so far, the first one on ties. No queries.

    Each of `candidates` returns a point w (d,). `validate(w)`: validation accuracy in [0, 1]. Before the first step the solution
    is `initial`, whose accuracy is not evaluated.
    """

    stage = 1

    def __init__(self, initial: Tensor, *, candidates: Sequence[Callable[[], Tensor]], validate: Callable[[Tensor], float]):
        self.solution, self.candidates, self.validate = initial, candidates, validate
        self.best_accuracy = -1.0
        self.steps = 0

    def num_queries(self, steps: int) -> int:
        return 0

    def step(self, objective: Objective) -> dict[str, float]:
        """Tries the next candidate. Returns its validation error as `loss`, and the lowest so far as `best_loss`."""
        w = self.candidates[self.steps]()
        accuracy = self.validate(w)
        if accuracy > self.best_accuracy:
            self.best_accuracy, self.solution = accuracy, w
        self.steps += 1
        return {"loss": 1 - accuracy, "best_loss": 1 - self.best_accuracy}


def points(values: Sequence[Sequence[float]]) -> list[Callable[[], Tensor]]:
    """Candidates with the given coordinates."""
    return [partial(torch.tensor, value, dtype=torch.float64) for value in values]
