"""The icon suite's own artifacts: equal budgets, ablations of SharpZO, ranks, curves, and the claims made from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.artifacts import finish
from tools.common.costs import cost
from tools.common.names import OURS, title
from tools.common.samples import Sample, sample
from tools.reproduce import __main__ as reproduce
from tools.reproduce.equal import errors_apart
from tools.reproduce.plans import NAIVE_STAGE, PLANS, STAGE_1, WHOLE
from tools.reproduce.results import ACCURACY, Results, entropies
from tools.reproduce.suites import ICON_SUITE, JobFactory
from trainers import TRAINERS

HIGHER = {"bbt": 3.0, OURS: 2.0, "mezo": 1.0}

RUN = ("bbt", OURS, "mezo", "zip", "zero-shot", NAIVE_STAGE)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three seeds of four methods on two sets: BBT best, then SharpZO; with losses as result.json has them."""
    maker = JobFactory(ICON_SUITE, str(tmp_path / "runs"), seeds=(1, 2, 3))
    for entry in [*PLANS["equal"](maker), *PLANS["parts"](maker)]:
        config = entry.job.config
        if entry.column in ("icons_emoji", "icons_styles") and entry.row in (
            "bbt",
            OURS,
            "mezo",
            "zip",
            "zero-shot",
            NAIVE_STAGE,
        ):
            better = HIGHER.get(entry.row, 0.0) + 0.01 * config.seed**2 * (entry.row == "bbt")
            finish(entry.job, better + config.seed)
            path = entry.job.path / "result.json"
            losses = {"train_loss": 2.0 - better / 10, "test_loss": 2.5 - better / 10}
            path.write_text(json.dumps(json.loads(path.read_text()) | losses))
    return tmp_path


def test_every_method_but_coop_spends_the_same_budget(tmp_path: Path) -> None:
    maker = JobFactory(ICON_SUITE, str(tmp_path), seeds=(1,))
    trained = {e.row: cost(e.job.config) for e in PLANS["equal"](maker) if e.column == "icons_emoji" and TRAINERS[e.row].trains}
    assert set(trained) == {*ICON_SUITE.methods, "craft", "coop"} - {"zero-shot"}
    for method in set(trained) - {"coop"}:
        budget = trained[method]
        # a mask of SharpZO costs 512
        assert budget is not None and 4_500 < budget.queries <= 5_000, method


def test_cross_entropies_are_shown_where_every_run_has_them(tmp_path: Path) -> None:
    maker = JobFactory(ICON_SUITE, str(tmp_path), seeds=(1, 2))
    entries = [entry for entry in PLANS["equal"](maker) if (entry.row, entry.column) == (OURS, "icons_emoji")]
    shown = []
    for entry in entries:
        finish(entry.job)
    for entry in entries:
        path = entry.job.path / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"train_loss": 2.0, "test_loss": 2.5}))
        shown.append(entropies(Results.read(entries), OURS, "icons_emoji"))
    assert shown == ["", " (2.00, 2.50)"]


def made(runs: Path, name: str) -> str:
    where = ["--suite", "icons", "--output_dir", str(runs / "runs"), "--output", str(runs / "made"), "--seeds", "1", "2", "3"]
    assert reproduce.main([name, "--no-run", *where]) == 0
    return (runs / f"made/{name}.md").read_text() if name != "curves" else ""


def test_equal_budgets_have_a_row_per_set_with_cross_entropies_and_ranks(runs: Path) -> None:
    text = made(runs, "equal")
    lines = text.splitlines()
    names = [cell.strip() for cell in next(line for line in lines if line.startswith("| set")).split("|")[2:-1]]
    assert names == [title(name) for name in ("zero-shot", "bbt", "mezo", "zip", OURS)]
    row = next(line for line in lines if line.startswith("| icons_emoji"))
    assert "(1.80, 2.30)" in row and "**" in row.split("|")[3]
    assert "icons_topics" not in text.partition("Made without")[0]
    assert "Over 2 sets: icons_styles, icons_emoji." in text
    # 3.05 points between BBT and ZIP, standard error 0.83
    assert "more than three standard errors of their difference apart on 2 of 2 sets: icons_styles, icons_emoji." in text
    ranks = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines if "|" in line}
    assert ranks[title("bbt")] == ["1.00"] * 3 and ranks[title(OURS)] == ["2.00"] * 3 and ranks[title("zip")] == ["4.00"] * 3


def test_distance_of_methods_is_in_standard_errors_of_the_difference_of_their_means() -> None:
    accuracies = {"bbt": [50.0, 52.0], "mezo": [48.0, 50.0], "zip": [47.0, 47.0], "coop": [80.0, 81.0], "zero-shot": [1.0]}

    class Recorded(Results):
        def sample(self, row: str, column: str, key: str = ACCURACY) -> Sample | None:
            return sample(accuracies[row]) if column == "a" else None

    results = Recorded({}, list(accuracies), ["a", "b"])
    # CoOp backpropagates; BBT's mean has a standard error of 1, ZIP's of 0
    assert errors_apart(results, "a") == pytest.approx(4.0)
    assert errors_apart(results, "b") == 0.0


