"""Where the losses of a query come from: they are computed, or replayed from an interrupted run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np


class Ledger(Protocol):
    """Computes or replays the results of queries."""

    def query(self, points: np.ndarray, size: int, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """`size` numbers for `points`: those of `compute`, or the recorded ones of an earlier run; a new array."""


class Recorded:
    """Replays `losses` in order, then computes; writes nothing. Ranks other than 0 resume from it."""

    def __init__(self, losses: np.ndarray):
        self._losses = losses

    def query(self, points: np.ndarray, size: int, compute: Callable[[], np.ndarray]) -> np.ndarray:
        if not len(self._losses):
            return compute().copy()
        values, self._losses = self._losses[:size], self._losses[size:]
        return values.copy()


class Computed:
    """Computes every query and records nothing."""

    def query(self, points: np.ndarray, size: int, compute: Callable[[], np.ndarray]) -> np.ndarray:
        return compute().copy()
