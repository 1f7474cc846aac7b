"""An interrupted run resumes and ends with the bits of an uninterrupted one; a damaged checkpoint is refused with its reason."""

from __future__ import annotations

import json
import math
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from clip.backbone import Backbone
from datasets.features import FeatureReader
from main_sharpzo import main
from tests.helpers.runs import FLAGS, Broken, folder_of, outcome, stop_in_call, whole_and_resumed
from trainers import TRAINERS
from trainers.blackbox.objective import Objective
from trainers.sharpzo.algorithm import SharpZO
from trainers.sharpzo.stage1 import SharpnessAwareCMAES
from utils import identity
from utils.interrupt import Interrupted
from utils.lock import lock
from utils.replay import CHECKPOINT, LOSSES, PREVIOUS_CHECKPOINT

trainers = pytest.mark.parametrize("trainer", [name for name, info in TRAINERS.items() if info.build])


@trainers
def test_run_interrupted_twice_ends_like_an_uninterrupted_run(
    trainer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, resumed = whole_and_resumed(FLAGS, trainer, tmp_path, monkeypatch)
    assert outcome(resumed) == outcome(whole)
    assert {path.name for path in resumed.iterdir()} == {path.name for path in whole.iterdir()}


def test_resumed_run_does_not_compute_its_first_steps_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = [*FLAGS, "--prompt_trainer", "sharpzo", "--output_dir", str(tmp_path)]
    with monkeypatch.context() as patch:
        stop_in_call(patch, 12, Interrupted("test"))
        assert main(flags) == 3
    computed: list[int] = []
    losses = Objective._losses

    def counted(self, W, images, dtype):
        computed.append(len(W))
        return losses(self, W, images, dtype)

    monkeypatch.setattr(Objective, "_losses", counted)
    assert main(flags) == 0
    log = (folder_of(tmp_path, "sharpzo") / "log.txt").read_text()
    step = int(re.search(r"resuming after step (\d+)", log).group(1))
    assert step >= 4
    # 2d + S queries per step of stage 1, none of them recomputed
    assert sum(computed) < 4 * (2 * 16 + 4)


@pytest.mark.parametrize(
    "damage", ["truncated checkpoint", "changed checkpoint", "changed losses", "lost losses", "changed log", "foreign"]
)
def test_damaged_state_is_refused_with_its_reason_and_the_previous_one_is_used(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    flags = [*FLAGS, "--prompt_trainer", "sharpzo"]
    assert main([*flags, "--output_dir", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        stop_in_call(patch, 8, Interrupted("test"))
        assert main([*flags, "--output_dir", str(tmp_path / "broken")]) == 3
    folder = folder_of(tmp_path / "broken", "sharpzo")
    state, answers, log = folder / CHECKPOINT, folder / LOSSES, folder / "metrics.jsonl"
    kept = json.loads(state.read_text())["checkpoint"]["step"]
    if damage == "truncated checkpoint":
        state.write_text(state.read_text()[:-20])
    elif damage == "changed checkpoint":
        state.write_text(state.read_text().replace(f'"step": {kept}', f'"step": {kept + 1}'))
    elif damage == "changed losses":
        answers.write_bytes(answers.read_bytes()[:-1] + b"\x01")
    elif damage == "lost losses":
        answers.write_bytes(answers.read_bytes()[:-8])
    elif damage == "changed log":
        log.write_text(log.read_text()[:-2] + "}}")
    else:
        state.write_text('{"step": 3}')
    capsys.readouterr()
    assert main([*flags, "--output_dir", str(tmp_path / "broken")]) == 0
    out = capsys.readouterr().out
    assert f"warning: {state}: ignored: " in out
    assert f"resuming after step {kept - 1}" in out
    assert outcome(folder) == outcome(folder_of(tmp_path / "whole", "sharpzo"))


def test_with_both_states_damaged_the_run_starts_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    flags = [*FLAGS, "--prompt_trainer", "zo", "--output_dir", str(tmp_path)]
    with monkeypatch.context() as patch:
        stop_in_call(patch, 8, Interrupted("test"))
        assert main(flags) == 3
    folder = folder_of(tmp_path, "zo")
    for name in (CHECKPOINT, PREVIOUS_CHECKPOINT):
        (folder / name).write_bytes(b"\x80\x04garbage")
    assert main(flags) == 0
    assert "starting over" in capsys.readouterr().out


def test_interrupted_run_with_another_setting_is_refused_naming_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    flags = [*FLAGS, "--output_dir", str(tmp_path)]
    with monkeypatch.context() as patch:
        stop_in_call(patch, 3, Interrupted("test"))
        assert main(flags) == 3
    assert main([*flags, "--sigma", "0.3"]) == 2
    assert "sigma" in capsys.readouterr().err
    # settings that change no result do not identify a run
    assert main([*flags, "--save_every", "3", "--max_seconds", "600"]) == 0


def test_second_process_in_a_run_folder_is_refused_until_the_first_ends(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import subprocess
    import sys
    import time

    folder = folder_of(tmp_path, "sharpzo")
    folder.mkdir(parents=True)
    code = f"import sys, time; from pathlib import Path; from utils.run import lock; held = lock(Path({str(folder)!r})); "
    holder = subprocess.Popen([sys.executable, "-c", code + "print('held', flush=True); time.sleep(600)"], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        assert main([*FLAGS, "--output_dir", str(tmp_path)]) == 1
        assert "another process is running this run" in capsys.readouterr().err
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    time.sleep(0.1)
    assert main([*FLAGS, "--output_dir", str(tmp_path)]) == 0
    lock(folder)[0].close()


def test_run_resumed_with_other_versions_logs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    flags = [*FLAGS, "--output_dir", str(tmp_path)]
    with monkeypatch.context() as patch:
        stop_in_call(patch, 8, Interrupted("test"))
        assert main(flags) == 3
    environment = folder_of(tmp_path, "sharpzo") / "env.json"
    document = json.loads(environment.read_text())
    document["packages"]["torch"] = "1.0"
    document["commit"] = "0" * 40
    environment.write_text(json.dumps(document))
    assert main(flags) == 0
    warning = f"warning: the run started with torch 1.0, commit {'0' * 40}; "
    assert warning in capsys.readouterr().out


def test_run_out_of_time_stops_between_steps_with_status_three(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ["--shots", "2", "--no-cache", "--output_dir", str(tmp_path)]
    assert main([*flags, "--max_seconds", "2"]) == 3
    assert "--max_seconds" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from utils.errors import RunError

    flags = [*FLAGS, "--output_dir", str(tmp_path)]
    with monkeypatch.context() as patch:
        stop_in_call(patch, 6, RunError("loss nan at query 99"))
        assert main(flags) == 1
    assert capsys.readouterr().err == "error: loss nan at query 99; in step 3\n"
    assert json.loads((folder_of(tmp_path, "sharpzo") / CHECKPOINT).read_text())["checkpoint"]["step"] == 2


def other_points(patch: pytest.MonkeyPatch) -> None:
    worst_case = SharpnessAwareCMAES.worst_case
    patch.setattr(SharpnessAwareCMAES, "worst_case", lambda self, loss: 1.01 * worst_case(self, loss))


def other_weights(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Backbone, "fingerprint", lambda self: "0" * 64)


def other_images(patch: pytest.MonkeyPatch) -> None:
    read = FeatureReader.__call__

    def changed(*arguments: object) -> tuple:
        features, labels = read(*arguments)
        return features.roll(1, 0), labels

    patch.setattr(FeatureReader, "__call__", changed)


def fewer_answers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SharpnessAwareCMAES, "worst_case", lambda self, loss: 0.0)


def fewer_steps(patch: pytest.MonkeyPatch) -> None:
    plan = SharpZO.num_queries
    patch.setattr(SharpZO, "num_queries", lambda self, steps: math.nan if self.steps == 2 else plan(self, steps))


@pytest.mark.parametrize(
    ("change", "stopped_at", "said"),
    [
        (other_points, 8, "cannot resume: code, packages, weights"),
        (fewer_answers, 8, "cannot resume: code, packages, weights"),
        (fewer_steps, 8, "cannot resume: code, packages, weights"),
        (other_weights, 8, "holds an unfinished run with other weights"),
        (other_weights, 1, "holds an unfinished run with other weights"),
        (other_images, 8, "holds an unfinished run with other images"),
    ],
)
@pytest.mark.usefixtures("one_mini")
def test_run_whose_code_weights_or_images_have_changed_is_refused_until_they_are_back(
    change: Callable, stopped_at: int, said: str, whole: tuple, broken: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = (broken.stopped(monkeypatch, stopped_at) / CHECKPOINT).read_bytes()
    with monkeypatch.context() as patch:
        change(patch)
        assert broken.run() == (1 if "code" in said else 2)
    assert f"{broken.folder}: {said}" in broken.error
    assert (broken.folder / CHECKPOINT).read_bytes() == state
    broken.ends_as(whole)


@pytest.mark.usefixtures("one_mini")
def test_losses_of_a_run_without_digests_are_compared_when_they_are_replayed(
    whole: tuple, broken: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """env.json of earlier versions lacks them."""
    environment = broken.stopped(monkeypatch) / "env.json"
    document = {key: value for key, value in json.loads(environment.read_text()).items() if not key.endswith("_sha256")}
    environment.write_text(json.dumps(document))
    with monkeypatch.context() as patch:
        other_images(patch)
        assert broken.run() == 1
    assert f"{broken.folder}: cannot resume: code, packages, weights" in broken.error
    broken.ends_as(whole)


GRADIENTS = {"coop": ("coop",), "fo": ("fo",), "stage 2": ("sharpzo", "--stage2", "fo")}


@pytest.mark.parametrize("name", GRADIENTS)
def test_run_that_backpropagates_records_one_number_per_step_and_its_trained_tensors(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, *more = GRADIENTS[name]
    flags = [*FLAGS, "--prompt_trainer", trainer, *more]
    assert main([*flags, "--output_dir", str(tmp_path / "whole")]) == 0
    broken, folder = [*flags, "--output_dir", str(tmp_path / "broken")], folder_of(tmp_path / "broken", trainer)
    # four steps of stage 1 query twice each
    stage1 = 8 if more else 0
    with monkeypatch.context() as patch:
        stop_in_call(patch, stage1 + 4, Interrupted("test"))
        assert main(broken) == 3
    assert (folder / LOSSES).stat().st_size == 8 * (3 + (4 * (2 * 16 + 4) if more else 0))
    assert main(broken) == 0
    assert outcome(folder) == outcome(folder_of(tmp_path / "whole", trainer))


def test_run_of_a_version_without_a_setting_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The version that began the run did not know --patience."""
    flags = [*FLAGS, "--output_dir", str(tmp_path)]
    known = identity.identity

    def without(settings):
        return {key: value for key, value in known(settings).items() if key != "patience"}

    with monkeypatch.context() as patch:
        patch.setattr(identity, "identity", without)
        stop_in_call(patch, 8, Interrupted("test"))
        assert main(flags) == 3
    config = folder_of(tmp_path, "sharpzo") / "config.yaml"
    config.write_text("".join(line for line in config.read_text().splitlines(keepends=True) if "patience" not in line))
    assert main(flags) == 0
    assert "resuming after step" in capsys.readouterr().out