def test_claims_at_equal_budgets_are_judged_per_set_and_for_the_mean_and_name_what_was_not_run(runs: Path) -> None:
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in made(runs, "claims").splitlines()]
    told = {tuple(cells[:2]): cells[2:] for cells in lines if len(cells) > 2}
    claim = f"SharpZO above {title('bbt')}, at equal small budgets"
    difference, verdict, training, worse, test = told[claim, "icons_emoji"]
    assert difference.startswith("−1.05") and training.startswith("+0.10") and test.startswith("+0.10")
    assert (verdict, worse) == ("fails", "fails")
    assert told[claim, "mean of 2 sets"][1] == "fails"
    assert told[f"SharpZO above {title('zip')}, at equal small budgets", "icons_styles"][1::2] == ["holds", "holds"]
    assert told["sharpness-aware above naive CMA-ES, at equal small budgets", "mean of 2 sets"][1] == "holds"
    assert (claim, "icons_broad") not in told
    (note,) = [line for line in (runs / "made/claims.md").read_text().splitlines() if line.startswith("Too few runs: ")]
    assert f"{claim} (10 sets)" in note


def test_stage_1_has_as_many_queries_without_the_gradients_of_sharpness(tmp_path: Path) -> None:
    maker = JobFactory(ICON_SUITE, str(tmp_path), seeds=(1,))
    jobs = {entry.row: entry.job.config for entry in PLANS["parts"](maker) if entry.column == "icons_emoji"}
    with_gradients = jobs[WHOLE].change_point * (2 * jobs[WHOLE].intrinsic_dim + jobs[WHOLE].popsize)
    assert 0 <= with_gradients - jobs[NAIVE_STAGE].change_point * jobs[NAIVE_STAGE].popsize < jobs[NAIVE_STAGE].popsize
    assert jobs[STAGE_1].change_point == jobs[STAGE_1].total_steps


def test_curves_are_drawn_for_the_sets_that_were_run(runs: Path) -> None:
    pytest.importorskip("matplotlib")
    for log in (runs / "runs").rglob("metrics.jsonl"):
        entries = [json.loads(line) | {"train_loss": 2.0} for line in log.read_text().splitlines()]
        log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    made(runs, "curves")
    assert (runs / "made/curves.png").read_bytes().startswith(b"\x89PNG")


def test_prompts_of_equal_budgets_are_tested_under_shift_and_on_other_sets(tmp_path: Path) -> None:
    maker = JobFactory(ICON_SUITE, str(tmp_path / "runs"), seeds=(1, 2, 3))
    entries = [entry for entry in PLANS["transfer"](maker) if entry.row in ("bbt", OURS, "zero-shot")]
    trained = {entry.job.path for entry in entries if entry.phase == 0 and entry.row != "zero-shot"}
    for entry in entries:
        loaded = entry.job.config.load_prompt
        assert not loaded or Path(loaded).parent in trained
        shifted = entry.column in ICON_SUITE.shifts
        finish(entry.job, entry.job.config.seed + (2.0 if shifted and entry.row == "bbt" else 1.0))
    # the evaluations of table 2's prompts are other runs
    assert not {entry.job.path for entry in entries if entry.phase} & {entry.job.path for entry in PLANS["table2"](maker)}
    shift, others = made(tmp_path, "transfer").split("\n### ")
    assert "| method | icons_broad | icons_color | icons_sketch | icons_pixel | icons_glyph | average |" in shift
    (row,) = [line for line in shift.splitlines() if line.startswith(f"| {title('bbt')} ")]
    assert [cell.split()[0].strip("*") for cell in row.split("|")[2:-1]] == ["75.00", *["76.00"] * 5]
    assert "icons_emoji" in others and "icons_color" not in others
    told = [line for line in made(tmp_path, "claims").splitlines() if f"above {title('bbt')}, under shift, at equal" in line]
    assert len(told) == 1 and "| mean of 4 shifts, Icons | −1.00 ± 0.00 (n = 3) | fails |" in told[0]


def test_gains_are_related_to_what_a_set_has(tmp_path: Path) -> None:
    maker = JobFactory(ICON_SUITE, str(tmp_path / "runs"), seeds=(1, 2))
    sets = ICON_SUITE.datasets[:8]
    for entry in PLANS["equal"](maker):
        if entry.column in sets and entry.row in ("zero-shot", OURS, "bbt", "coop"):
            # SharpZO gains most on the last sets, which CoOp does as well; BBT is level with zero-shot
            place = sets.index(entry.column)
            finish(entry.job, {OURS: place, "coop": 2.0 * place, "bbt": -32.0}.get(entry.row, 0.0))
    text = made(tmp_path, "equal")
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {sets[0]} | 145 | 16 | 40 |")]
    assert row.endswith("| 32 | +32.0 | +32.0 | – |")
    (related,) = [line for line in text.splitlines() if line.startswith("| CoOp above zero-shot | 8 |")]
    assert related == "| CoOp above zero-shot | 8 | **+1.00 (p = 0.000)** | **+1.00 (p = 0.000)** | – |"


def test_other_dimensions_differ_from_equal_budgets_in_d_alone(tmp_path: Path) -> None:
    maker = JobFactory(ICON_SUITE, str(tmp_path / "runs"), seeds=(1,))
    usual = {entry.job.path for entry in PLANS["equal"](maker)}
    entries = list(PLANS["dimensions"](maker))
    for entry in entries:
        config = entry.job.config
        assert entry.column == f"{config.dataset}, d = {config.intrinsic_dim}" and config.max_queries == 5000
        assert (entry.job.path in usual) == (config.intrinsic_dim == 256)
        finish(entry.job, config.intrinsic_dim / 64)
    assert len({entry.job.path for entry in entries}) == len(entries)
    text = made(tmp_path, "dimensions")
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {title(OURS)} |")]
    assert [cell.split()[0].strip("*") for cell in row.split("|")[2:-1]] == ["73.00", "74.00", "76.00", "80.00"] * 2
