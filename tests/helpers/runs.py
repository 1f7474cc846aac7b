"""Short whole runs that tests interrupt, in this process or in another, and the results that must not depend on it."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from clip.prompt import load_prompt
from main_sharpzo import main
from utils.interrupt import Interrupted
from utils.replay import CHECKPOINT, ReplayLog

FINISHED = {"config.yaml", "env.json", "log.txt", "metrics.jsonl", "prompt.safetensors", "result.json", "split.json"}
SMALL = {"shots": 2, "popsize": 4, "intrinsic_dim": 16, "total_steps": 9, "change_point": 4, "eval_every": 2}
FLAGS = [text for key, value in (SMALL | {"prune_interval": 2, "save_every": 1}).items() for text in (f"--{key}", str(value))]


def outcome(folder: Path) -> tuple[str, dict, dict]:
    """The results that must not depend on interruptions: the log without its times, the prompt's tensors as bytes, the result."""
    metrics = re.sub(r'"seconds": [\d.e-]+', "", (folder / "metrics.jsonl").read_text())
    tensors = {name: tensor.numpy().tobytes() for name, tensor in load_prompt(folder / "prompt.safetensors")[0].items()}
    result = json.loads((folder / "result.json").read_text())
    return metrics, tensors, {key: value for key, value in result.items() if "seconds" not in key}


def folder_of(output: Path, trainer: str) -> Path:
    return output / "digits" / trainer / "Mini" / "2shots" / "seed1"


def stop_in_call(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> None:
    """Makes the `number`-th query from here on raise `error`."""
    count = 0
    query = ReplayLog.query

    def counting(self, points, size, compute):
        nonlocal count
        if not self.replaying:
            count += 1
            if count == number:
                raise error
        return query(self, points, size, compute)

    monkeypatch.setattr(ReplayLog, "query", counting)


def whole_and_resumed(
    flags: list[str], trainer: str, root: Path, monkeypatch: pytest.MonkeyPatch, queries: tuple[int, ...] = (5, 2)
) -> tuple[Path, Path]:
    """The folders of an uninterrupted run and of a run interrupted in the n-th new query of each start, n in `queries`."""
    flags = [*flags, "--prompt_trainer", trainer]
    assert main([*flags, "--output_dir", str(root / "whole")]) == 0
    interrupted = [*flags, "--output_dir", str(root / "interrupted")]
    for number in queries:
        with monkeypatch.context() as patch:
            stop_in_call(patch, number, Interrupted("test"))
            assert main(interrupted) == 3
        assert (folder_of(root / "interrupted", trainer) / CHECKPOINT).exists()
    assert main(interrupted) == 0
    return folder_of(root / "whole", trainer), folder_of(root / "interrupted", trainer)


class Broken:
    """A run below tmp_path that is interrupted; `error` is the one line that it ended with."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture):
        self.root, self.capsys = root, capsys
        self.folder = folder_of(root, "sharpzo")
        self.error = self.printed = ""

    def run(self, *more: str) -> int:
        self.capsys.readouterr()
        status = main([*FLAGS, "--output_dir", str(self.root), *more])
        self.printed, self.error = self.capsys.readouterr()
        assert len(self.error.splitlines()) == (1 if status else 0)
        return status

    def stopped(self, monkeypatch: pytest.MonkeyPatch, query: int = 8) -> Path:
        with monkeypatch.context() as patch:
            stop_in_call(patch, query, Interrupted("test"))
            assert self.run() == 3
        return self.folder

    def ends_as(self, whole: tuple) -> None:
        assert self.run() == 0
        assert outcome(self.folder) == whole
        assert {path.name for path in self.folder.iterdir()} == FINISHED


def call_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, number: int, act: Callable[[], None]) -> None:
    """Makes the `number`-th call of `owner.name` do `act` first."""
    calls, whole = 0, getattr(owner, name)

    def counting(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            act()
        return whole(*arguments, **options)

    monkeypatch.setattr(owner, name, counting)


def signal_self(number: signal.Signals) -> Callable[[], None]:
    """Sends this process a signal, which arrives before the next line runs."""
    return lambda: os.kill(os.getpid(), number)


def run_command(flags: list[str], log: Path) -> None:
    """main in its own process; its output goes to `log`."""
    import sys

    from clip import backbone
    from tests.helpers.preload import MINI

    backbone.load_backbone = lambda *_: MINI
    with log.open("a") as sys.stdout, log.open("a") as sys.stderr:
        status = main(flags)
    os._exit(status)


def start(flags: list[str], log: Path) -> BaseProcess:
    """Starts main in a process that a server forks, so that it need not import torch again."""
    return fork(run_command, flags, log)


def fork(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["main_sharpzo", "tests.helpers.preload"])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def kill_after(seconds: float, flags: list[str], log: Path) -> int | None:
    """Starts main and sends it SIGKILL after `seconds`. Returns its exit status, or None if it was killed first."""
    process = start(flags, log)
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode if process.exitcode >= 0 else None


def run_to_the_end(flags: list[str], log: Path) -> tuple[int, float]:
    """Exit status and seconds of main in its own process."""
    # the server itself starts with the first process that it forks
    fork(time.sleep, 0).join()
    begun = time.monotonic()
    process = start(flags, log)
    process.join()
    return process.exitcode, time.monotonic() - begun
