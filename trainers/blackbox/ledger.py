"""The one passage between a query and its losses: they are computed here, or replayed from an interrupted run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np


class Ledger(Protocol):
    """Where the numbers behind a query come from."""

    def query(self, points: np.ndarray, size: int, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """`size` numbers that belong to `points`: those of `compute`, or the recorded ones of an earlier run. A fresh array."""


class Computed:
    """Computes every query and records nothing."""

    def query(self, points: np.ndarray, size: int, compute: Callable[[], np.ndarray]) -> np.ndarray:
        return compute().copy()
