"""The runs that tables and figures need, and how unfinished ones are reported."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml

from tests.helpers.artifacts import call, finish, maker
from tools import sweep
from tools.common import plotting
from tools.common.costs import cost
from tools.common.names import OURS
from tools.common.runs import Job
from tools.reproduce import __main__ as reproduce
from tools.reproduce.plans import PLANS
from tools.reproduce.suites import ICON_SUITE, MINI, PAPER, PAPERS_RATIOS, PAPERS_RHOS, JobFactory, Suite
from utils.config import FIELDS, REPOSITORY
from utils.documents import read_yaml
from utils.errors import UserError
from utils.identity import identity

AT_EQUAL_BUDGETS = ("equal", "parts", "transfer", "dimensions")


@pytest.mark.parametrize("name", sorted(PLANS))
def test_every_run_of_a_plan_is_a_valid_command(name: str, tmp_path: Path) -> None:
    for suite in (PAPER, MINI, ICON_SUITE):
        factory = JobFactory(suite, str(tmp_path), "/data")
        if (name == "baselines" and suite is PAPER) or (name in AT_EQUAL_BUDGETS and suite is not ICON_SUITE):
            with pytest.raises(UserError, match=f"^{name}: the {suite.name} suite has no settings for equal budgets"):
                list(PLANS[name](factory))
            continue
        entries = list(PLANS[name](factory))
        assert entries
        for entry in entries:
            assert entry.job.state == "missing"
        # one folder, one setting
        assert len({entry.job.path for entry in entries}) == len({entry.job.config for entry in entries})


@pytest.mark.parametrize(("dataset", "root"), [("digits", None), ("eurosat", "DATA")])
def test_runs_by_hand_by_the_sweep_and_by_the_tables_share_a_folder(dataset: str, root: str | None) -> None:
    flags = ("--root_path", root) if root else ()
    suite = MINI if dataset == "digits" else PAPER
    by_hand = Job(("--config", f"configs/{dataset}.yaml", *flags, "--seed", "1"))
    (swept,) = sweep.make_jobs(
        sweep.parse(["--datasets", dataset, "--methods", OURS, "--seeds", "1", "--root_path", root or "/elsewhere"])
    )
    tables = JobFactory(suite, "outputs", root and str(Path(root).absolute()), (1,)).job(dataset, OURS)
    assert by_hand.path == swept.path == tables.path
    first, *others = (identity(job.config.as_dict()) for job in (by_hand, swept, tables))
    assert others == [first, first]


def test_table6_and_table7_vary_one_setting_of_the_default_run(tmp_path: Path) -> None:
    base = maker(tmp_path).job("digits", OURS, 1).config
    for name, rows, columns, keys in (
        ("table6", ("magnitude", "zscore"), PAPERS_RATIOS, {"pruning", "prune_ratio", "run_name"}),
        ("table7", (OURS,), PAPERS_RHOS, {"rho", "run_name"}),
    ):
        entries = [entry for entry in PLANS[name](maker(tmp_path)) if entry.job.config.seed == 1]
        assert [(entry.row, entry.column) for entry in entries] == [(row, column) for row in rows for column in columns]
        same = [entry for entry in entries if entry.job.config == base]
        assert [(entry.row, entry.column) for entry in same] == [(rows[-1], "0.5" if name == "table6" else "0.1")]
        for entry in entries:
            config = entry.job.config
            assert {key for key in FIELDS if getattr(config, key) != getattr(base, key)} <= keys


@pytest.mark.parametrize("suite", [PAPER, MINI, ICON_SUITE], ids=lambda suite: suite.name)
def test_ablations_have_the_settings_of_the_run_that_they_are_compared_with(suite: Suite, tmp_path: Path) -> None:
    factory = JobFactory(suite, str(tmp_path), "/data", (1,))
    base = factory.job(suite.ablation, OURS).config
    kept = ("dataset", "backbone", "shots", "intrinsic_dim", "std", "sigma", "popsize", "change_point", "zo_lr", "threads")
    for name in ("table6", "table7", "fig2", "fig3", "fig4", "fidelity"):
        for entry in PLANS[name](factory):
            config = entry.job.config
            assert {key: getattr(config, key) for key in kept} == {key: getattr(base, key) for key in kept}, (name, entry.row)
            steps = {"fig2": base.change_point}.get(name, base.total_steps * (10 if entry.row.startswith("ten times") else 1))
            assert config.total_steps == steps, (name, entry.row)


def test_runs_that_several_artifacts_show_are_run_once(tmp_path: Path) -> None:
    folders = Counter(
        entry.job.path for name in ("table1", "table6", "table7", "fig3", "fig4") for entry in PLANS[name](maker(tmp_path))
    )
    default = maker(tmp_path).job("digits", OURS, 1).path
    assert folders[default] == 5


def test_rival_with_the_same_queries_has_as_many(tmp_path: Path) -> None:
    same = {e.column: e for e in PLANS["table1"](maker(tmp_path)) if e.row == "Mini, bbt, same queries"}
    for dataset, entry in same.items():
        ours = cost(maker(tmp_path).job(dataset, OURS).config).queries
        assert ours - 40 < cost(entry.job.config).queries <= ours


@pytest.mark.parametrize("files", [("digits.yaml", "digits-5000.yaml"), ("icons_emoji.yaml", "icons-5000.yaml")])
def test_methods_whose_own_budget_is_the_small_one_have_the_same_settings_in_both_files(files: tuple[str, str]) -> None:
    own, small = (read_yaml(REPOSITORY / "configs" / name) for name in (files[0], f"budgets/{files[1]}"))
    for method in ("zip", "blackvip", "bpt-vlm"):
        ours, theirs = ({key: entry.value for key, entry in document[method].value.items()} for document in (own, small))
        ours.pop("max_queries", None)
        theirs.pop("eval_every", None)
        assert ours == theirs, method


def test_dry_run_lists_missing_runs_and_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(maker(tmp_path).job("digits", OURS, 2))
    assert call(tmp_path, "table7", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "25 runs: 1 finished, 24 missing" in out
    assert call(tmp_path, "table7", "--print-commands") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 24 and all(line.startswith("python ") for line in lines)
    assert sum("--rho 0.001" in line for line in lines) == 5
    assert not (tmp_path / "made").exists()


def test_run_of_other_settings_in_a_jobs_folder_is_not_taken_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job, other = (maker(tmp_path).job("digits", OURS, 1, **own) for own in ({}, {"sigma": 9.0}))
    assert job.path == other.path
    finish(other)
    assert (job.state, other.state) == ("other settings", "finished")
    assert call(tmp_path, "table7", "--no-run", "--seeds", "1") == 2
    assert "none of its 5 runs is finished" in capsys.readouterr().err
    (job.path / "config.yaml").write_text("{")
    assert job.state == "other settings"
    # resolved settings, and a setting that an older version lacked
    resolved = job.config.as_dict() | {"device": "cpu", "template": "a {}", "memory_limit": 1024}
    del resolved["deterministic"]
    (job.path / "config.yaml").write_text(yaml.safe_dump(resolved))
    assert job.state == "finished"
    (job.path / "result.json").unlink()
    assert job.state == "interrupted"


def test_repeated_seed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path, "table7", "--no-run", "--seeds", "1", "2", "1") == 2
    assert "error: --seeds: 1 2 1: a seed is repeated" in capsys.readouterr().err


def test_artifact_that_a_suite_cannot_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--suite mini"):
        list(PLANS["baselines"](JobFactory(PAPER, str(tmp_path))))


def test_shifts_of_the_laptop_suite_are_scored_with_the_prompts_that_digits_made(tmp_path: Path) -> None:
    entries = [entry for entry in PLANS["table2"](maker(tmp_path, seeds=(1,))) if entry.row == f"Mini, {OURS}"]
    trained, *scored = entries
    assert (trained.column, trained.phase) == ("digits", 0)
    assert [entry.column for entry in scored] == list(MINI.shifts)
    assert {entry.job.config.load_prompt for entry in scored} == {str(trained.job.path / "prompt.safetensors")}
    assert {(entry.phase, entry.job.config.backbone, entry.job.config.dataset == entry.column) for entry in scored} == {
        (1, "Mini", True)
    }


def test_part_of_a_suite_is_planned_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = ["--methods", OURS, "zero-shot", "--datasets", "digits"]
    assert call(tmp_path, "shots", "--dry-run", *part) == 0
    out = capsys.readouterr().out
    # five shots and seeds of one method, and zero-shot once
    assert "26 runs" in out and "openmoji" not in out and "bbt" not in out
    for flag, name in (("--methods", "coop"), ("--datasets", "eurosat")):
        assert call(tmp_path, "shots", "--dry-run", flag, name) == 2
        assert f"error: {flag}: the mini suite has no {name!r}" in capsys.readouterr().err
    assert call(tmp_path, "shots", "table6", "--dry-run", "--datasets", "digits") == 2
    assert "error: --datasets: table6 needs the whole suite" in capsys.readouterr().err


def test_unknown_artifact_and_nothing_finished_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path, "table8") == 2
    assert call(tmp_path, "fig3", "--no-run") == 2
    assert capsys.readouterr().err.count("error: ") == 2


def test_artifact_that_cannot_be_made_stops_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for entry in PLANS["table7"](maker(tmp_path, seeds=(1,))):
        finish(entry.job)
    assert call(tmp_path, "fig2", "table7", "--no-run", "--seeds", "1") == 2
    assert capsys.readouterr().err.count("error: ") == 1
    assert (tmp_path / "made/table7.md").is_file()


def test_missing_matplotlib_is_reported_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plotting.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(reproduce, "launch", None)
    for argv in (("fig1",), ("table7", "fig3"), ("baselines",)):
        assert call(tmp_path, *argv) == 2
        assert capsys.readouterr().err == "error: figures need matplotlib; pip install matplotlib\n"


def test_plan_of_table_4_lists_what_measures_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path, "table4", "--dry-run", "--seeds", "1", "--devices", "cpu") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "tools.reproduce.memory" in line]
    assert len(lines) == 6 and all(line.startswith("memory, missing: ") and line.endswith("--device cpu") for line in lines)
