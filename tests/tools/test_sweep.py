"""The grid of a sweep, its arguments, and the shell script around it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from tests.helpers.sweeps import DIGITS, swept
from tools import sweep
from tools.common import paper
from tools.common.devices import devices_of
from tools.common.names import OURS
from tools.common.runs import Job
from utils.config import REPOSITORY


def test_missing_card_or_data_is_reported_before_any_run(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert swept(tmp_path, "--devices", "cuda:0", "cuda:1") == 2
    assert capsys.readouterr().err == "error: --devices: cuda:1: this machine has 1 CUDA devices\n"
    output = ("--output_dir", str(tmp_path))
    for flags, words in (
        (("--datasets", "dtd", "eurosat"), "--root_path: dataset dtd requires the folder that holds dtd/"),
        (("--datasets", "eurosat"), "--root_path: dataset eurosat requires the folder that holds eurosat/"),
        (("--datasets", "eurosat", "--root_path", str(tmp_path / "no")), "no such folder"),
        (("--datasets", "mnist", "--methods", OURS), "mnist is for evaluation only"),
    ):
        assert sweep.main([*flags, *output]) == 2
        assert words in capsys.readouterr().err
    assert not calls.exists()


def test_zero_shot_runs_once_and_a_grid_names_its_points() -> None:
    argv = ["--datasets", "digits", "--methods", "zero-shot", OURS, "--shots", "4", "16"]
    jobs = sweep.make_jobs(sweep.parse([*argv, "--grid", "sigma=0.2,0.4", "--grid", "zo_lr=0.1", "--", "--total_steps", "50"]))
    assert all(job.config.total_steps == 50 for job in jobs)
    trained = [job for job in jobs if job.config.prompt_trainer == OURS]
    assert len(trained) == 2 * 3 * 2
    assert {(job.config.run_name, job.config.sigma) for job in trained} == {
        ("sigma0.2-zo_lr0.1", 0.2),
        ("sigma0.4-zo_lr0.1", 0.4),
    }
    zero_shot = [job for job in jobs if job not in trained]
    assert len(zero_shot) == 2
    # next to the paper's 16-shot figures
    assert {job.config.shots for job in zero_shot} == {16}


def test_run_under_another_template_does_not_count(calls: Path, tmp_path: Path) -> None:
    assert swept(tmp_path, "--seeds", "1") == 0
    (job,) = sweep.make_jobs(sweep.parse([*DIGITS, "--seeds", "1", "--output_dir", str(tmp_path / "out folder")]))
    assert job.state == "finished"
    assert Job((*job.flags, "--template", "a photo of a {}.")).state == "other settings"


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (("--methods", "sharpzoo"), "--methods: unknown trainer 'sharpzoo'"),
        (("--grid", "sgima=1"), "--grid: 'sgima=1'"),
        (("--processes", "0"), "--processes: 0"),
        (("--devices", "gpu"), "--devices: 'gpu'"),
        (("--shots", "0"), "--shots: 0"),
    ],
)
def test_bad_argument_is_refused_in_one_line(argv: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main(["--datasets", "digits", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {named}") and captured.err.count("\n") == 1
    assert not captured.out


def test_different_runs_of_one_folder_are_refused_and_the_same_run_runs_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (("same", ""), ("mine", "sigma: 0.3\n")):
        shipped = (REPOSITORY / "configs" / "digits.yaml").read_text(encoding="utf-8")
        (tmp_path / f"{name}.yaml").write_text(shipped.replace("sigma: 0.4\n", text or "sigma: 0.4\n", 1), encoding="utf-8")
    twice = ["--datasets", "digits", str(tmp_path / "same.yaml"), "--seeds", "1", "--methods", OURS]
    assert len(sweep.make_jobs(sweep.parse(twice))) == 1
    for argv, keys in (
        (("digits", str(tmp_path / "mine.yaml")), "sigma"),
        (("digits", "--grid", "sigma=0.2,0.4", "--grid", "zo_lr=0.1,0.2", "--", "--run_name", "x"), "zo_lr"),
    ):
        assert sweep.main(["--methods", OURS, "--seeds", "1", "--dry-run", "--datasets", *argv]) == 2
        captured = capsys.readouterr()
        assert "16shots/seed1: two runs would share this folder but differ in " + keys in captured.err
        assert captured.err.count("\n") == 1 and not captured.out


def test_shell_script_works_from_any_directory_and_with_spaces_in_paths(tmp_path: Path) -> None:
    (tmp_path / "my data").mkdir()
    script = REPOSITORY / "run_all_final_exps.sh"
    environment = os.environ | {"PYTHON": sys.executable, "ROOT_PATH": "my data", "SEEDS": "1 2", "OUTPUT_DIR": "my runs"}
    argv = ["--datasets", "eurosat", "--methods", OURS, "--backbones", "RN50", "--shots", "16", "--dry-run"]
    done = subprocess.run([str(script), *argv], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "left: 1,342,704 queries"
    done = subprocess.run(
        [str(script), *argv[:-1], "--print-commands"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and "--root_path 'my data' --output_dir 'my runs'" in lines[0]


@pytest.mark.parametrize(
    ("flags", "slots"),
    [
        ((), ["cpu"]),
        (("--devices=cuda:0",), ["cuda:0"]),
        (("--devices", "cuda:0", "cuda:1"), ["cuda:0", "cuda:1"]),
        (("--processes=2",), ["cpu", "cpu"]),
        (("--devices", "cuda:0", "--processes", "2"), ["cuda:0", "cuda:0"]),
    ],
)
def test_arguments_of_the_shell_script_override_its_variables(flags: tuple[str, ...], slots: list[str], tmp_path: Path) -> None:
    environment = os.environ | {"DEVICES": "cpu"}
    assert devices_of(sweep.parse(script_arguments(*flags, environment=environment, cwd=tmp_path))) == slots


def test_datasets_of_the_shell_script_bring_their_own_backbones_and_shots(tmp_path: Path) -> None:
    chosen = sweep.parse(script_arguments("--datasets", "digits", cwd=tmp_path))
    (job,) = {job for job in sweep.make_jobs(chosen) if job.config.prompt_trainer == OURS and job.config.seed == 1}
    assert (job.config.backbone, job.config.shots) == ("Mini", 16)
    given = sweep.parse(script_arguments("--datasets", "digits", "--shots", "4", cwd=tmp_path))
    assert {job.config.shots for job in sweep.make_jobs(given)} == {4}
    default = sweep.parse(script_arguments(cwd=tmp_path))
    assert default.shots == [1, 2, 4, 8, 16] and default.backbones == ["ViT-B/16", "RN50"] and len(default.datasets) == 11


def script_arguments(*flags: str, cwd: Path, environment: Mapping[str, str] = os.environ) -> list[str]:
    """What run_all_final_exps.sh passes to tools.sweep."""
    script = REPOSITORY / "run_all_final_exps.sh"
    done = subprocess.run(
        [str(script), *flags], cwd=cwd, env={**environment, "PYTHON": "echo"}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[2:]


def test_shell_script_runs_the_methods_of_table_1() -> None:
    named = re.search(r'METHODS:-"(.*)"}', (REPOSITORY / "run_all_final_exps.sh").read_text(encoding="utf-8")).group(1).split()
    assert {row["method"] for row in paper.tables()["table1"]["rows"]} <= {*named, "zip"}
