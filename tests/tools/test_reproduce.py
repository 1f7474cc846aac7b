"""Tables and figures: the runs that they ask for, what they make of finished ones, and how missing ones show."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml

from tools import sweep
from tools.common import plotting
from tools.common.costs import cost
from tools.common.runs import Job
from tools.common.tables import Sample
from tools.reproduce import __main__ as reproduce
from tools.reproduce.claims import verdict
from tools.reproduce.plans import OUR_BUDGET, OWN_BUDGET, PLANS, SMALL_BUDGET, evaluation
from tools.reproduce.results import Results, harmonic, times_table
from tools.reproduce.suites import MINI, PAPER, PAPERS_RATIOS, PAPERS_RHOS, Cell, JobFactory
from trainers import TRAINERS
from utils.config import FIELDS, REPOSITORY
from utils.documents import read_yaml
from utils.errors import UserError
from utils.identity import identity

CURVE = ((0, 1, 0, 40.0), (10, 1, 1000, 60.0), (20, 2, 1500, 70.0), (30, 2, 1600, 72.0))


def maker(tmp_path: Path, **options: object) -> JobFactory:
    return JobFactory(MINI, str(tmp_path / "runs"), **options)


def finish(job: Job, shift: float = 0.0) -> None:
    """Fills a job's run folder with a short curve, `shift` points higher."""
    config = job.config
    job.path.mkdir(parents=True, exist_ok=True)
    (job.path / "config.yaml").write_text(yaml.safe_dump(config.as_dict()))
    lines = [
        {
            "step": step,
            "stage": stage,
            "seconds": queries / 100,
            "queries": queries,
            "test_accuracy": accuracy + shift * (step > 0),
        }
        for step, stage, queries, accuracy in CURVE
    ]
    (job.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = {key: getattr(config, key) for key in ("dataset", "backbone", "shots", "seed")} | {"trainer": config.prompt_trainer}
    trained = config.prompt_trainer != "zero-shot"
    result |= {"zero_shot_accuracy": 40.0, "test_accuracy": 72.0 + shift if trained else 40.0, "queries": 1600 if trained else 0}
    result |= {"tower_images": 160, "seconds": 16.0}
    (job.path / "result.json").write_text(json.dumps(result))


def call(tmp_path: Path, *argv: str) -> int:
    where = ("--suite", "mini", "--output_dir", str(tmp_path / "runs"), "--output", str(tmp_path / "made"))
    return reproduce.main([*argv, *where])


@pytest.mark.parametrize("name", sorted(PLANS))
def test_every_run_of_a_plan_is_a_valid_command(name: str, tmp_path: Path) -> None:
    for suite in (PAPER, MINI):
        if (name, suite) == ("baselines", PAPER):
            continue
        entries = list(PLANS[name](JobFactory(suite, str(tmp_path), "/data")))
        assert entries
        for entry in entries:
            assert entry.job.state == "missing"
        # one folder, one setting
        assert len({entry.job.path for entry in entries}) == len({entry.job.config for entry in entries})


@pytest.mark.parametrize(("dataset", "root"), [("digits", None), ("eurosat", "DATA")])
def test_run_by_hand_the_sweeps_and_the_tables_are_one_run(dataset: str, root: str | None) -> None:
    flags = ("--root_path", root) if root else ()
    suite = MINI if dataset == "digits" else PAPER
    by_hand = Job(("--config", f"configs/{dataset}.yaml", *flags, "--seed", "1"))
    (swept,) = sweep.make_jobs(
        sweep.parse(["--datasets", dataset, "--methods", "zo-pruned", "--seeds", "1", "--root_path", root or "/elsewhere"])
    )
    tables = JobFactory(suite, "outputs", root and str(Path(root).absolute()), (1,)).job(dataset, "zo-pruned")
    assert by_hand.path == swept.path == tables.path
    first, *others = (identity(job.config.as_dict()) for job in (by_hand, swept, tables))
    assert others == [first, first]


def test_table6_and_table7_vary_one_thing_around_the_default_run(tmp_path: Path) -> None:
    base = maker(tmp_path).job("digits", "zo-pruned", 1).config
    for name, rows, columns, keys in (
        ("table6", ("magnitude", "zscore"), PAPERS_RATIOS, {"pruning", "prune_ratio", "run_name"}),
        ("table7", ("zo-pruned",), PAPERS_RHOS, {"rho", "run_name"}),
    ):
        entries = [entry for entry in PLANS[name](maker(tmp_path)) if entry.job.config.seed == 1]
        assert [(entry.row, entry.column) for entry in entries] == [(row, column) for row in rows for column in columns]
        same = [entry for entry in entries if entry.job.config == base]
        assert [(entry.row, entry.column) for entry in same] == [(rows[-1], "0.5" if name == "table6" else "0.1")]
        for entry in entries:
            config = entry.job.config
            assert {key for key in FIELDS if getattr(config, key) != getattr(base, key)} <= keys


def test_runs_that_several_artifacts_show_are_run_once(tmp_path: Path) -> None:
    folders = Counter(
        entry.job.path for name in ("table1", "table6", "table7", "fig3", "fig4") for entry in PLANS[name](maker(tmp_path))
    )
    default = maker(tmp_path).job("digits", "zo-pruned", 1).path
    assert folders[default] == 5


def test_rival_with_the_same_queries_has_as_many(tmp_path: Path) -> None:
    same = {e.column: e for e in PLANS["table1"](maker(tmp_path)) if e.row == "Mini, bbt, same queries"}
    for dataset, entry in same.items():
        ours = cost(maker(tmp_path).job(dataset, "zo-pruned").config).queries
        assert ours - 40 < cost(entry.job.config).queries <= ours


def test_methods_are_compared_at_their_own_budgets_at_a_small_one_and_at_ours(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    entries = list(PLANS["baselines"](maker(tmp_path, seeds=(1, 2))))
    methods = {name for name, info in TRAINERS.items() if not info.stage2} - {"saved", "fo", "zo", "cma-es"} | {"mezo"}
    assert {TRAINERS.canonical(entry.row) for entry in entries if entry.column == OWN_BUDGET} == methods
    assert {TRAINERS.canonical(entry.row) for entry in entries if entry.column == SMALL_BUDGET} == methods - {
        "zero-shot",
        "zip-20k",
    }
    for entry in entries:
        planned = cost(entry.job.config)
        if entry.column == SMALL_BUDGET:
            # a step of SharpZO's stage 1 costs hundreds
            assert 4_500 < planned.queries <= 5_000, entry.row
        elif entry.column == OUR_BUDGET:
            assert 34_740 - 41 < planned.queries <= 34_740, entry.row
        finish(entry.job, float(entry.job.config.seed) + 5 * (entry.row == "bbt"))
    assert call(tmp_path, "baselines", "--no-run", "--seeds", "1", "2") == 0
    text = (tmp_path / "made/baselines.md").read_text()
    assert text.count("### All methods") == 3
    # 73 and 74, five more of bbt, which therefore stands first
    first, second = [line for line in text.split("own budget")[1].splitlines() if line.startswith("|")][2:4]
    assert first == "| bbt | 78.50 ± 6.35 (n 2) | 78.00 | 79.00 | 1 600 | 160 | 16 |"
    assert " 73.50 ± 6.35 (n 2) | 73.00 | 74.00 |" in second
    assert (tmp_path / "made/baselines.png").read_bytes().startswith(b"\x89PNG")


def test_methods_whose_own_budget_is_the_small_one_have_the_same_settings_in_both_files() -> None:
    own, small = (read_yaml(REPOSITORY / "configs" / name) for name in ("digits.yaml", "budgets/digits-5000.yaml"))
    for method in ("zip", "blackvip", "bpt-vlm"):
        ours, theirs = ({key: entry.value for key, entry in document[method].value.items()} for document in (own, small))
        ours.pop("max_queries", None)
        assert ours == theirs, method


def test_dry_run_lists_missing_runs_and_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(maker(tmp_path).job("digits", "zo-pruned", 2))
    assert call(tmp_path, "table7", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "25 runs: 1 finished, 24 missing" in out
    assert "--config configs/digits.yaml" in out and "--rho 0.001" in out
    assert not (tmp_path / "made").exists()


def test_run_of_other_settings_in_a_jobs_folder_is_not_taken_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job, other = (maker(tmp_path).job("digits", "zo-pruned", 1, **own) for own in ({}, {"sigma": 9.0}))
    assert job.path == other.path
    finish(other)
    assert (job.state, other.state) == ("other settings", "finished")
    assert call(tmp_path, "table7", "--no-run", "--seeds", "1") == 2
    assert "none of its 5 runs is finished" in capsys.readouterr().err
    (job.path / "config.yaml").write_text("{")
    assert job.state == "other settings"
    # what a run resolves, and a setting that an older version did not have
    resolved = job.config.as_dict() | {"device": "cpu", "template": "a {}", "memory_limit": 1024}
    del resolved["deterministic"]
    (job.path / "config.yaml").write_text(yaml.safe_dump(resolved))
    assert job.state == "finished"
    (job.path / "result.json").unlink()
    assert job.state == "interrupted"


def test_table_shows_what_is_finished_and_says_what_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for entry in PLANS["table7"](maker(tmp_path, seeds=(1, 2))):
        if entry.column != "0.5":
            finish(entry.job, shift=float(entry.job.config.seed))
    assert call(tmp_path, "table7", "--no-run", "--seeds", "1", "2") == 0
    told = "Made without 2 of 10 runs; --dry-run lists them.\n\nAsked for: --seeds 1 2.\n"
    assert told in capsys.readouterr().out and told in (tmp_path / "made/table7.md").read_text()
    # 73 and 74: 73.5 ± 12.71 · 0.5
    line = next(line for line in (tmp_path / "made/table7.md").read_text().splitlines() if line.startswith("| zo-pruned"))
    assert line == "| zo-pruned | " + "73.50 ± 6.35 (n 2) | " * 4 + "– |"


def test_papers_figures_stand_beside_ours_and_table_2_averages_the_shifts_alone(tmp_path: Path) -> None:
    paper_maker = JobFactory(PAPER, str(tmp_path / "runs"), "/data", seeds=(1,))
    for entry in PLANS["table2"](paper_maker):
        if entry.row == "RN50, zo-pruned":
            # ImageNet's own 72 points; 62 on each shift
            finish(entry.job, shift=0.0 if entry.phase == 0 else -10.0)
    argv = ["table2", "--no-run", "--seeds", "1", "--root_path", "/data"]
    where = ["--output_dir", str(tmp_path / "runs"), "--output", str(tmp_path / "made")]
    assert reproduce.main([*argv, *where]) == 0
    lines = (tmp_path / "made/table2.md").read_text().splitlines()
    assert "| RN50, zo-pruned | 72.00 (n 1); 63.30 | 62.00 (n 1); 54.80 |" in "\n".join(lines)
    assert next(line for line in lines if line.startswith("| RN50, zo-pruned")).endswith("| 62.00 (n 1); 43.30 |")
    # a row that was not run still shows the paper's
    assert next(line for line in lines if line.startswith("| RN50, coop")).startswith("| RN50, coop | –; 63.30 |")


def test_table_in_latex(tmp_path: Path) -> None:
    finish(maker(tmp_path).job("digits", "zo-pruned", 1))
    assert call(tmp_path, "table7", "--no-run", "--format", "latex") == 0
    assert r"\begin{tabular}" in (tmp_path / "made/table7.tex").read_text()


def test_times_are_to_the_highest_accuracy_that_all_reach(tmp_path: Path) -> None:
    entries = [entry for entry in PLANS["table3"](maker(tmp_path, seeds=(1,))) if entry.column == "digits"]
    for entry in entries:
        finish(entry.job, shift=-5.0 if entry.row == "bbt" else 0.0)
    table = times_table(Results.read(entries))
    assert "digits 67.00 %" in table.notes[0]
    cells = {row[0]: row[1] for row in table.rows}
    assert cells["zo-pruned"] == "15.0 (n 1) s; 1 500 queries; whole run: stage 1 10.0 s, stage 2 6.0 s"
    assert cells["bbt"].startswith("16.0 (n 1) s; 1 600 queries")


@pytest.mark.parametrize("name", ["fig1", "fig3", "fig4", "queries", "time", "shots"])
def test_figure_is_drawn_from_finished_runs(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for entry in PLANS[reproduce.PLAN_OF.get(name, name)](maker(tmp_path, seeds=(1, 2))):
        finish(entry.job, float(entry.job.config.seed))
    assert call(tmp_path, name, "--no-run", "--seeds", "1", "2") == 0
    assert (tmp_path / f"made/{name}.png").read_bytes().startswith(b"\x89PNG")


def test_claims_are_judged_by_paired_intervals(tmp_path: Path) -> None:
    for entry in PLANS["claims"](maker(tmp_path, seeds=(1, 2, 3))):
        config = entry.job.config
        # SharpZO above all rivals by 2 on digits alone, and under shift above all but CoOp; ρ 0.5 the best; noise that pairing
        # removes
        better = 2.0 if config.prompt_trainer == "zo-pruned" and not config.run_name and config.dataset == "digits" else 0.0
        if config.prompt_trainer == "saved" and ("zo-pruned" in config.run_name or "coop" in config.run_name):
            better = 2.0
        finish(entry.job, better + 3.0 * (config.rho == 0.5) + config.seed + 0.01 * (config.seed % 2) * (better > 0))
    assert call(tmp_path, "claims", "--no-run", "--seeds", "1", "2", "3") == 0
    lines = (tmp_path / "made/claims.md").read_text().splitlines()
    told = {tuple(cell.strip() for cell in line.split("|")[1:3]): line.split("|")[-2].strip() for line in lines if "|" in line}
    assert told["SharpZO above bbt", "digits, Mini"] == "holds"
    assert told["SharpZO above bbt", "openmoji, Mini"] == "not shown"
    assert told["SharpZO above zero-shot", "openmoji, Mini"] == "holds"
    # the same noise in both
    assert told["smaller spread across seeds than Mini, bbt", "openmoji"] == "not shown"
    assert told["SharpZO above bbt, under shift", "mean of 4 shifts, Mini"] == "holds"
    assert told["SharpZO above coop, under shift", "mean of 4 shifts, Mini"] == "not shown"
    assert told["ρ 0.1 above 0.5", "digits"] == "fails"
    assert told["Z-pruning above dense", "digits"] == "holds"


def test_prompt_of_base_classes_is_evaluated_on_new_ones_and_both_give_a_harmonic_mean(tmp_path: Path) -> None:
    import main_sharpzo

    tiny = {"intrinsic_dim": 4, "popsize": 4, "total_steps": 4, "change_point": 2, "prune_interval": 2, "shots": 1}
    trained = Cell("zo-pruned", "digits, base", maker(tmp_path).job("digits", "zo-pruned", subsample_classes="base", **tiny))
    tested = evaluation(maker(tmp_path), trained, "digits", "new")._replace(column="digits, new")
    assert tested.phase > trained.phase
    for entry in (trained, tested):
        assert main_sharpzo.main(list(entry.job.flags)) == 0
        assert entry.job.state == "finished"
    found = Results.read([trained, tested])
    base, new = (found.accuracies("zo-pruned", f"digits, {half}")[1] for half in ("base", "new"))
    table = harmonic(found, ["digits"])
    assert table.rows == [["zo-pruned", f"{base:.2f} (n 1); {new:.2f} (n 1); {2 * base * new / (base + new):.2f} (n 1)"]]


def test_mean_of_columns_is_by_seed_over_the_seeds_that_all_have(tmp_path: Path) -> None:
    entries = [entry for entry in PLANS["table7"](maker(tmp_path, seeds=(1, 2))) if entry.column in ("0.1", "0.5")]
    for entry in entries:
        if (entry.column, entry.job.config.seed) != ("0.5", 2):
            finish(entry.job, shift=1.0 if entry.column == "0.1" else 3.0)
    found = Results.read(entries)
    assert found.accuracies("zo-pruned", "0.1", "0.5") == {1: 74.0}
    assert found.accuracies("zo-pruned", "0.1") == {1: 73.0, 2: 73.0}


def test_rival_with_one_seed_gives_no_interval_but_what_trains_nothing_does(tmp_path: Path) -> None:
    entries = [entry for entry in PLANS["table1"](maker(tmp_path, seeds=(1, 2, 3))) if entry.column == "digits"]
    for entry in entries:
        if entry.job.config.prompt_trainer in ("zo-pruned", "zero-shot") or entry.job.config.seed == 1:
            finish(entry.job)
    found = Results.read(entries)
    assert found.paired(("digits",), "Mini, zo-pruned", "Mini, bbt") is None
    assert found.paired(("digits",), "Mini, zo-pruned", "Mini, zero-shot").n == 3


@pytest.mark.parametrize(
    ("mean", "half", "expected"), [(1.0, 0.5, "holds"), (-1.0, 0.5, "fails"), (1.0, 1.5, "not shown"), (0.0, 0.0, "not shown")]
)
def test_verdict_needs_the_whole_interval(mean: float, half: float, expected: str) -> None:
    assert verdict(Sample(3, mean, half, 1.0)) == expected


def test_seed_that_stands_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path, "table7", "--no-run", "--seeds", "1", "2", "1") == 2
    assert "error: --seeds: 1 2 1: a seed stands twice" in capsys.readouterr().err


def test_artifact_that_a_suite_cannot_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--suite mini"):
        list(PLANS["baselines"](JobFactory(PAPER, str(tmp_path))))


def test_shifts_of_the_laptop_suite_are_scored_with_the_prompts_that_digits_made(tmp_path: Path) -> None:
    entries = [entry for entry in PLANS["table2"](maker(tmp_path, seeds=(1,))) if entry.row == "Mini, zo-pruned"]
    trained, *scored = entries
    assert (trained.column, trained.phase) == ("digits", 0)
    assert [entry.column for entry in scored] == list(MINI.shifts)
    assert {entry.job.config.load_prompt for entry in scored} == {str(trained.job.path / "prompt.safetensors")}
    assert {(entry.phase, entry.job.config.backbone, entry.job.config.dataset == entry.column) for entry in scored} == {
        (1, "Mini", True)
    }


def test_part_of_a_suite_is_planned_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = ["--methods", "zo-pruned", "zero-shot", "--datasets", "digits"]
    assert call(tmp_path, "shots", "--dry-run", *part) == 0
    out = capsys.readouterr().out
    # five shots and seeds of one method, and zero-shot once
    assert "26 runs" in out and "openmoji" not in out and "bbt" not in out
    for flag, name in (("--methods", "coop"), ("--datasets", "eurosat")):
        assert call(tmp_path, "shots", "--dry-run", flag, name) == 2
        assert f"error: {flag}: the mini suite has no {name!r}" in capsys.readouterr().err
    assert call(tmp_path, "shots", "table6", "--dry-run", "--datasets", "digits") == 2
    assert "error: --datasets: table6 is made of the whole suite" in capsys.readouterr().err


def test_average_over_a_part_of_the_papers_datasets_stands_beside_no_figure_of_the_paper(tmp_path: Path) -> None:
    for entry in PLANS["table1"](JobFactory(PAPER, str(tmp_path / "runs"), "/data", seeds=(1,))):
        if entry.row == "RN50, zo-pruned":
            finish(entry.job)
    where = [
        "--no-run",
        "--seeds",
        "1",
        "--root_path",
        "/data",
        "--output_dir",
        str(tmp_path / "runs"),
        "--output",
        str(tmp_path),
    ]
    rows = []
    for part in ([], ["--datasets", "eurosat", "dtd"]):
        assert reproduce.main(["table1", *where, *part]) == 0
        text = (tmp_path / "table1.md").read_text()
        rows.append(next(line for line in text.splitlines() if line.startswith("| RN50, zo-pruned")))
    assert "; " in rows[0].split("|")[-2]
    assert rows[1].split("|")[-2].strip() == "72.00 (n 1)"


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


def test_missing_matplotlib_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plotting.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(reproduce, "run_jobs", None)
    for argv in (("fig1",), ("table7", "fig3"), ("baselines",)):
        assert call(tmp_path, *argv) == 2
        assert capsys.readouterr().err == "error: figures need matplotlib; pip install matplotlib\n"


def test_plan_of_table_4_lists_what_measures_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path, "table4", "--dry-run", "--seeds", "1", "--devices", "cpu") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "tools.reproduce.memory" in line]
    assert len(lines) == 6 and all(line.startswith("missing ") and line.endswith("--device cpu") for line in lines)


# a cell of each table as `finish` fills it; in the paper's suite with the paper's figure
@pytest.mark.parametrize(
    ("suite", "name", "row", "cell"),
    [
        ("paper", "table1", "ViT-B/16, zo-pruned", "72.00 (n 1); 94.06"),
        ("paper", "table2", "RN50, coop", "72.00 (n 1); 63.30"),
        ("paper", "table3", "zo-pruned", "; paper 2.4 min"),
        ("paper", "table4", "craft", "72.00 (n 1); "),
        ("paper", "table5", "zo-pruned", "72.00 (n 1); "),
        ("paper", "table6", "magnitude", "72.00 (n 1); "),
        ("paper", "table7", "zo-pruned", "72.00 (n 1); "),
        ("mini", "table2", "Mini, zo-pruned", "72.00 (n 1) |"),
        ("mini", "table5", "zo-pruned", "| 72.00 (n 1) | 72.00 (n 1) |"),
        ("mini", "base2new", "zo-pruned", "72.00 (n 1); 72.00 (n 1); 72.00 (n 1)"),
        ("mini", "cross", "zo-pruned", "| 72.00 (n 1) | 72.00 (n 1) | 72.00 (n 1) |"),
        ("mini", "fidelity", "abs-score", "| 72.00 (n 1) |"),
        ("mini", "baselines", "bbt", "| 72.00 (n 1) |"),
    ],
)
def test_every_table_is_made_of_finished_runs(suite: str, name: str, row: str, cell: str, tmp_path: Path) -> None:
    root = "/data" if suite == "paper" else None
    for entry in PLANS[name](JobFactory({"paper": PAPER, "mini": MINI}[suite], str(tmp_path / "runs"), root, (1,))):
        finish(entry.job)
    where = ["--output_dir", str(tmp_path / "runs"), "--output", str(tmp_path / "made"), *(["--root_path", root] if root else [])]
    assert reproduce.main([name, "--suite", suite, "--no-run", "--seeds", "1", *where]) == 0
    line = next(line for line in (tmp_path / f"made/{name}.md").read_text().splitlines() if line.startswith(f"| {row} |"))
    assert cell in line


def test_surface_and_memory_are_measured_on_real_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fig. 2b and the memory half of table 4, end to end on tiny stage-1 runs."""
    import main_sharpzo
    from tools.reproduce import memory, surface

    tiny = {"intrinsic_dim": 6, "popsize": 4, "total_steps": 5, "shots": 1, "rho": 5.0}
    jobs = []
    for name, extra in (("naive CMA-ES", {"smoothness_estimator": "none", "variant": "naive"}), ("sharpness-aware CMA-ES", {})):
        job = maker(tmp_path).job("digits", "cma-es", **(tiny | extra))
        assert main_sharpzo.main(list(job.flags)) == 0
        jobs.append((name, job))
    found = surface.surfaces(jobs, radius=1.0, side=3)
    for drawn in found.values():
        assert drawn["losses"].shape == (3, 3)
        assert drawn["losses"][1, 1] == pytest.approx(drawn["center"])
        assert list(drawn["rises"]) == list(surface.DISTANCES)
    assert found["naive CMA-ES"]["center"] != found["sharpness-aware CMA-ES"]["center"]

    def of(job: Job, device: str = "") -> memory.Measurement:
        return memory.Measurement(job, tmp_path / "memory", device)

    assert of(jobs[0][1]).take(run=False) is None
    figures = of(jobs[0][1]).take()
    assert figures["of"] == "process, CPU" and 100 < figures["mib"] < 20_000
    # measured once
    monkeypatch.setattr(memory.subprocess, "run", None)
    assert of(jobs[0][1], "cpu").take() == figures
    # of other settings it was not, nor on a card
    assert of(jobs[1][1]).take(run=False) is None
    monkeypatch.setattr(memory, "pick_device", lambda name: torch.device(name))
    assert of(jobs[0][1], "cuda:1").take(run=False) is None
