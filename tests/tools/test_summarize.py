"""The summary of run folders, and the paper's figures in it."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import time
from pathlib import Path

import pytest
import yaml

from tools import summarize
from tools.common import paper
from tools.common.names import OURS, title
from tools.common.samples import sample, show, spread_ratio
from tools.common.tables import Table
from trainers.run_path import run_path
from utils.config import FIELDS
from utils.settings import Config


def write_run(root: Path, accuracy: float | None, **settings: object) -> Path:
    """A run folder as main leaves it; without an accuracy, an unfinished run."""
    config = dataclasses.replace(Config(), **{"output_dir": str(root), "dataset": "eurosat"} | settings)
    path = run_path(config)
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump({k: v for k, v in config.as_dict().items() if k != "config"}))
    result = {key: getattr(config, key) for key in ("dataset", "backbone", "shots", "seed")} | {"trainer": config.prompt_trainer}
    result |= {"zero_shot_accuracy": 47.0, "test_accuracy": accuracy, "queries": 100, "seconds": 1.5}
    if accuracy is not None:
        (path / "result.json").write_text(json.dumps(result))
        (path / "env.json").write_text(json.dumps({"commit": "abc", "packages": {"torch": "2.6"}}))
    return path


def summary(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert summarize.main([str(argument) for argument in argv]) == 0
    return capsys.readouterr().out.replace("**", "")


def row(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_cell_is_mean_interval_n_paper_and_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, accuracy in ((1, 78.0), (2, 80.0), (3, 82.0)):
        write_run(tmp_path, accuracy, seed=seed)
    # 2 / √3 · t(0.975, 2) = 4.97
    assert row(summary(capsys, tmp_path), "SharpZO")[1] == "80.00 ± 4.97 (n = 3); paper 79.42, +0.58"
    # CoOp's: the population's standard deviation
    assert row(summary(capsys, tmp_path, "--std", "population"), "SharpZO")[1].startswith("80.00 ± 1.63 (n = 3)")


def test_csv_leaves_the_table_per_class_in_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path / "runs", 78.0) / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"classes": [{"name": "river", "accuracy": 50.0}]}))
    summary(capsys, tmp_path / "runs", "--csv", tmp_path / "runs.csv")
    assert "river" not in (tmp_path / "runs.csv").read_text() and "78.0" in (tmp_path / "runs.csv").read_text()


def test_ratio_of_spreads_has_the_f_interval() -> None:
    # variances 1 and 4; F(0.975; 4, 4) = 9.6045
    ratio = spread_ratio([0.0, 0.0, 1.0, 2.0, 2.0], [0.0, 0.0, 2.0, 4.0, 4.0])
    assert (ratio.a, ratio.b) == (1.0, 2.0)
    assert (ratio.low, ratio.high) == pytest.approx((0.5 / 9.6045**0.5, 0.5 * 9.6045**0.5), rel=1e-4)


def test_variants_and_other_shots_have_no_paper_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, 70.0, run_name="mine")
    write_run(tmp_path, 60.0, shots=4)
    text = summary(capsys, tmp_path)
    assert row(text, "SharpZO, mine")[1] == "70.00 (n = 1)"
    assert row(text, "SharpZO")[1] == "60.00 (n = 1)"
    assert "ViT-B/16, 16 shots" in text and "ViT-B/16, 4 shots" in text


def test_only_complete_rows_have_an_average(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, 80.0)
    write_run(tmp_path, 70.0, prompt_trainer="bbt")
    config = yaml.safe_load((tmp_path / "eurosat/bbt/ViT-B-16/16shots/seed1/config.yaml").read_text())
    for source in ("eurosat/bbt",):
        path = tmp_path / "dtd/bbt/ViT-B-16/16shots/seed1"
        path.mkdir(parents=True)
        (path / "config.yaml").write_text(yaml.safe_dump(config | {"dataset": "dtd"}))
        result = json.loads((tmp_path / source / "ViT-B-16/16shots/seed1/result.json").read_text())
        (path / "result.json").write_text(json.dumps(result | {"dataset": "dtd", "test_accuracy": 60.0}))
    text = summary(capsys, tmp_path)
    # the paper's mean over the same two datasets: (59.26 + 70.48) / 2
    assert row(text, title("bbt"))[-1] == "65.00 (n = 1); paper 64.87, +0.13"
    assert row(text, "SharpZO")[1:] == ["–", "80.00 (n = 1); paper 79.42, +0.58", "–"]
    assert "missing: dtd, SharpZO, ViT-B/16, 16 shots: all seeds" in text


def test_average_has_the_interval_of_the_seeds_means(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # by seed the means are 70, 71 and 72, though each dataset varies by ten times as much
    for seed, (first, second) in enumerate(((80.0, 60.0), (71.0, 71.0), (62.0, 82.0)), 1):
        write_run(tmp_path, first, seed=seed)
        write_run(tmp_path, second, seed=seed, dataset="dtd")
    # 1 / √3 · t(0.975, 2) = 2.48
    assert row(summary(capsys, tmp_path), "SharpZO")[-1].startswith("71.00 ± 2.48 (n = 3); paper 71.69")


def test_zero_shot_is_in_the_table_of_each_number_of_shots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for shots in (1, 16):
        write_run(tmp_path, 60.0 + shots, shots=shots)
    write_run(tmp_path, 47.0, prompt_trainer="zero-shot", shots=4)
    text = summary(capsys, tmp_path)
    assert text.count(f"| {title('zero-shot')} | 47.00 (n = 1)") == text.count("### ") == 2
    assert "missing" not in text


def test_shifts_have_a_table_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, 80.0, dataset="digits", backbone="Mini")
    write_run(tmp_path, 50.0, dataset="mnist", backbone="Mini", prompt_trainer="saved", run_name="zo-pruned-from-digits")
    write_run(tmp_path, 40.0, dataset="mnist", backbone="Mini", prompt_trainer="zero-shot")
    text = summary(capsys, tmp_path)
    assert "missing" not in text
    trained, shifted = text.split("### ")[1:]
    assert trained.startswith("Test accuracy (%), Mini, 16 shots") and "mnist" not in trained
    assert shifted.startswith("Test accuracy (%), under shift, Mini, 16 shots")
    assert (
        f"| {title('saved')}, zo-pruned-from-digits | 50.00 (n = 1) |" in shifted
        and f"| {title('zero-shot')} | 40.00 (n = 1)" in shifted
    )


def test_missing_seeds_unfinished_runs_and_disagreements_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, 80.0)
    write_run(tmp_path, 81.0, seed=2, sigma=0.9)
    write_run(tmp_path, 70.0, prompt_trainer="bbt")
    write_run(tmp_path, 47.0, prompt_trainer="zero-shot")
    unfinished = write_run(tmp_path, None, seed=3)
    text = summary(capsys, tmp_path)
    assert f"missing: eurosat, {title('bbt')}, ViT-B/16, 16 shots: seeds 2" in text
    assert text.count("missing: ") == 1
    assert f"unfinished: {unfinished}" in text
    assert "different settings: eurosat, SharpZO, ViT-B/16, 16 shots: sigma: 0.4 in seed [1]; 0.9 in seed [2]" in text
    assert text.count("different settings: ") == 1


def test_missing_seeds_of_evaluated_prompts_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 2):
        write_run(tmp_path, 80.0, seed=seed)
    write_run(tmp_path, 70.0, prompt_trainer="saved", run_name="zo-pruned-from-imagenet")
    text = summary(capsys, tmp_path)
    assert f"missing: eurosat, {title('saved')}, zo-pruned-from-imagenet, ViT-B/16, 16 shots: seeds 2" in text
    assert text.count("missing: ") == 1


def test_setting_that_an_older_version_lacked_counts_as_its_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 2):
        path = write_run(tmp_path, 80.0, seed=seed) / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    assert settings.pop("spsa_o") == 1.0 and settings.pop("rank") == 5
    path.write_text(yaml.safe_dump(settings))
    assert "different settings" not in summary(capsys, tmp_path)
    path.write_text(yaml.safe_dump(settings | {"rank": 6}))
    assert "rank: 5 in seed [1]; 6 in seed [2]" in summary(capsys, tmp_path)


def test_csv_has_a_row_a_run_with_every_setting_and_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", 80.0)
    write_run(tmp_path / "b", 81.0, seed=2)
    summary(capsys, tmp_path / "a", tmp_path / "b", "--csv", tmp_path / "all runs.csv")
    with (tmp_path / "all runs.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(r["seed"], r["test_accuracy"], r["commit"]) for r in rows] == [("1", "80.0", "abc"), ("2", "81.0", "abc")]
    assert set(FIELDS) - {"config"} <= set(rows[0])
    assert {"queries", "seconds", "zero_shot_accuracy", "torch", "path"} <= set(rows[0])


def test_latex_is_escaped_and_free_of_remarks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, 80.0, run_name="a_b")
    write_run(tmp_path, 80.5, seed=2, run_name="a_b")
    out = summary(capsys, tmp_path, "--format", "latex")
    assert r"SharpZO, a\_b & 80.25 $\pm$ " in out
    assert "missing" not in out and "%" not in out.replace(r"\%", "")


def test_folder_without_runs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert summarize.main([str(tmp_path)]) == 2
    assert summarize.main([str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("error: ") == 2


def test_one_run_has_no_interval() -> None:
    assert math.isnan(sample([3.0]).half)
    assert show(sample([3.0])) == "3.00 (n = 1)"


def test_markdown_keeps_a_bar_inside_its_cell() -> None:
    assert "| a\\|b |" in Table("t", ["x"], [["a|b"]]).markdown()


@pytest.mark.parametrize(
    "row", [row for name in ("table1", "table2") for row in paper.tables()[name]["rows"]], ids=lambda row: row["method"]
)
def test_papers_printed_averages_are_the_means_of_its_numbers(row: dict) -> None:
    # table 2's average leaves ImageNet out
    values = [number for dataset, number in row["values"].items() if len(row["values"]) == 11 or dataset != "imagenet"]
    mean = sum(values) / len(values)
    if row["method"] == "zip":
        # the printed average of ZIP's row is not its mean
        assert (round(mean, 2), row["average"]) == (68.58, 70.57)
        return
    decimals = 2 if len(row["values"]) == 11 else 1
    # single figures were rounded before the mean was
    assert abs(mean - row["average"]) < (0.011 if decimals == 2 else 0.101)


def test_papers_tables_have_all_their_cells() -> None:
    sizes = {name: sum(len(row["values"]) for row in table["rows"]) for name, table in paper.tables().items()}
    assert sizes == {
        "table1": 11 * 11,
        "table2": 12 * 5,
        "table3": 12,
        "table4": 8,
        "table4-memory": 8,
        "table5": 16,
        "table6": 10,
        "table7": 5,
    }
    assert paper.accuracy(OURS, "eurosat", "ViT-B/16") == paper.value("table7", OURS, "0.1") == 79.42
    assert paper.value("table6", "zscore", "0.5") == 79.42
    assert paper.accuracy(OURS, "imagenet", "RN101") == 65.40
    assert paper.accuracy(OURS, "digits", "Mini") is None
    assert paper.accuracy("craft", "oxford_pets", "ViT-B/16") == 91.94


def test_zero_shot_comes_first_even_if_it_was_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, 80.0)
    lines = [line for line in summary(capsys, tmp_path).splitlines() if line.startswith("|")]
    # the run itself recorded 47.0
    assert lines[2].startswith(f"| {title('zero-shot')} | 47.00 (n = 1)") and lines[3].startswith("| SharpZO | 80.00")


def test_best_of_a_column_is_bold_and_variants_do_not_compete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, 80.0, shots=4)
    write_run(tmp_path, 79.0, shots=4, prompt_trainer="bbt")
    write_run(tmp_path, 90.0, shots=4, run_name="half-the-classes")
    assert summarize.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "| SharpZO | **80.00 (n = 1)** |" in out and out.count("**") == 2
    assert summarize.main([str(tmp_path), "--format", "latex"]) == 0
    assert r"SharpZO & \textbf{80.00 (n = 1)} \\" in capsys.readouterr().out


def test_spread_may_be_the_sample_standard_deviation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, accuracy in ((1, 78.0), (2, 80.0), (3, 82.0)):
        write_run(tmp_path, accuracy, seed=seed)
    text = summary(capsys, tmp_path, "--std", "sample")
    assert row(text, "SharpZO")[1].startswith("80.00 ± 2.00 (n = 3)")
    assert "Mean ± sample standard deviation over n seeds" in text


def test_named_run_of_one_seed_lacks_no_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 2):
        write_run(tmp_path, 80.0, seed=seed)
    write_run(tmp_path, 81.0, run_name="one-off")
    assert "missing" not in summary(capsys, tmp_path)


def test_run_of_an_unknown_trainer_or_dataset_is_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, 80.0)
    for key, value in (("prompt_trainer", "future"), ("dataset", "future_set")):
        write_run(tmp_path, 70.0, **{key: value})
    text = summary(capsys, tmp_path)
    assert row(text, "SharpZO")[1].startswith("80.00 (n = 1)")
    warnings = [line for line in text.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 2 and "unknown trainer 'future'" in text and "unknown dataset 'future_set'" in text


def test_methods_are_compared_by_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, ours, theirs in ((1, 80.0, 79.0), (2, 82.0, 80.0), (3, 84.0, 81.0), (4, 90.0, None)):
        write_run(tmp_path, ours, seed=seed)
        if theirs is not None:
            write_run(tmp_path, theirs, seed=seed, prompt_trainer="mezo")
    text = summary(capsys, tmp_path, "--compare", "sharpzo", "mezo")
    # differences 1, 2, 3: 2 ± 1 / √3 · t(0.975, 2); t = 3.46, p = 0.074
    assert row(text, "eurosat")[1:] == [
        "ViT-B/16",
        "16",
        "82.00 ± 4.97 (n = 3)",
        "80.00 ± 2.48 (n = 3)",
        "+2.00 ± 2.48 (n = 3)",
        "0.074",
    ]
    for name in ("zip", "sharpzo:mine"):
        assert summarize.main([str(tmp_path), "--compare", "sharpzo", name]) == 2
        assert f"error: --compare: no run of {name!r}; choose from" in capsys.readouterr().err


def test_methods_without_a_common_seed_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, 80.0, seed=1)
    write_run(tmp_path, 79.0, seed=2, prompt_trainer="mezo")
    assert summarize.main([str(tmp_path), "--compare", "sharpzo", "mezo"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(
        "error: --compare sharpzo mezo: no dataset, backbone and number of shots where both have the same seed"
    )


def test_csv_is_read_back_as_the_runs_it_was_written_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 2):
        write_run(tmp_path / "runs", 80.0 + seed, seed=seed, rho=0.05)
    text = summary(capsys, tmp_path / "runs", "--csv", tmp_path / "runs.csv")
    assert summary(capsys, tmp_path / "runs.csv") == text
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert summarize.main([str(tmp_path / "other.csv")]) == 2
    assert "other.csv: not a CSV of tools.summarize" in capsys.readouterr().err


def test_runs_under_the_methods_old_name_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, 80.0, prompt_trainer="zo-pruned")
    write_run(tmp_path, 82.0, seed=2, prompt_trainer="sharpzo")
    text = summary(capsys, tmp_path)
    assert row(text, "SharpZO")[1].startswith("81.00 ± 12.71 (n = 2)")
    assert "different settings" not in text


def test_zero_shot_is_compared_with_every_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, accuracy in ((1, 80.0), (2, 82.0)):
        write_run(tmp_path, accuracy, seed=seed)
    write_run(tmp_path, 47.0, prompt_trainer="zero-shot")
    text = summary(capsys, tmp_path, "--compare", "sharpzo", "zero-shot")
    assert row(text, "eurosat")[5] == "+34.00 ± 12.71 (n = 2)"


def test_many_runs_are_read_at_a_rate_of_over_thirteen_hundred_in_five_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets = ("eurosat", "dtd", "caltech101", "food101", "sun397")
    methods = ("sharpzo", "bbt", "zip", "mezo")
    for dataset in datasets:
        for method in methods:
            for seed in range(1, 11):
                write_run(tmp_path, 80.0 + seed, dataset=dataset, prompt_trainer=method, seed=seed)
    # CPU time, which other work on the machine hardly affects
    before = time.process_time()
    text = summary(capsys, tmp_path)
    assert time.process_time() - before < 5 * 200 / 1342
    assert text.count("(n = 10)") == len(methods) * (len(datasets) + 1)
