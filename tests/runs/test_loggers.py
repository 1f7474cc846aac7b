"""Loggers get the numbers of metrics.jsonl, also from a run that was killed and resumed."""

from __future__ import annotations

import json
import signal
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import main_sharpzo
from tests.helpers.ranks import run_ranks
from tests.helpers.runs import FLAGS, Broken, call_at, folder_of, outcome, signal_self
from utils.replay import ReplayLog

pytestmark = pytest.mark.usefixtures("one_mini")


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of each tag in the event files, in order, by the reader that TensorBoard itself uses."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in loader.LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                found[value.tag].append((event.step, value.simple_value))
    return found


def expected(folder: Path, x: str, prefix: str = "") -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for entry in metrics(folder):
        for key, value in entry.items():
            if key != x:
                found[prefix + key].append((entry[x], pytest.approx(value)))
    return found


def check_curves(folder: Path) -> None:
    found = curves(folder)
    result = json.loads((folder / "result.json").read_text())
    for name in ("zero_shot_accuracy", "test_accuracy"):
        assert found.pop(f"result/{name}") == [(result["queries"], pytest.approx(result[name]))]
    assert found == expected(folder, "queries") | expected(folder, "step", "step/")


def test_tensorboard_has_every_metric_against_queries_and_steps(broken: Broken) -> None:
    pytest.importorskip("tensorboard")
    assert broken.run("--logger", "tensorboard") == 0
    check_curves(broken.folder)
    assert len(curves(broken.folder)["loss"]) == 9


@pytest.mark.parametrize("number", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(9, marks=pytest.mark.slow)])
def test_tensorboard_continues_its_curves_after_a_kill(number: int, broken: Broken, tmp_path: Path, whole: tuple) -> None:
    """Killed while step `number` is saved: the event file has entries of that step that the checkpoint lacks."""
    pytest.importorskip("tensorboard")
    from tests.helpers.runs import fork

    process = fork(run_until_killed, number, [*FLAGS, "--output_dir", str(broken.root), "--logger", "tensorboard"])
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert broken.run("--logger", "tensorboard") == 0 and "resuming after step" in broken.printed
    assert outcome(broken.folder) == whole
    check_curves(broken.folder)


