"""SIGKILL, as after a lost node or a power cut, at random moments does not change the results of a run."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from tests.helpers.runs import FLAGS, folder_of, kill_after, outcome, run_to_the_end
from utils.lock import LOCK
from utils.replay import find_checkpoint


def survive(flags: list[str], kills: int, seed: int, root: Path, log: Path) -> tuple[int, Path, Path]:
    """Runs `flags` uninterrupted, and again with up to `kills` kills. The number of kills, and the folders of both."""
    status, seconds = run_to_the_end([*flags, "--output_dir", str(root / "whole")], log)
    assert status == 0, log.read_text()
    generator, killed = random.Random(seed), 0
    broken = [*flags, "--output_dir", str(root / "broken")]
    # a start with its replay, then a share of the run such that it finishes after about `kills` kills
    share = 2 * seconds / kills
    while killed < kills:
        status = kill_after(generator.uniform(0, min(seconds, 0.7 + share)), broken, log)
        if status is None:
            killed += 1
            continue
        assert status == 0, log.read_text()
        if killed:
            break
        # the machine was busier when the uninterrupted run was timed
        shutil.rmtree(root / "broken")
        seconds /= 2
    else:
        assert run_to_the_end(broken, log)[0] == 0, log.read_text()
    whole, resumed = (next((root / name).rglob("result.json")).parent for name in ("whole", "broken"))
    assert outcome(resumed) == outcome(whole)
    assert {path.name for path in resumed.iterdir()} == {path.name for path in whole.iterdir()}
    assert "Traceback" not in log.read_text()
    return killed, whole, resumed


def test_run_killed_a_few_times_ends_like_an_uninterrupted_run(tmp_path: Path) -> None:
    killed, *_ = survive([*FLAGS, "--total_steps", "20"], 3, 1, tmp_path, tmp_path / "log")
    assert killed >= 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_short_run_survives_kills_at_random_moments(seed: int, tmp_path: Path) -> None:
    """Each run is killed once, at a moment drawn from its whole duration, including the start and the end: 10 runs per seed."""
    log, generator = tmp_path / "log", random.Random(seed)
    status, seconds = run_to_the_end([*FLAGS, "--output_dir", str(tmp_path / "whole")], log)
    assert status == 0
    expected = outcome(folder_of(tmp_path / "whole", "sharpzo"))
    killed = 0
    for number in range(10):
        flags = [*FLAGS, "--output_dir", str(tmp_path / str(number))]
        killed += kill_after(generator.uniform(0, seconds), flags, log) is None
        assert run_to_the_end(flags, log)[0] == 0, log.read_text()
        assert outcome(folder_of(tmp_path / str(number), "sharpzo")) == expected
    print(f"{killed} of 10 starts were killed")
    assert killed >= 5


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_embedded_default_survives_kills_at_random_moments(seed: int, tmp_path: Path) -> None:
    """The README's first command, except for its time: 10 kills per seed, 50 in all."""
    killed, *_ = survive([], 10, seed, tmp_path, tmp_path / "log")
    print(f"{killed} kills")
    assert killed >= 5


@pytest.mark.parametrize("trainer", ["sharpzo", "craft"])
def test_checkpoint_is_valid_at_every_moment(trainer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run can resume from what a kill would leave before each change to its files."""
    import os

    from main_sharpzo import main
    from utils import files

    folder, copies = folder_of(tmp_path / "run", trainer), []

    def copy() -> None:
        if folder.exists():
            copies.append(tmp_path / f"moment{len(copies)}")
            shutil.copytree(folder, copies[-1])

    replace, write = Path.replace, files.write_all

    def replacing(self: Path, target: Path) -> Path:
        copy()
        return replace(self, target)

    def writing(file: object, content: bytes, path: Path) -> None:
        copy()
        write(file, content[: len(content) // 2], path)
        copy()
        write(file, content[len(content) // 2 :], path)

    flags = [*FLAGS, "--total_steps", "5", "--prompt_trainer", trainer, "--output_dir", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replacing)
        patch.setattr("utils.replay.write_all", writing)
        assert main(flags) == 0
    assert len(copies) > 20
    document = json.loads(
        next(copy for copy in reversed(copies) if (copy / "checkpoint.json").exists()).joinpath("checkpoint.json").read_text()
    )
    steps = []
    for moment in copies:
        kept, refused = find_checkpoint(moment, document["settings_sha256"])
        assert not refused, (moment, sorted(os.listdir(moment)))  # noqa: PTH208
        steps.append(kept.step if kept else -1)
        assert (moment / LOCK).exists()
    assert steps == sorted(steps)
    assert steps[-1] == 5
