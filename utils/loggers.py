"""The lines of metrics.jsonl, sent to TensorBoard or Weights & Biases as well.

metrics.jsonl remains the record. When a run resumes, it ends at the last checkpoint, and loggers follow it: entries beyond it are
dropped or sent again with the same numbers, and missing entries are sent again. So no step is lost or duplicated.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from utils.errors import RunError, UserError
from utils.files import write_json
from utils.setting_kinds import loggers_of
from utils.settings import Config

EVENTS = "events.out.tfevents."
WANDB_ID, WANDB_FOLDER = "wandb.json", "wandb"

Entry = Mapping[str, Any]


class Logger(Protocol):
    """Takes the entries of a run, one per step."""

    def start(self, entries: Sequence[Entry]) -> str:
        """`entries`: those that metrics.jsonl holds already. Returns a line for the user."""

    def add(self, entry: Entry) -> None: ...

    def finish(self, result: Entry) -> None:
        """Takes the accuracies of a run that succeeded."""

    def close(self, status: int) -> None:
        """`status`: 0 if the run succeeded."""


def require_packages(config: Config) -> None:
    """Raises UserError if a logger's package is missing, before anything is written."""
    for name in loggers_of(config):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f"--logger: {name}: cannot be imported ({error}); pip install -e '.[{name}]' in the clone brings it"
            ) from error


class Loggers:
    """All loggers of a run as one; only rank 0 has any."""

    def __init__(self, loggers: Sequence[Logger] = ()):
        self._loggers = loggers

    def add(self, entry: Entry) -> None:
        for logger in self._loggers:
            logger.add(entry)

    def finish(self, result: Entry) -> None:
        for logger in self._loggers:
            logger.finish(result)


@contextlib.contextmanager
def opened(config: Config, folder: Path, log: Callable[[str], None]) -> Iterator[Loggers]:
    """The loggers that `--logger` names, for the run in `folder`, which may have steps already. `log` takes lines."""
    # the command line, which checks --logger, must not wait for numpy
    from utils.replay import METRICS

    entries = [json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()]
    loggers: list[Logger] = []
    status = 1
    try:
        for name in loggers_of(config):
            logger: Logger = TensorBoard(folder) if name == "tensorboard" else WeightsAndBiases(folder, config)
            loggers.append(logger)
            log(logger.start(entries))
        yield Loggers(loggers)
        status = 0
    finally:
        for logger in loggers:
            logger.close(status)


def scalars(entry: Entry) -> dict[str, float]:
    return {key: value for key, value in entry.items() if isinstance(value, int | float) and not isinstance(value, bool)}


class TensorBoard:
    """An event file in the run folder: NAME against queries, and step/NAME against steps.

    A resumed run writes the file anew from metrics.jsonl, since an event file cannot be cut at a step.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._queries = 0
        self._writer: Any = None

    def start(self, entries: Sequence[Entry]) -> str:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        for path in self.folder.glob(f"{EVENTS}*"):
            path.unlink()
        self._writer = EventFileWriter(str(self.folder), flush_secs=10)
        # a TensorBoard that runs meanwhile forgets what it has read of the former file
        session = SessionLog(status=SessionLog.START)
        self._writer.add_event(Event(wall_time=time.time(), step=0, session_log=session))
        # so that the axis "relative time" has the run's own seconds
        begun = time.time() - (entries[-1]["seconds"] if entries else 0.0)
        for entry in entries:
            self._add(entry, begun + entry["seconds"])
        return f"TensorBoard: tensorboard --logdir {self.folder}"

    def add(self, entry: Entry) -> None:
        self._add(entry, time.time())

    def _add(self, entry: Entry, wall_time: float) -> None:
        self._queries = entry["queries"]
        found = scalars(entry)
        self._write({key: value for key, value in found.items() if key != "queries"}, self._queries, wall_time)
        self._write({f"step/{key}": value for key, value in found.items() if key != "step"}, entry["step"], wall_time)

    def _write(self, values: Mapping[str, float], step: int, wall_time: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._writer.add_event(Event(wall_time=wall_time, step=step, summary=summary))

    def finish(self, result: Entry) -> None:
        self._write({f"result/{key}": value for key, value in result.items()}, self._queries, time.time())

    def close(self, status: int) -> None:
        if self._writer is not None:
            self._writer.close()


class WeightsAndBiases:
    """A run of project "sharpzo", or of $WANDB_PROJECT, whose id lies in the run folder; every metric against queries.

    Online, wandb says which step it lacks. Offline it cannot know, so a resumed run replaces its offline folder by one with all
    steps, and `wandb sync` finds one folder per run.
    """

    def __init__(self, folder: Path, config: Config):
        self.folder, self.config = folder, config
        self._run: Any = None
        self._first = 0

    def start(self, entries: Sequence[Entry]) -> str:
        import wandb

        settings = wandb.Settings(console="off", silent=True)
        name = "/".join(self.folder.parts[-6:])
        options: dict[str, Any] = {"dir": str(self.folder), "name": name, "config": self.config.as_dict(), "settings": settings}
        try:
            self._run = wandb.init(id=self._id(), resume="allow", **options)
        except (wandb.errors.Error, TimeoutError) as error:
            reason = str(error).splitlines()[0]
            raise RunError(f"--logger: wandb: {reason}; WANDB_MODE=offline needs neither a network nor a login") from error
        if self._run.offline:
            self._remove_former()
        else:
            self._first = self._run.starting_step
        self._run.define_metric("queries")
        self._run.define_metric("*", step_metric="queries")
        for entry in entries:
            self.add(entry)
        place = f"offline; wandb sync {Path(self._run.dir).parent}" if self._run.offline else self._run.url
        return f"Weights & Biases: {place}"

    def _id(self) -> str:
        """The run's id, drawn when it begins. It is a name and no number depends on it."""
        path = self.folder / WANDB_ID
        try:
            return str(json.loads(path.read_text(encoding="utf-8"))["id"])
        except (OSError, ValueError, KeyError, TypeError):
            drawn = secrets.token_hex(4)
            write_json(path, {"id": drawn})
            return drawn

    def _remove_former(self) -> None:
        current = Path(self._run.dir).parent.resolve()
        for path in (self.folder / WANDB_FOLDER).glob(f"offline-run-*-{self._run.id}"):
            if path.resolve() != current:
                shutil.rmtree(path)

    def add(self, entry: Entry) -> None:
        # a killed run may have sent steps beyond its last checkpoint; the resumed run computes them again, bit for bit
        if entry["step"] >= self._first:
            self._run.log(scalars(entry), step=entry["step"])

    def finish(self, result: Entry) -> None:
        self._run.summary.update({f"result/{key}": value for key, value in result.items()})

    def close(self, status: int) -> None:
        if self._run is not None:
            self._run.finish(exit_code=status)
