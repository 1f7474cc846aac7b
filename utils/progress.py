"""Progress of a run: a bar on a terminal, otherwise a log line at intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from tqdm import tqdm

from utils.files import is_terminal

LINE_SECONDS = 30.0
LINE_SHARE = 0.05
# a run of a few seconds should not print twenty lines
LEAST_SECONDS = 2.0


class Progress:
    """Shows queries done of `planned`, and of the last step its loss and the last validation accuracy.

    `log`: takes a line where standard error is not a terminal: every 30 s and every 5% of the queries, at most one per 2 s.
    """

    def __init__(self, log: Callable[[str], None], terminal: bool | None = None):
        self._log = log
        self._terminal = is_terminal() if terminal is None else terminal
        self._bar: tqdm[NoReturn] | None = None

    def start(self, planned: float) -> None:
        self._planned, self._done, self._skipped = planned, 0, 0
        self._begun = self._shown_at = time.monotonic()
        self._shown = 0
        self._accuracy = ""
        if self._terminal:
            self._bar = tqdm(total=planned, unit="query", smoothing=0.05)

    def skip(self, queries: int) -> None:
        """`queries` have been replayed so far."""
        self._advance(queries)
        self._skipped = self._shown = queries
        self._begun = self._shown_at = time.monotonic()

    def update(self, entry: Mapping[str, Any]) -> None:
        """After a step, with its log entry."""
        self._advance(entry["queries"])
        if "val_accuracy" in entry:
            self._accuracy = f", validation {entry['val_accuracy']:.1f}%"
        if self._bar is not None:
            self._bar.set_postfix(stage=entry["stage"], step=entry["step"], loss=f"{entry['loss']:.4f}", refresh=False)
            return
        waited = time.monotonic() - self._shown_at
        due = waited >= LINE_SECONDS or self._done - self._shown >= LINE_SHARE * self._planned
        if due and waited >= LEAST_SECONDS and self._done < self._planned:
            self._log(self._line(entry))
            self._shown, self._shown_at = self._done, time.monotonic()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _advance(self, queries: int) -> None:
        if self._bar is not None:
            self._bar.update(queries - self._done)
        self._done = queries

    def _line(self, entry: Mapping[str, Any]) -> str:
        rate = (self._done - self._skipped) / max(time.monotonic() - self._begun, 1e-9)
        left = shown_duration((self._planned - self._done) / rate) if rate else "unknown"
        return (
            f"step {entry['step']:,} (stage {entry['stage']}): loss {entry['loss']:.4f}{self._accuracy}, "
            f"{self._done:,} of {self._planned:,} queries, {rate:,.0f} queries/s, {left} left"
        )


def shown_duration(seconds: float) -> str:
    """45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
