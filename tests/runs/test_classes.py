"""A run's figures for each class, and its confusion matrix."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import main_sharpzo
from tests.helpers.outcomes import FEW, FLAGS, Call, Outcome
from trainers.confusion import draw
from trainers.per_class import closing_lines

pytestmark = pytest.mark.usefixtures("one_mini")

QUICK = {
    "sharpzo": FEW,
    "craft": [*FEW, "--adapter_dim", "8"],
    "tip-adapter": ["--shots", "1", "--total_steps", "2"],
    "linear-probe": ["--shots", "1", "--total_steps", "2"],
    "bpt-vlm": [*FEW, "--popsize", "4", "--intrinsic_dim_v", "4", "--max_queries", "4"],
    "blackvip": ["--shots", "1", "--max_queries", "10", "--pt_backbone", "clip", "--sp_avg", "1"],
    "zero-shot": ["--shots", "1"],
}


def matrix(folder: Path) -> tuple[list[str], np.ndarray]:
    head, *rows = csv.reader((folder / "confusion.csv").open(encoding="utf-8"))
    assert head[1:] == [row[0] for row in rows]
    return head[1:], np.array([[int(cell) for cell in row[1:]] for row in rows])


@pytest.mark.parametrize("trainer", QUICK)
def test_classes_and_matrix_agree_with_the_test_accuracy_of_every_kind_of_trainer(trainer: str, call: Call) -> None:
    run = call("--prompt_trainer", trainer, *QUICK[trainer], "--confusion", folder=f"digits/{trainer}/Mini/1shots/seed1")
    assert run.status == 0, run.err
    names, counts = matrix(run.path)
    classes = run.result["classes"]
    assert names == [row["class"] for row in classes] and names[:2] == ["zero", "one"]
    assert counts.sum(1).tolist() == [row["images"] for row in classes] and counts.sum() == 531
    right = [row["test_accuracy"] * row["images"] / 100 for row in classes]
    assert counts.diagonal().tolist() == pytest.approx(right)
    assert 100 * counts.trace() / 531 == pytest.approx(run.result["test_accuracy"])
    before = sum(row["zero_shot_accuracy"] * row["images"] for row in classes) / 531
    assert before == pytest.approx(run.result["zero_shot_accuracy"])
    assert Image.open(run.path / "confusion.png").size[0] > 500


@pytest.mark.parametrize("trainer", ["sharpzo", "blackvip", "zero-shot"])
def test_a_finished_run_given_again_writes_the_same_matrix(trainer: str, call: Call) -> None:
    folder = f"digits/{trainer}/Mini/1shots/seed1"
    flags = ["--prompt_trainer", trainer, *QUICK[trainer]]
    run = call(*flags, folder=folder)
    assert not (run.path / "confusion.csv").exists()
    before = (run.path / "result.json").read_bytes()
    again = call(*flags, "--confusion", folder=folder)
    assert again.status == 0 and "finished already" in again.out
    _, counts = matrix(run.path)
    assert counts.trace() == round(run.result["test_accuracy"] * 531 / 100)
    assert (run.path / "result.json").read_bytes() == before


def test_a_scored_prompt_has_classes_and_a_matrix_also_when_given_again(finished: Outcome, call: Call) -> None:
    flags = ["--load_prompt", str(finished.path / "prompt.safetensors"), "--confusion"]
    folder = "digits/saved/Mini/sharpzo-from-digits/16shots/seed1"
    run = call(*flags, folder=folder)
    _, counts = matrix(run.path)
    assert run.result["classes"] == finished.result["classes"]
    assert counts.diagonal().tolist() == pytest.approx(
        [row["test_accuracy"] * row["images"] / 100 for row in finished.result["classes"]]
    )
    (run.path / "confusion.csv").unlink()
    call(*flags, folder=folder)
    assert (matrix(run.path)[1] == counts).all()


def test_matrix_without_a_saved_prompt_is_refused_and_nothing_is_written(call: Call) -> None:
    folder = "digits/sharpzo/Mini/1shots/seed1"
    run = call(*FEW, "--no-save_model", folder=folder)
    again = call(*FEW, "--no-save_model", "--confusion", folder=folder)
    assert again.status == 2 and "prompt.safetensors" in again.err and "--overwrite" in again.err
    assert not (run.path / "confusion.csv").exists()


def test_matplotlib_is_required_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main_sharpzo.main([*FLAGS, "--confusion", "--output_dir", str(tmp_path / "o")]) == 2
    assert "--confusion: needs matplotlib" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_closing_lines_name_each_class_if_there_are_few(finished: Outcome) -> None:
    start = finished.log.index("Per class, zero-shot → result:")
    rows = finished.result["classes"]
    for line, row in zip(finished.log[start + 1 :], rows, strict=False):
        assert line.split()[0] == row["class"]
        assert f"{row['zero_shot_accuracy']:.2f}% →" in line and f"{row['test_accuracy']:.2f}%  ({row['images']} images)" in line


def test_closing_lines_name_the_worst_and_the_best_of_many_classes() -> None:
    rows = [{"class": f"c{k}", "images": 4, "zero_shot_accuracy": 25.0, "test_accuracy": float(k)} for k in range(40)]
    rows.append({"class": "absent", "images": 0, "zero_shot_accuracy": None, "test_accuracy": None})
    assert list(closing_lines(rows, tuned=True)) == [
        "Worst classes: c0 25% → 0%, c1 25% → 1%, c2 25% → 2%",
        "Best classes: c39 25% → 39%, c38 25% → 38%, c37 25% → 37%",
    ]
    assert next(closing_lines(rows, tuned=False)) == "Worst classes: c0 0%, c1 1%, c2 2%"


def test_each_cell_of_many_classes_has_its_own_pixels(tmp_path: Path) -> None:
    counts = 50 * np.eye(700, dtype=int)
    counts[200, 400] = 1
    (tmp_path / "with.png").write_bytes(draw(counts, [f"class {k}" for k in range(700)]))
    counts[200, 400] = 0
    (tmp_path / "without.png").write_bytes(draw(counts, [f"class {k}" for k in range(700)]))
    one, other = (np.asarray(Image.open(tmp_path / name).convert("L")).astype(int) for name in ("with.png", "without.png"))
    left = one.shape[1] * 2 // 3
    assert (np.abs(one - other)[80:, :left] > 20).sum() == 4
