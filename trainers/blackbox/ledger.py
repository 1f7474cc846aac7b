"""The one passage between a query and its losses: they are computed here, or replayed from an interrupted run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np


class Ledger(Protocol):
    """Where the numbers behind a query come from."""

    def query(self, points: np.ndarray, size: int, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """`size` numbers that belong to `points`: those of `compute`, or the recorded ones of an earlier run. A fresh array."""


class Recorded:
    """Replays `losses` in their order, then computes; writes nothing. What ranks other than 0 resume from."""

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
