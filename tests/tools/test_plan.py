"""The plan of a sweep: the queries and time of a run, and what --dry-run and --print-commands show."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

from tests.helpers.data import refusal
from tests.helpers.sweeps import swept
from tools import sweep
from tools.common.costs import Benchmark, cost
from tools.common.names import OURS
from tools.common.runs import Job, flags_of
from trainers import TRAINERS
from utils.config import FIELDS


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
        # a limit stops the run before the step that would exceed it
        (("--config", "configs/eurosat.yaml", "--max_queries", "2000"), 1_064),
        (("--config", "configs/eurosat.yaml", "--change_point", "2", "--max_queries", "3200"), 3_200),
    ],
)
def test_plan_knows_the_queries_of_a_run(flags: tuple[str, ...], queries: int) -> None:
    price = cost(Job(flags).config)
    assert (price.queries, price.exact) == (queries, True)


def test_plan_is_an_upper_bound_if_validation_decides_the_change_point() -> None:
    price = cost(Job(("--config", "configs/digits.yaml", "--change_point", "auto")).config)
    assert (price.queries, price.exact) == (4000 * 552, False)


@pytest.mark.parametrize("trainer", [name for name in TRAINERS if name != "saved"])
def test_plan_covers_every_trainer_under_each_of_its_options(trainer: str) -> None:
    config = Job(("--prompt_trainer", trainer, "--n_ctx", "1", "--ctx_init", "photo")).config
    for name, field in FIELDS.items():
        if field.metadata["kind"] is bool:
            price = cost(dataclasses.replace(config, **{name: not getattr(config, name)}))
            assert price == cost(config)


def test_planned_queries_are_those_that_a_run_makes(tmp_path: Path) -> None:
    import main_sharpzo

    tiny = {"intrinsic_dim": 4, "popsize": 4, "total_steps": 7, "change_point": 3, "prune_interval": 3}
    flags = (*flags_of(tiny), "--output_dir", str(tmp_path))
    job = Job(flags)
    assert main_sharpzo.main(list(flags)) == 0
    assert json.loads((job.path / "result.json").read_text())["queries"] == cost(job.config).queries


def test_time_is_estimated_from_the_benchmark_of_the_dataset_or_of_the_nearest() -> None:
    row = {"classes": 10, "engine_seconds": 1e-3, "stage2_step_seconds": 4e-3, "float64_over_float32": 2.0}
    benchmark = Benchmark({"eurosat": row})
    # 532 000 queries of stage 1 in float32, masks in float64, 19 500 steps of two queries
    expected = 532_000e-3 + 2 * 100_352e-3 + 19_500 * 4e-3
    assert benchmark.seconds(Job(("--config", "configs/eurosat.yaml")).config) == pytest.approx(expected)
    # 47 classes, differences of stage 1 in float64 too (μ 1e-5), its population in float32
    dtd = 4.7 * (2 * 307_200e-3 + 12_000e-3 + 2 * 101_376e-3 + 19_700 * 4e-3)
    assert benchmark.seconds(Job(("--config", "configs/dtd.yaml")).config) == pytest.approx(dtd)
    # half as many tangents as differences, at the price of tangents
    forward = Job(("--config", "configs/dtd.yaml", "--derivatives", "forward")).config
    timed = Benchmark({"dtd": row | {"classes": 47, "coordinates": 512, "tangent_seconds_float32": 0.3}})
    tangents = (153_600 + 50_688) * 0.3 / 512
    assert timed.seconds(forward) == pytest.approx(12_000e-3 + tangents + 19_700 * 4e-3)
    # pairs of queries in the only stage cost as much as those of stage 2
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
        OURS,
    )
    for methods, words in (((), " queries, "), (("zip",), " queries, at least ")):
        assert sweep.main([*plan, *methods]) == 0
        assert next(line for line in capsys.readouterr().out.splitlines() if line.startswith("left: ")).count(words) == 1


def test_file_that_is_not_a_benchmark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text('[{"dataset": "dtd"}]')
    assert f"--benchmark: {tmp_path / 'b.json'}" in refusal(Benchmark.read, tmp_path / "b.json")


def test_dry_run_groups_runs_by_dataset_and_method_and_runs_nothing(
    calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert swept(tmp_path, "--seeds", "1") == 0
    calls.unlink()
    capsys.readouterr()
    assert swept(tmp_path, "--seeds", "1", "2", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    head, row = (re.split(r"  +", line) for line in lines[:2])
    assert head == ["dataset", "method", "backbone", "shots", "runs", "finished", "queries per run"]
    assert row == ["digits", "SharpZO", "Mini", "16", "2", "1", "34,740"]
    assert lines[2:] == ["", "2 runs: 1 finished, 1 missing", "left: 34,740 queries"]
    assert not calls.exists()


def test_print_commands_prints_the_commands_of_unfinished_runs_and_nothing_else(
    calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert swept(tmp_path, "--seeds", "1") == 0
    capsys.readouterr()
    assert swept(tmp_path, "--seeds", "1", "2", "3", "--print-commands") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["python"] * 2
    assert "--seed 2" in lines[0] and "--seed 3" in lines[1]


def test_dry_run_warns_of_a_root_path_and_a_device_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    argv = ("--datasets", "eurosat", "--root_path", str(tmp_path / "no"), "--devices", "cuda:1", "--dry-run")
    assert sweep.main([*argv]) == 0
    captured = capsys.readouterr()
    assert "eurosat" in captured.out
    assert "warning: --root_path" in captured.err and "warning: --devices: cuda:1" in captured.err


def test_dry_run_names_a_missing_folder_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "--datasets",
        "eurosat",
        "dtd",
        "--root_path",
        str(tmp_path / "no"),
        "--backbones",
        "ViT-B/16",
        "--seeds",
        "1",
        "2",
        "3",
    ]
    assert sweep.main([*argv, "--methods", "zero-shot", "bbt", "--dry-run"]) == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert "no such folder; name the folder that holds your datasets" in warning
