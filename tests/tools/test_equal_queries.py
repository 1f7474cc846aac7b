"""The comparison at equal queries: grids of equal size, choices by validation loss, and corrected paired differences."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from scipy import stats

from tools.maintain import equal_queries, equal_tables
from tools.maintain.equal_queries import LADDERS, NUMBER, Tasks, append, best_settings, beyond, grid, run
from tools.maintain.equal_tables import between, differences, ranks_of
from utils.errors import UserError


@pytest.mark.parametrize("name", ["sharpzo", *LADDERS])
def test_every_name_has_four_different_settings_and_sharpzo_nine(name: str) -> None:
    assert len(set(grid(name))) == (9 if name == "sharpzo" else NUMBER)


def test_a_fifth_setting_is_tried_only_beyond_an_edge() -> None:
    first, second, third, last = grid("mezo")
    assert (first, last) == ("zo_lr=0.1", "zo_lr=3.0")
    assert [beyond("mezo", best) for best in (first, second, third, last)] == ["zo_lr=0.03", None, None, "zo_lr=10.0"]
    # no value below the first of a ladder
    assert beyond("lbfgs", grid("lbfgs")[0]) is None
    # all nine combinations are tried at once
    assert beyond("sharpzo", grid("sharpzo")[0]) is None


def choice(settings: str, dataset: str, val_loss: float) -> dict[str, object]:
    row = {"name": "mezo", "set": dataset, "budget": 5000, "settings": settings, "seed": 101, "val_loss": val_loss}
    return dict.fromkeys(equal_queries.COLUMNS, 0) | row


def test_settings_have_the_lowest_validation_loss_on_average_over_the_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(equal_queries, "FOLDER", tmp_path)
    with pytest.raises(UserError, match="choose mezo"):
        best_settings("mezo", 5000)
    losses = {"zo_lr=0.1": (1.0, 2.0), "zo_lr=0.3": (1.2, 1.5), "zo_lr=1.0": (0.5, 2.4), "zo_lr=3.0": (3.0, 3.0)}
    for settings, pair in losses.items():
        append("choice", [choice(settings, dataset, loss) for dataset, loss in zip(("digits", "icons_emoji"), pair, strict=True)])
    # another budget, and a setting that one set lacks, have no influence
    append("choice", [choice("zo_lr=9", "digits", 0.0), choice("zo_lr=0.1", "digits", 0.0) | {"budget": 20_000}])
    assert best_settings("mezo", 5000) == best_settings("mezo", 20_000) == "zo_lr=0.3"


def test_a_change_point_moves_with_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equal_queries, "lowest", lambda name: "change_point=6 zo_lr=0.3")
    assert best_settings("sharpzo", 5000) == "change_point=6 zo_lr=0.3"
    assert best_settings("sharpzo", 20_000) == "change_point=24 zo_lr=0.3"


def test_differences_are_paired_by_seed_in_the_mean_over_common_sets() -> None:
    found = {
        "sharpzo": {"digits": {1: 70.0, 2: 72.0, 3: 71.0}, "icons_emoji": {1: 30.0, 2: 32.0, 3: 31.0}},
        "mezo": {"digits": {1: 72.0, 2: 75.0, 3: 75.0, 4: 90.0}, "icons_emoji": {1: 34.0, 2: 33.0, 3: 33.0}},
        "bbt": {"digits": {2: 73.0, 3: 71.0}},
        "fzoo": {"digits": {3: 75.0, 4: 75.0}},
    }
    apart = differences(found, "sharpzo")
    assert apart.keys() == {"mezo", "bbt"}  # fzoo has one seed in common
    expected = stats.ttest_1samp([3.0, 2.0, 3.0], 0.0)
    assert (apart["mezo"].n, apart["mezo"].mean) == (3, pytest.approx(8 / 3))
    interval = expected.confidence_interval()
    assert (apart["mezo"].mean - apart["mezo"].half, apart["mezo"].mean + apart["mezo"].half) == pytest.approx(tuple(interval))
    assert (apart["bbt"].n, apart["bbt"].mean) == (2, 0.5)


def test_ranks_leave_out_names_without_every_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equal_tables, "SETS", ("x", "y"))
    found = {name: {"x": {1: 1.0 * i, 2: 3.0 * i}, "y": {1: 5.0}} for i, name in enumerate("abc")} | {"d": {"x": {1: 9.0}}}
    assert ranks_of(found) == {"a": 2.5, "b": 2.0, "c": 1.5}
    assert ranks_of({"a": found["a"], "b": found["b"]}) == {}


def test_the_planned_comparison_has_its_own_seeds_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = {"sharpzo": {10: 90.0, 11: 50.0, 12: 52.0, 21: 90.0}, "sharpzo+": {10: 1.0, 11: 54.0, 12: 55.0}}
    rows = [
        {"name": name, "set": dataset, "budget": budget, "seed": str(seed), "test_accuracy": str(value + (budget == "20000"))}
        for name, by_seed in accuracies.items()
        for seed, value in by_seed.items()
        for dataset in equal_tables.SETS
        for budget in ("5000", "20000")
    ]
    monkeypatch.setattr(equal_tables, "read", lambda table: rows)
    lines = equal_tables.planned().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["`sharpzo+`", "`sharpzo`"]
    assert lines[2].startswith("| `sharpzo+` | 54.5 ± ") and "+3.5 ± " in lines[2]
    assert lines[3].startswith("| `sharpzo` | 51.0 ± ")


def test_text_between_markers_is_replaced_and_a_missing_marker_is_named() -> None:
    page = "a\n<!-- equal 5000 -->\nold\n<!-- end -->\nb\n"
    assert between(page, "equal 5000", "new") == "a\n<!-- equal 5000 -->\nnew\n<!-- end -->\nb\n"
    with pytest.raises(UserError, match="<!-- equal 9 --> is missing"):
        between(page, "equal 9", "new")


@pytest.mark.slow
def test_a_run_scored_at_two_budgets_equals_two_runs() -> None:
    tasks = Tasks()
    together = list(run(tasks, "bbt", "digits", "sigma=0.4", 1, [80, 130], True))
    apart = [row for budget in (80, 130) for row in run(tasks, "bbt", "digits", "sigma=0.4", 1, [budget], True)]
    assert [row["queries"] for row in together] == [80, 120]
    assert [row | {"cpu_seconds": 0} for row in together] == [row | {"cpu_seconds": 0} for row in apart]


def test_tables_in_the_repository_hold_what_their_csvs_do() -> None:
    page = equal_tables.DOCUMENT.read_text(encoding="utf-8")
    for marker, text in equal_tables.generated().items():
        assert between(page, marker, text) == page
    with (equal_queries.FOLDER / "equal.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(int(row["queries"]) <= int(row["budget"]) for row in rows)
    for name, budget in {(row["name"], row["budget"]) for row in rows}:
        settings = {row["settings"] for row in rows if (row["name"], row["budget"]) == (name, budget)}
        assert settings == {best_settings(name, int(budget))}
    assert not {row["seed"] for row in rows} & {row["seed"] for row in equal_queries.read("choice")}
