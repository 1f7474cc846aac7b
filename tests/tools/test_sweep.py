"""The sweep: its plan, what it skips and goes on with, and what it says of runs that fail."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.helpers.data import refusal
from tools import sweep
from tools.common import paper, runner, runs
from tools.common.costs import Benchmark, cost
from tools.common.runs import Job
from trainers import TRAINERS
from utils.config import FIELDS, REPOSITORY

DIGITS = ("--datasets", "digits", "--methods", "zo-pruned", "--backbones", "Mini")


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs are faked; the file that is returned has a line for each call."""
    monkeypatch.setattr(runs, "MAIN", REPOSITORY / "tests" / "helpers" / "fake_main.py")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("FAKE_CALLS", str(tmp_path / "calls"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "calls"


def swept(tmp_path: Path, *argv: str) -> int:
    return sweep.main([*DIGITS, "--output_dir", str(tmp_path / "out folder"), *argv])


def seeds(calls: Path) -> list[str]:
    argv = [json.loads(line)["argv"] for line in calls.read_text().splitlines()]
    return sorted(flags[flags.index("--seed") + 1] for flags in argv)


@pytest.mark.parametrize(
    ("flags", "queries"),
    [
        # the paper's budgets: 1064 T_c + 2 (T − T_c) + 1024 ⌈(T − T_c)/200⌉
        (("--config", "configs/oxford_pets.yaml"), 248_600),
        (("--config", "configs/imagenet.yaml"), 353_776),
        (("--config", "configs/dtd.yaml"), 459_976),
        (("--config", "configs/sun397.yaml"), 565_152),
        (("--config", "configs/eurosat.yaml"), 671_352),
        (("--config", "configs/digits.yaml"), 34_740),
        (("--config", "configs/eurosat.yaml", "--prompt_trainer", "bbt"), 8_000),
        (("--config", "configs/eurosat.yaml", "--prompt_trainer", "bbt", "--shots", "1"), 2_000),
        (("--config", "configs/eurosat.yaml", "--prompt_trainer", "zip"), 5_000),
        (("--config", "configs/eurosat.yaml", "--prompt_trainer", "zip-20k"), 200_000),
        (("--config", "configs/eurosat.yaml", "--prompt_trainer", "zero-shot"), 0),
        (("--config", "configs/eurosat.yaml", "--prompt_trainer", "bpt-vlm"), 25_200),
        (("--config", "configs/eurosat.yaml", "--prompt_trainer", "bpt-vlm", "--deep"), 25_200),
        # 160 images in batches of 32, 200 epochs
        (("--config", "configs/eurosat.yaml", "--prompt_trainer", "coop"), 1_000),
        # a limit stops before the step that would exceed it
        (("--config", "configs/eurosat.yaml", "--max_queries", "2000"), 1_064),
        (("--config", "configs/eurosat.yaml", "--change_point", "2", "--max_queries", "3200"), 3_200),
    ],
)
def test_plan_knows_the_queries_of_a_run(flags: tuple[str, ...], queries: int) -> None:
    price = cost(Job(flags).config)
    assert (price.queries, price.exact) == (queries, True)


def test_plan_is_an_upper_bound_where_validation_decides_the_change_point() -> None:
    price = cost(Job(("--config", "configs/digits.yaml", "--change_point", "auto")).config)
    assert (price.queries, price.exact) == (4000 * 552, False)


@pytest.mark.parametrize("trainer", [name for name in TRAINERS if name != "saved"])
def test_plan_is_told_of_every_trainer_under_each_of_its_options(trainer: str) -> None:
    config = Job(("--prompt_trainer", trainer, "--n_ctx", "1", "--ctx_init", "photo")).config
    for name, field in FIELDS.items():
        if field.metadata["kind"] is bool:
            price = cost(dataclasses.replace(config, **{name: not getattr(config, name)}))
            assert price == cost(config)


def test_planned_queries_are_those_that_a_run_asks(tmp_path: Path) -> None:
    import main_sharpzo

    tiny = {"intrinsic_dim": 4, "popsize": 4, "total_steps": 7, "change_point": 3, "prune_interval": 3}
    flags = (*runs.flags_of(tiny), "--output_dir", str(tmp_path))
    job = Job(flags)
    assert main_sharpzo.main(list(flags)) == 0
    assert json.loads((job.path / "result.json").read_text())["queries"] == cost(job.config).queries


def test_time_is_estimated_from_the_benchmark_of_the_dataset_or_of_the_nearest() -> None:
    row = {"classes": 10, "engine_seconds": 1e-3, "stage2_step_seconds": 4e-3, "float64_over_float32": 2.0}
    benchmark = Benchmark({"eurosat": row})
    # 532 000 queries of stage 1 in float32, masks in float64, 19 500 steps of two queries
    expected = 532_000e-3 + 2 * 100_352e-3 + 19_500 * 4e-3
    assert benchmark.seconds(Job(("--config", "configs/eurosat.yaml")).config) == pytest.approx(expected)
    # 47 classes, stage 1 in float64 too (μ 1e-5)
    dtd = 4.7 * (2 * 319_200e-3 + 2 * 101_376e-3 + 19_700 * 4e-3)
    assert benchmark.seconds(Job(("--config", "configs/dtd.yaml")).config) == pytest.approx(dtd)
    # pairs of queries in one stage cost what stage 2's do
    mezo = Job(("--config", "configs/eurosat.yaml", "--prompt_trainer", "mezo")).config
    assert benchmark.seconds(mezo) == pytest.approx(cost(mezo).queries / 2 * 4e-3)
    assert benchmark.seconds(Job(("--config", "configs/eurosat.yaml", "--prompt_trainer", "zip")).config) is None


def test_estimate_that_leaves_runs_out_is_a_lower_bound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b.json").write_text('[{"dataset": "eurosat", "classes": 10, "engine_seconds": 1e-3}]')
    plan = (
        "--datasets",
        "eurosat",
        "--seeds",
        "1",
        "--dry-run",
        "--benchmark",
        str(tmp_path / "b.json"),
        "--methods",
        "zo-pruned",
    )
    for methods, words in (((), " queries, "), (("zip",), " queries, at least ")):
        assert sweep.main([*plan, *methods]) == 0
        assert next(line for line in capsys.readouterr().out.splitlines() if line.startswith("left: ")).count(words) == 1


def test_file_that_is_no_benchmark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text('[{"dataset": "dtd"}]')
    assert f"--benchmark: {tmp_path / 'b.json'}" in refusal(Benchmark.read, tmp_path / "b.json")


def test_dry_run_lists_runs_with_states_and_runs_nothing(calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert swept(tmp_path, "--seeds", "1") == 0
    calls.unlink()
    capsys.readouterr()
    assert swept(tmp_path, "--seeds", "1", "2", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[:2]] == [["finished", "34740", "queries"], ["missing", "34740", "queries"]]
    assert lines[2:] == ["2 runs: 1 finished, 1 missing", "left: 34740 queries"]
    assert not calls.exists()


def test_sweep_skips_what_is_finished_and_goes_on_with_what_was_interrupted(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE", '{"2": "interrupt"}')
    flags = ("--seeds", "1", "2", "--", "--threads", "0")
    assert swept(tmp_path, *flags) == 3
    monkeypatch.setenv("FAKE", "{}")
    calls.unlink()
    assert swept(tmp_path, *flags) == 0
    assert seeds(calls) == ["2"]
    # with the number of threads that it was begun with
    argv = json.loads(calls.read_text())["argv"]
    assert argv[-2:] == ["--threads", "3"]


def test_failing_run_does_not_stop_the_rest_and_is_named_at_the_end(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE", '{"1": "fail"}')
    assert swept(tmp_path, "--seeds", "1", "2", "3") == 1
    assert seeds(calls) == ["1", "2", "3"]
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == "2 finished, 1 failed"
    named = captured.err.splitlines()
    assert named[0].startswith("failed: ") and "--seed 1" in named[0]
    assert named[1].strip() == "error: the seed is unlucky"


def test_each_process_sees_its_own_card(calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert swept(tmp_path, "--seeds", "1", "2", "3", "4", "--devices", "cuda:0", "cuda:1") == 0
    entries = [json.loads(line) for line in calls.read_text().splitlines()]
    assert {entry["cards"] for entry in entries} == {"0", "1"}
    # a run's device is one of its settings: on whichever card it goes on, it is the same run
    assert not any("--device" in entry["argv"] for entry in entries)


def test_card_or_data_that_is_not_there_is_told_before_any_run(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert swept(tmp_path, "--devices", "cuda:0", "cuda:1") == 2
    assert capsys.readouterr().err == "error: --devices: cuda:1: this machine has 1 CUDA devices\n"
    output = ("--output_dir", str(tmp_path))
    for flags, words in (
        (("--datasets", "dtd", "eurosat"), "--root_path: dataset dtd needs the folder that holds dtd/"),
        (("--datasets", "eurosat"), "--root_path: dataset eurosat needs the folder that holds eurosat/"),
        (("--datasets", "eurosat", "--root_path", str(tmp_path / "no")), "no such folder"),
        (("--datasets", "mnist", "--methods", "zo-pruned"), "mnist is for evaluation only"),
    ):
        assert sweep.main([*flags, *output]) == 2
        assert words in capsys.readouterr().err
    assert not calls.exists()


def test_zero_shot_runs_once_and_a_grid_names_its_points() -> None:
    argv = ["--datasets", "digits", "--methods", "zero-shot", "zo-pruned", "--shots", "4", "16"]
    jobs = sweep.make_jobs(sweep.parse([*argv, "--grid", "sigma=0.2,0.4", "--grid", "zo_lr=0.1", "--", "--total_steps", "50"]))
    assert all(job.config.total_steps == 50 for job in jobs)
    trained = [job for job in jobs if job.config.prompt_trainer == "zo-pruned"]
    assert len(trained) == 2 * 3 * 2
    assert {(job.config.run_name, job.config.sigma) for job in trained} == {
        ("sigma0.2-zo_lr0.1", 0.2),
        ("sigma0.4-zo_lr0.1", 0.4),
    }
    zero_shot = [job for job in jobs if job not in trained]
    assert len(zero_shot) == 2
    # beside the paper's 16-shot figures
    assert {job.config.shots for job in zero_shot} == {16}


def test_run_under_another_template_is_not_taken_for_the_one_asked(calls: Path, tmp_path: Path) -> None:
    assert swept(tmp_path, "--seeds", "1") == 0
    (job,) = sweep.make_jobs(sweep.parse([*DIGITS, "--seeds", "1", "--output_dir", str(tmp_path / "out folder")]))
    assert job.state == "finished"
    assert Job((*job.flags, "--template", "a photo of a {}.")).state == "other settings"


def test_processes_on_the_cpu_share_its_threads(calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    given = []
    monkeypatch.setattr(runner.Runner, "run", lambda self, jobs: given.append(self.environment) or runner.Outcome())
    monkeypatch.setattr(runner.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for flags in (("--processes", "2"), ("--devices", "cpu", "cpu"), ("--devices", "cuda:0", "cuda:1"), ("--devices", "cpu")):
        assert swept(tmp_path, "--seeds", "1", *flags) == 0
    assert [environment.get("OMP_NUM_THREADS") for environment in given] == ["4", "4", None, None]


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


def test_different_runs_of_one_folder_are_refused_and_the_same_run_stands_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (("same", ""), ("mine", "sigma: 0.3\n")):
        shipped = (REPOSITORY / "configs" / "digits.yaml").read_text(encoding="utf-8")
        (tmp_path / f"{name}.yaml").write_text(shipped.replace("sigma: 0.4\n", text or "sigma: 0.4\n", 1), encoding="utf-8")
    twice = ["--datasets", "digits", str(tmp_path / "same.yaml"), "--seeds", "1", "--methods", "zo-pruned"]
    assert len(sweep.make_jobs(sweep.parse(twice))) == 1
    for argv, keys in (
        (("digits", str(tmp_path / "mine.yaml")), "sigma"),
        (("digits", "--grid", "sigma=0.2,0.4", "--grid", "zo_lr=0.1,0.2", "--", "--run_name", "x"), "zo_lr"),
    ):
        assert sweep.main(["--methods", "zo-pruned", "--seeds", "1", "--dry-run", "--datasets", *argv]) == 2
        captured = capsys.readouterr()
        assert "16shots/seed1: two runs would share this folder and differ in " + keys in captured.err
        assert captured.err.count("\n") == 1 and not captured.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_sweep_tells_its_runs_and_begins_no_more(number: signal.Signals, calls: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tools import sweep; from tools.common import runs;"
        f"runs.MAIN = Path({str(REPOSITORY / 'tests' / 'helpers' / 'fake_main.py')!r}); sys.exit(sweep.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, *DIGITS, "--output_dir", str(tmp_path / "out"), "--seeds", "1", "2"]
    process = subprocess.Popen(command, env=os.environ | {"FAKE": '{"1": "wait"}'}, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("waiting")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 3
    assert out.splitlines()[-1] == "0 finished, 1 interrupted, 1 not begun"
    assert seeds(calls) == ["1"]


def test_shell_script_works_from_any_directory_and_with_spaces_in_paths(tmp_path: Path) -> None:
    (tmp_path / "my data").mkdir()
    script = REPOSITORY / "run_all_final_exps.sh"
    environment = os.environ | {"PYTHON": sys.executable, "ROOT_PATH": "my data", "SEEDS": "1 2", "OUTPUT_DIR": "my runs"}
    argv = ["--datasets", "eurosat", "--methods", "zo-pruned", "--backbones", "RN50", "--shots", "16", "--dry-run"]
    done = subprocess.run([str(script), *argv], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert "--root_path 'my data' --output_dir 'my runs'" in lines[0]
    assert lines[-1] == "left: 1342704 queries"


@pytest.mark.parametrize(
    "flags", [("--devices=cuda:0",), ("--devices", "cuda:0", "cuda:1"), ("--processes=2",), ("--processes", "2")]
)
def test_shell_script_takes_devices_and_processes_in_either_form(flags: tuple[str, ...], tmp_path: Path) -> None:
    script = REPOSITORY / "run_all_final_exps.sh"
    environment = os.environ | {"PYTHON": "echo", "DEVICES": "cpu"}
    done = subprocess.run([str(script), *flags], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    words = done.stdout.split()
    assert sum(word.startswith(("--devices", "--processes")) for word in words) == 1
    assert words[-len(flags) :] == list(flags)


def test_shell_script_runs_the_methods_of_table_1() -> None:
    named = re.search(r'METHODS:-"(.*)"}', (REPOSITORY / "run_all_final_exps.sh").read_text(encoding="utf-8")).group(1).split()
    assert {row["method"] for row in paper.tables()["table1"]["rows"]} <= {*named, "zip"}
