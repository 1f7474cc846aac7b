"""A signal at any moment: exit status 3, nothing lost, and the same command resumes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from datasets import features
from tests.helpers.runs import Broken, call_at, signal_self, stop_in_call
from trainers.blackbox.objective import Objective
from trainers.sharpzo.stage2 import SparseZO
from utils import replay, run
from utils.interrupt import Interrupted, interruptible
from utils.replay import CHECKPOINT, ReplayLog
from utils.run import Run

pytestmark = pytest.mark.usefixtures("one_mini")


@pytest.fixture(autouse=True)
def heeded_signals() -> Iterator[None]:
    """The signal handlers of a process in a terminal; a process in the background or under nohup ignores some signals."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


PLACES = {
    "image features": (features.FeatureReader, "_compute", 2),
    "line of the log": (ReplayLog, "record", 4),
    "between a step and its mark": (ReplayLog, "checkpoint", 3),
    "between two states": (replay, "write_json", 3),
    "while a state is written": (os, "fsync", 12),
    "first step": (ReplayLog, "query", 1),
    "evaluation": (Objective, "accuracy", 4),
    "before the result": (Run, "finish", 1),
    "after the result": (run, "remove_checkpoint", 1),
}


@pytest.mark.parametrize("place", PLACES)
def test_sigterm_anywhere_ends_with_status_three_and_the_same_command_resumes(
    place: str, whole: tuple, broken: Broken, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        call_at(patch, *PLACES[place], signal_self(signal.SIGTERM))
        assert broken.run() == 3
    assert re.fullmatch(r"interrupted \(SIGTERM\)( after step \d)?: run the same command to resume\n", broken.error)
    assert not list(tmp_path.rglob("*.tmp"))
    broken.ends_as(whole)


def test_sigterm_while_answers_are_repeated_loses_none(whole: tuple, broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    state = (broken.stopped(monkeypatch) / CHECKPOINT).read_text()
    with monkeypatch.context() as patch:
        call_at(patch, ReplayLog, "query", 3, signal_self(signal.SIGTERM))
        assert broken.run() == 3
    assert (broken.folder / CHECKPOINT).read_text() == state
    broken.ends_as(whole)


def test_signals_that_follow_the_first_are_ignored(whole: tuple, broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        call_at(patch, ReplayLog, "record", 4, signal_self(signal.SIGINT))
        for other in ("save", "close"):
            call_at(patch, ReplayLog, other, 3 if other == "save" else 1, signal_self(signal.SIGINT))
        assert broken.run() == 3
    assert "SIGINT" in broken.error
    broken.ends_as(whole)


def test_signal_that_a_library_swallows_stops_the_run_before_its_next_step(
    whole: tuple, broken: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deaf() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        call_at(patch, SparseZO, "step", 2, deaf)
        assert broken.run() == 3
    assert json.loads((broken.folder / CHECKPOINT).read_text())["checkpoint"]["step"] == 6
    broken.ends_as(whole)


def test_hang_up_interrupts_unless_it_is_ignored_as_below_nohup() -> None:
    with pytest.raises(Interrupted, match="SIGHUP"), interruptible():
        os.kill(os.getpid(), signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_only_a_resumed_run_logs_the_resumption(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    broken.stopped(monkeypatch)
    assert "earlier" not in broken.printed
    with monkeypatch.context() as patch:
        stop_in_call(patch, 8, Interrupted("test"))
        assert broken.run("--overwrite") == 3
    assert "going on" not in broken.printed
    assert "run the same command without --overwrite to resume" in broken.error
