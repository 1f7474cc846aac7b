"""Early stopping by validation accuracy, and the best solution by it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from utils.ranks import Alone, Ranks

PREFIX = "best."


class EarlyStop:
    """Ends a run after `patience` evaluations in a row whose validation accuracy is not above the best before them.

    Holds the solution w (d,) of the best evaluation, the first on ties, with the `companions` that its prompt needs besides w
    (see `Objective.companions`). Test images play no part. On several ranks, rank 0 decides for all.

    >>> stop = EarlyStop(patience=2)
    >>> for step, accuracy in enumerate((50.0, 60.0, 60.0, 55.0)):
    ...     stop.add(step, accuracy, torch.tensor([float(step)]), {})
    >>> stop.reached(), stop.step, stop.solution.item()
    (True, 1, 1.0)
    """

    def __init__(self, patience: int, ranks: Ranks | None = None):
        self.patience, self.ranks = patience, ranks or Alone()
        self.accuracy, self.step, self.waited = -1.0, 0, 0
        self.solution: Tensor = torch.empty(0)
        self.companions: Mapping[str, np.ndarray] = {}

    def add(self, step: int, accuracy: float, w: Tensor, companions: Mapping[str, np.ndarray]) -> None:
        """Takes the evaluation of w after `step`."""
        if accuracy > self.accuracy:
            self.accuracy, self.step, self.waited = accuracy, step, 0
            self.solution, self.companions = w.detach().clone(), dict(companions)
        else:
            self.waited += 1

    def reached(self) -> bool:
        return self.ranks.decide(lambda: self.waited >= self.patience)

    def state(self) -> dict[str, np.ndarray]:
        """All of it as arrays, for a checkpoint; the names begin with `PREFIX`."""
        counters = np.array([self.accuracy, self.step, self.waited], dtype=np.float64)
        arrays = {"counters": counters, "w": self.solution.numpy()}
        arrays |= {f"with.{name}": array for name, array in self.companions.items()}
        return {PREFIX + name: array for name, array in arrays.items()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes over what `state` returned. Raises KeyError if it is missing."""
        accuracy, step, waited = state[f"{PREFIX}counters"]
        self.accuracy, self.step, self.waited = float(accuracy), int(step), int(waited)
        self.solution = torch.from_numpy(state[f"{PREFIX}w"].copy())
        start = f"{PREFIX}with."
        self.companions = {name.removeprefix(start): array for name, array in state.items() if name.startswith(start)}

    def summary(self, last_step: int) -> str:
        """The line for the log of a run that ended after `last_step`."""
        best = f"the solution is that of step {self.step:,}, the best by validation ({self.accuracy:.1f}%)"
        if self.waited < self.patience:
            return f"--patience {self.patience}: not reached; {best}"
        return f"--patience {self.patience}: stopped after step {last_step:,}; {best}"
