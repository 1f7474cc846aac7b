"""One run on several ranks ends with the bits of one process, even if a rank is killed or hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from main_sharpzo import main
from tests.helpers.ranks import PATIENCE, run_ranks, start_ranks, statuses
from tests.helpers.runs import FINISHED, FLAGS, folder_of, outcome
from trainers import TRAINERS
from utils.config import REPOSITORY
from utils.settings import Config

# six passes per batch, which 1, 2 and 3 ranks share equally; points of several passes per rank
SHARED = [*FLAGS, "--threads", "1", "--passes_multiple", "6"]
LONG = [*SHARED, "--total_steps", "2000", "--prune_interval", "500", "--save_every", "100", "--eval_every", "0"]
KINDS = {
    "sharpzo": [],
    "sharpzo, unequal passes": ["--passes_multiple", "5"],
    "sharpzo, forward mode": ["--derivatives", "forward"],
    "sharpzo, torch's forward mode": ["--derivatives", "forward", "--engine", "stock", "--total_steps", "5"],
    "sharpzo, automatic change point": ["--change_point", "auto"],
    "sharpzo, early stopping": ["--patience", "2", "--eval_every", "1", "--total_steps", "30"],
    "mezo": [],
    "bbt": [],
    "sep-cma": [],
    "cge": [],
    "forward-gradient": ["--num_pertub", "7"],
}
OTHERS = [name for name, info in TRAINERS.items() if info.shared and name not in KINDS]


def same_on_any_number_of_ranks(trainer: str, more: list[str], root: Path) -> None:
    flags = [*SHARED, "--prompt_trainer", trainer, *(["--prompt_space", "full"] if TRAINERS[trainer].matrix else []), *more]
    assert run_ranks(1, [*flags, "--output_dir", str(root / "1")], root / "log1") == [0], (root / "log1" / "0").read_text()
    expected = outcome(folder_of(root / "1", trainer))
    for size in (2, 3):
        logs = root / f"log{size}"
        assert run_ranks(size, [*flags, "--output_dir", str(root / str(size))], logs) == [0] * size, (logs / "0").read_text()
        assert outcome(folder_of(root / str(size), trainer)) == expected
        assert [(logs / str(rank)).read_text() for rank in range(1, size)] == [""] * (size - 1)


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_ranks_gives_the_bits_of_one(kind: str, tmp_path: Path) -> None:
    same_on_any_number_of_ranks(kind.partition(",")[0], KINDS[kind], tmp_path)


def test_ranks_stop_early_at_the_step_where_one_process_does(tmp_path: Path) -> None:
    kind = "sharpzo, early stopping"
    assert run_ranks(2, [*SHARED, *KINDS[kind], "--output_dir", str(tmp_path)], tmp_path / "log") == [0, 0]
    assert "--patience 2: stopped after step" in (tmp_path / "log" / "0").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("trainer", OTHERS)
def test_any_number_of_ranks_gives_the_bits_of_one_for_every_trainer(trainer: str, tmp_path: Path) -> None:
    same_on_any_number_of_ranks(trainer, [], tmp_path)


def test_ranks_by_default_compute_the_passes_of_an_ordinary_run(tmp_path: Path) -> None:
    """The passes of 1 MiB, several per batch, without --passes_multiple."""
    flags = [*FLAGS, "--threads", "1", "--memory_limit", "1"]
    assert run_ranks(1, [*flags, "--output_dir", str(tmp_path / "1")], tmp_path / "log1") == [0]
    assert run_ranks(2, [*flags, "--output_dir", str(tmp_path / "2")], tmp_path / "log2") == [0, 0]
    assert outcome(folder_of(tmp_path / "2", "sharpzo")) == outcome(folder_of(tmp_path / "1", "sharpzo"))


def test_passes_are_shared_and_not_repeated(tmp_path: Path) -> None:
    """Each of 3 ranks computes a third of the passes of a run whose every batch has six."""
    flags = [*SHARED, "--prompt_trainer", "cge", "--eval_every", "0", "--output_dir", str(tmp_path / "run")]
    assert run_ranks(3, flags, tmp_path / "log", partial(count_passes, tmp_path)) == [0, 0, 0]
    # rank 0 alone evaluates the first and the last step
    counts = [int((tmp_path / f"passes{rank}").read_text()) for rank in range(3)]
    assert counts[1] == counts[2] == 9 * 2
    assert counts[0] == 9 * 2 + 2


def count_passes(folder: Path, rank: int) -> None:
    from trainers.blackbox.objective import Objective

    losses, passes = Objective._losses, 0

    def counted(self, *arguments):
        nonlocal passes
        passes += 1
        (folder / f"passes{rank}").write_text(str(passes))
        return losses(self, *arguments)

    Objective._losses = counted


@pytest.mark.parametrize("victim", [0, 1])
def test_run_whose_rank_is_killed_ends_and_resumes_to_the_same_bits(victim: int, tmp_path: Path) -> None:
    flags = [*LONG, "--output_dir", str(tmp_path / "broken")]
    folder = folder_of(tmp_path / "broken", "sharpzo")
    ranks = start_ranks(2, flags, tmp_path / "log")
    wait_for(folder / "checkpoint.previous.json")
    ranks[victim].kill()
    begun = time.monotonic()
    ended = statuses(ranks)
    # the broken connection ends the other rank, not --rank_timeout
    assert time.monotonic() - begun < Config().rank_timeout / 2
    assert ended[victim] == -signal.SIGKILL
    assert ended[1 - victim] == 1
    assert "a rank ended or did not answer" in "".join((tmp_path / "log" / str(rank)).read_text() for rank in (0, 1))
    assert not list(folder.glob("*.tmp"))
    # under any number of ranks
    assert run_ranks(3, flags, tmp_path / "again") == [0, 0, 0]
    assert "resuming after step" in (tmp_path / "again" / "0").read_text()
    assert main([*LONG, "--output_dir", str(tmp_path / "whole")]) == 0
    assert outcome(folder) == outcome(folder_of(tmp_path / "whole", "sharpzo"))
    assert {path.name for path in folder.iterdir()} == FINISHED


def test_rank_that_hangs_is_found_by_the_timeout(tmp_path: Path) -> None:
    flags = [*LONG, "--rank_timeout", "10", "--output_dir", str(tmp_path / "run")]
    folder = folder_of(tmp_path / "run", "sharpzo")
    ranks = start_ranks(2, flags, tmp_path / "log")
    wait_for(folder / "checkpoint.json")
    os.kill(ranks[1].pid, signal.SIGSTOP)
    ranks[0].join(PATIENCE)
    ranks[1].kill()
    assert statuses(ranks)[0] == 1
    assert "did not answer within 10 s (--rank_timeout)" in (tmp_path / "log" / "0").read_text()


def test_time_limit_stops_all_ranks_at_the_same_step(tmp_path: Path) -> None:
    flags = [*LONG, "--max_seconds", "6", "--output_dir", str(tmp_path / "run")]
    assert run_ranks(2, [*flags, "--total_steps", "200000"], tmp_path / "log") == [3, 3]
    assert "interrupted (--max_seconds)" in (tmp_path / "log" / "0").read_text()
    assert (tmp_path / "log" / "1").read_text() == ""


def other_versions(rank: int) -> None:
    from utils import ranks

    versions = ranks.package_versions()
    ranks.package_versions = lambda: versions | ({"numpy": "1.0"} if rank else {})


def other_weights(rank: int) -> None:
    from clip.backbone import Backbone

    if rank:
        Backbone.fingerprint = lambda self: "other"


def other_data(rank: int) -> None:
    from datasets.features import FeatureReader

    if rank:
        read = FeatureReader.__call__

        def other_features(self, *arguments):
            features, labels = read(self, *arguments)
            return features + 1, labels

        FeatureReader.__call__ = other_features


@pytest.mark.parametrize(
    ("change", "named"), [(other_versions, "numpy is 1.0"), (other_weights, "weights is other"), (other_data, "that of the data")]
)
def test_ranks_that_differ_are_refused_in_one_line_and_leave_no_folder(change, named: str, tmp_path: Path) -> None:
    flags = [*SHARED, "--output_dir", str(tmp_path / "run")]
    assert run_ranks(3, flags, tmp_path / "log", change) == [2, 2, 2]
    (line,) = "".join((tmp_path / "log" / str(rank)).read_text() for rank in range(3)).splitlines()
    assert named in line
    assert "all ranks must agree" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--prompt_trainer", "fo"], "--prompt_trainer: fo"),
        (["--stage2", "fo"], "--stage2: fo"),
        (["--prompt_trainer", "coop"], "--prompt_trainer: coop"),
        (["--prompt_trainer", "craft"], "--prompt_trainer: craft"),
        (["--prompt_trainer", "tip-adapter"], "--prompt_trainer: tip-adapter"),
        (["--prompt_trainer", "zero-shot"], "--prompt_trainer: zero-shot"),
        (["--smoothness_estimator", "fo"], "--smoothness_estimator: fo"),
        (["--device", "cuda:0"], "--device: cuda:0"),
    ],
)
def test_run_that_ranks_cannot_share_is_refused_in_one_line(flags: list[str], named: str, tmp_path: Path) -> None:
    assert run_ranks(2, [*FLAGS, *flags, "--output_dir", str(tmp_path / "run")], tmp_path / "log") == [2, 2]
    (line,) = (tmp_path / "log" / "0").read_text().splitlines()
    assert line.startswith(f"error: {named}")
    assert (tmp_path / "log" / "1").read_text() == ""
    assert not (tmp_path / "run").exists()


def test_finished_run_is_reported_once(tmp_path: Path) -> None:
    flags = [*SHARED, "--output_dir", str(tmp_path / "run")]
    assert run_ranks(2, flags, tmp_path / "log") == [0, 0]
    assert run_ranks(2, flags, tmp_path / "again") == [0, 0]
    assert "finished already" in (tmp_path / "again" / "0").read_text()
    assert (tmp_path / "again" / "1").read_text() == ""


def test_torchrun_restarts_a_killed_rank_and_the_run_ends_as_one_process(tmp_path: Path) -> None:
    """The real launcher: a rank is killed, all are started again, and the run resumes."""
    folder = folder_of(tmp_path / "run", "sharpzo")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max_restarts=1"]
    command += [str(REPOSITORY / "main_sharpzo.py"), *LONG, "--overwrite", "--output_dir", str(tmp_path / "run")]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as launcher:
        try:
            wait_for(folder / "checkpoint.json")
            os.kill(child_of(launcher.pid, last=True), signal.SIGKILL)
            assert launcher.wait(PATIENCE) == 0, (tmp_path / "log").read_text()
        finally:
            launcher.terminate()
    assert "resuming after step" in (tmp_path / "log").read_text()
    assert main([*LONG, "--output_dir", str(tmp_path / "whole")]) == 0
    assert outcome(folder) == outcome(folder_of(tmp_path / "whole", "sharpzo"))


def child_of(pid: int, last: bool) -> int:
    """The process id of the first or the last child."""
    children = sorted(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return children[-1 if last else 0]


def wait_for(path: Path, seconds: float = PATIENCE) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.02)