def run_until_killed(number: int, flags: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        call_at(patch, ReplayLog, "save", number + 1, signal_self(signal.SIGKILL))
        main_sharpzo.main(flags)


def test_a_logger_may_be_added_when_a_run_is_resumed(broken: Broken, monkeypatch: pytest.MonkeyPatch, whole: tuple) -> None:
    pytest.importorskip("tensorboard")
    broken.stopped(monkeypatch)
    assert broken.run("--logger", "tensorboard") == 0
    assert outcome(broken.folder) == whole
    check_curves(broken.folder)


def test_overwriting_a_run_removes_its_curves(broken: Broken) -> None:
    pytest.importorskip("tensorboard")
    assert broken.run("--logger", "tensorboard") == 0
    assert broken.run("--overwrite") == 0
    assert not curves(broken.folder)


class FakeWandb(ModuleType):
    """The part of wandb that a run uses; it records what it is sent, by run id, as the server does."""

    Settings = SimpleNamespace
    errors = SimpleNamespace(Error=type("Error", (Exception,), {}))

    def __init__(self) -> None:
        super().__init__("wandb")
        self.offline = False
        self.server: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
        self.inits: list[dict[str, Any]] = []
        self.run: Any = None
        self.statuses: list[int] = []

    def init(self, **options: Any) -> Any:
        self.inits.append(options)
        folder = Path(options["dir"], "wandb", f"offline-run-{len(self.inits)}-{options['id']}", "files")
        folder.mkdir(parents=True)
        history = {} if self.offline else self.server[options["id"]]
        if self.offline:
            self.server[str(folder)] = history

        def log(entry: dict[str, float], step: int) -> None:
            assert step not in history
            history[step] = entry

        self.run = SimpleNamespace(
            id=options["id"],
            dir=str(folder),
            url="https://example.org/run",
            offline=self.offline,
            starting_step=max(history, default=-1) + 1,
            defined=[],
            define_metric=lambda *names, **kinds: self.run.defined.append((names, kinds)),
            log=log,
            summary={},
            finish=lambda exit_code: self.statuses.append(exit_code),
        )
        return self.run


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_wandb_gets_every_metric_against_queries(wandb: FakeWandb, broken: Broken) -> None:
    assert broken.run("--logger", "wandb") == 0
    (history,) = wandb.server.values()
    assert list(history.values()) == metrics(broken.folder) and list(history) == list(range(10))
    assert ((("*",), {"step_metric": "queries"})) in wandb.run.defined
    result = json.loads((broken.folder / "result.json").read_text())
    assert wandb.run.summary["result/test_accuracy"] == result["test_accuracy"]
    assert wandb.inits[0]["config"]["popsize"] == 4 and wandb.statuses == [0]


@pytest.mark.parametrize("offline", [False, True])
def test_wandb_continues_its_curves(
    offline: bool, wandb: FakeWandb, broken: Broken, monkeypatch: pytest.MonkeyPatch, whole: tuple
) -> None:
    wandb.offline = offline
    with monkeypatch.context() as patch:
        # the step is sent, and the run dies before it is saved
        save, calls = ReplayLog.save, []

        def saving(self: ReplayLog) -> None:
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            if len(calls) > 2:
                raise OSError("no space left")
            save(self)

        patch.setattr(ReplayLog, "save", saving)
        assert broken.run("--logger", "wandb", "--save_every", "3") == 3
    assert json.loads((broken.folder / "checkpoint.json").read_text())["checkpoint"]["step"] == 3
    assert 6 in next(iter(wandb.server.values()))
    assert wandb.statuses == [1]
    assert broken.run("--logger", "wandb") == 0
    assert outcome(broken.folder) == whole
    first, second = wandb.inits
    assert first["id"] == second["id"] and second["resume"] == "allow"
    if offline:
        # a single folder is left, with all steps
        (kept,) = (broken.folder / "wandb").iterdir()
        history = wandb.server[str(kept / "files")]
    else:
        (history,) = wandb.server.values()
    without = [{key: value for key, value in entry.items() if key != "seconds"} for entry in metrics(broken.folder)]
    assert [{key: value for key, value in entry.items() if key != "seconds"} for entry in history.values()] == without


def test_a_run_in_wandbs_offline_mode_leaves_a_folder_to_sync(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert broken.run("--logger", "wandb,tensorboard") == 0
    (folder,) = (broken.folder / "wandb").glob("offline-run-*")
    assert list(folder.glob("*.wandb")) and f"wandb sync {folder}" in broken.printed
    check_curves(broken.folder)


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_missing_package_is_reported_in_one_line_with_its_extra(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    assert main_sharpzo.main([*FLAGS, "--logger", name, "--output_dir", str(tmp_path / "o")]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and f"pip install -e '.[{name}]'" in error
    assert not (tmp_path / "o").exists()


def test_loggers_are_imported_only_if_chosen(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    assert broken.run() == 0
    assert not list(broken.folder.glob("events*"))


@pytest.mark.parametrize(
    ("value", "reason"), [("tensorbord", "did you mean 'tensorboard'?"), ("wandb,wandb", "names a logger twice")]
)
def test_unknown_loggers_are_refused(value: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main_sharpzo.main(["--logger", value]) == 2
    assert reason in capsys.readouterr().err


def test_followers_of_a_run_on_several_ranks_open_no_logger(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    flags = [*FLAGS, "--output_dir", str(tmp_path), "--logger", "tensorboard", "--threads", "1"]
    assert run_ranks(2, flags, tmp_path / "logs") == [0, 0]
    assert len(list(tmp_path.rglob("events.out.tfevents.*"))) == 1
    check_curves(folder_of(tmp_path, "sharpzo"))
