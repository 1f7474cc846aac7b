"""Around an optimizer's steps: clock, log entries, evaluation, checkpoints, replay and progress."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from trainers.blackbox.objective import Objective
from trainers.early_stop import PREFIX, EarlyStop
from trainers.optimizer import Optimizer
from utils.errors import RunError
from utils.interrupt import Interrupted, StepTimer
from utils.progress import Progress
from utils.replay import ReplayLog

Evaluate = Callable[[Tensor], dict[str, float]]


class Stopwatch:
    """Seconds since it was made, without the pauses."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._started

    def set(self, seconds: float) -> None:
        self._started = time.perf_counter() - seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self._started += time.perf_counter() - begun


class StepLog:
    """Writes one entry per step, and one for step 0; with a `replay` log it also resumes an interrupted run.

    `record` receives every entry: step, stage, seconds, costs, the optimizer's figures, and, every `eval_every` steps and at the
    end, the figures that `evaluate` returns for the solution, which `early_stop` counts. Steps that `replay` contains are
    replayed from their losses and not recorded again; new steps are saved every `save_every` steps and when the loop ends.
    """

    def __init__(
        self,
        record: Callable[[dict[str, Any]], None],
        *,
        evaluate: Evaluate = lambda w: {},
        eval_every: int = 0,
        save_every: int = 10,
        replay: ReplayLog | None = None,
        progress: Progress | None = None,
        early_stop: EarlyStop | None = None,
    ):
        self.record, self.evaluate = record, evaluate
        self.eval_every, self.save_every = eval_every, save_every
        self.replay, self.progress, self.early_stop = replay, progress, early_stop
        self.step = 0
        self.replayed_steps = replay.resumed.step if replay and replay.resumed else -1
        self._timer, self._write_seconds = StepTimer(), 0.0

    def start(self, optimizer: Optimizer, objective: Objective, planned: float) -> None:
        """Logs step 0, or prepares to replay. `planned`: how many queries the run may take, for the progress display."""
        self.optimizer, self.objective = optimizer, objective
        self._stopwatch = Stopwatch()
        if self.replay:
            objective.replay_from(self.replay)
        if self.progress:
            self.progress.start(planned)
        if self.replayed_steps < 0:
            self._write(0, optimizer.stage, {}, evaluated=True)
        elif self.replayed_steps == 0:
            self._finish_replay()

    def expected_seconds(self, queries: int) -> float:
        """How long a step of `queries` queries and its log entry may take."""
        return self._timer.ahead(queries) + self._write_seconds

    @contextlib.contextmanager
    def timed(self, step: int) -> Iterator[None]:
        """Around the optimizer's step: errors name the step, and its duration is measured."""
        self.step = step
        queries, begun = self.objective.queries, time.monotonic()
        with _named(step):
            yield
        if step > self.replayed_steps:
            self._timer.add(self.objective.queries - queries, time.monotonic() - begun)

    def add(self, stage: int, figures: dict[str, float], *, last: bool) -> None:
        """Ends the step that `timed` began: it has been replayed, or is logged and, when due, evaluated and saved."""
        step, begun = self.step, time.monotonic()
        if step <= self.replayed_steps:
            if step == self.replayed_steps:
                self._finish_replay()
            if self.progress:
                self.progress.skip(self.objective.queries)
            return
        due = bool(self.eval_every) and step % self.eval_every == 0
        with _named(step):
            entry = self._write(step, stage, figures, evaluated=due or last)
        if self.progress:
            self.progress.update(entry)
        self._write_seconds = max(self._write_seconds, time.monotonic() - begun)

    def stops_early(self) -> bool:
        """Whether the run ends after the step that `add` ended."""
        return self.early_stop is not None and self.early_stop.reached()

    @contextlib.contextmanager
    def saved_on_exit(self) -> Iterator[None]:
        """Around the loop: however it ends, the last complete step is saved, and an interruption carries its number."""
        try:
            yield
            if self.replay and self.step < self.replayed_steps:
                self.replay.verify()
        except BaseException as error:
            # the loop may have ended because the disk is full; the checkpoint before it is still valid then
            with contextlib.suppress(OSError):
                self._save()
            if isinstance(error, Interrupted):
                error.step = self.replay.last_step if self.replay else self.step
            raise
        finally:
            if self.progress:
                self.progress.close()
        self._save()

    def _save(self) -> None:
        if self.replay:
            self.replay.save()

    def _write(self, step: int, stage: int, figures: dict[str, float], *, evaluated: bool) -> dict[str, Any]:
        unusable = [f"{name} {value}" for name, value in figures.items() if isinstance(value, float) and not math.isfinite(value)]
        if unusable:
            raise RunError(f"{', '.join(unusable)}: step sizes are too large (--zo_lr, --sigma) or too small to divide by")
        seconds = self._stopwatch.seconds
        # evaluation and logging are not part of the method's time
        with self._stopwatch.paused():
            entry = {"step": step, "stage": stage, "seconds": round(seconds, 3)} | self.objective.costs() | figures
            w = self.optimizer.solution
            entry |= self.evaluate(w) if evaluated else {}
            if self.early_stop and "val_accuracy" in entry:
                self.early_stop.add(step, entry["val_accuracy"], w, self.objective.companions())
            self.record(entry)
            if self.replay:
                counters = self.objective.costs() | {"evaluations": self.objective.evaluations}
                extras = self.objective.extras() | (self.early_stop.state() if self.early_stop else {})
                self.replay.checkpoint(step, seconds, counters, extras)
                if step and step % self.save_every == 0:
                    self.replay.save()
        return entry

    def _finish_replay(self) -> None:
        replay = self.replay
        assert replay is not None
        assert replay.resumed is not None
        replay.verify()
        try:
            extras = replay.extras()
            ours = {name: array for name, array in extras.items() if name.startswith(PREFIX)}
            self.objective.restore(replay.resumed.costs, {name: extras[name] for name in extras.keys() - ours.keys()})
            if self.early_stop:
                self.early_stop.restore(ours)
        except (KeyError, ValueError, RuntimeError) as error:
            raise RunError(f"{replay.folder}: cannot resume: the checkpoint does not fit this run ({error})") from error
        self._stopwatch.set(replay.resumed.seconds)


@contextlib.contextmanager
def _named(step: int) -> Iterator[None]:
    """A RunError of the block names the step."""
    try:
        yield
    except RunError as error:
        raise RunError(f"{error}; in step {step}") from error
