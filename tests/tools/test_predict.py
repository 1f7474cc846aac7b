"""The command that classifies images: every format says the same, and an unreadable image is reported, not hidden."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from datasets.digits import read_digits
from main_sharpzo import main as run_main
from tests.helpers.runs import FLAGS, folder_of
from tools.predict import main

pytestmark = pytest.mark.usefixtures("one_mini")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs")
    assert run_main([*FLAGS, "--prompt_trainer", "sharpzo", "--output_dir", str(output)]) == 0
    return folder_of(output, "sharpzo")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    digits = read_digits()
    for item in digits.test[:5]:
        path = tmp_path / "pictures" / f"{item.classname} ü,{item.path.rpartition('/')[2]}.png"
        path.parent.mkdir(exist_ok=True)
        digits.open_image(item).save(path)
    return tmp_path / "pictures"


def predict(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main([*map(str, arguments)])
    return status, *capsys.readouterr()


def test_every_format_has_the_same_rows(run: Path, pictures: Path, capsys: pytest.CaptureFixture) -> None:
    texts = {form: predict(capsys, run, pictures, "--topk", 3, "--format", form)[1] for form in ("table", "json", "jsonl", "csv")}
    objects = json.loads(texts["json"])
    assert [row["image"] for row in objects] == sorted(str(path) for path in pictures.iterdir())
    assert all(len(row["top"]) == 3 and row["label"] == row["top"][0]["label"] for row in objects)
    assert [json.loads(line) for line in texts["jsonl"].splitlines()] == objects
    rows = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert [(row["image"], row["label"], float(row["probability"]), row["label_3"]) for row in rows] == [
        (row["image"], row["label"], row["probability"], row["top"][2]["label"]) for row in objects
    ]
    for line, row in zip(texts["table"].splitlines(), objects, strict=True):
        assert line.startswith(row["image"]) and f"{row['label']}  {row['probability']:.1%}" in line


def test_unreadable_image_is_a_row_with_the_reason_and_status_1(run: Path, pictures: Path, capsys: pytest.CaptureFixture) -> None:
    (pictures / "a bad one.png").write_text("no picture")
    status, text, error = predict(capsys, run, pictures, "missing.png", "--format", "jsonl")
    rows = [json.loads(line) for line in text.splitlines()]
    assert status == 1 and "2 images cannot be read" in error and len(error.splitlines()) == 1
    assert "not a readable image" in rows[0]["error"] and rows[-1] == {"image": "missing.png", "error": "the image is missing"}
    assert all("label" in row for row in rows[1:-1])


def test_on_error_fail_stops_and_leaves_no_output(run: Path, pictures: Path, capsys: pytest.CaptureFixture) -> None:
    output = pictures / "rows.csv"
    status, _, error = predict(capsys, run, "missing.png", "--on_error", "fail", "--format", "csv", "--output", output)
    assert status == 2 and error == "error: missing.png: the image is missing\n"
    assert not list(pictures.glob("rows.csv*"))


def test_output_file_holds_the_rows(run: Path, pictures: Path, capsys: pytest.CaptureFixture) -> None:
    output = pictures / "deep" / "rows.jsonl"
    assert predict(capsys, run, pictures, "--format", "jsonl", "--output", output)[:2] == (0, "")
    assert len(output.read_text().splitlines()) == 5 and [path.name for path in output.parent.iterdir()] == ["rows.jsonl"]


def test_what_is_less_likely_than_reject_is_unknown(run: Path, pictures: Path, capsys: pytest.CaptureFixture) -> None:
    rows = json.loads(predict(capsys, run, pictures, "--format", "json")[1])
    limit = sorted(row["probability"] for row in rows)[2]
    again = json.loads(predict(capsys, run, pictures, "--format", "json", "--reject", limit)[1])
    for row, strict in zip(rows, again, strict=True):
        assert strict["label"] == (row["label"] if row["probability"] >= limit else "unknown")
        assert strict["top"] == row["top"]


def test_paths_from_standard_input(
    run: Path, pictures: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted(str(path) for path in pictures.iterdir())
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(paths) + "\n\n"))
    rows = json.loads(predict(capsys, run, "-", "--format", "json")[1])
    assert [row["image"] for row in rows] == paths


def test_class_names_from_the_line_or_from_a_file(run: Path, pictures: Path, capsys: pytest.CaptureFixture) -> None:
    (names := pictures.parent / "names.txt").write_text("odd\neven\n\n")
    from_file = predict(capsys, run, pictures, "--classnames", names)
    assert from_file == predict(capsys, run, pictures, "--classnames", "odd", "even")
    assert from_file[0] == 0 and all("odd" in line or "even" in line for line in from_file[1].splitlines())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "x.png"], "nowhere: no such file"),
        (["RUN", "-", "x.png"], "alone"),
        (["RUN", "EMPTY"], "holds no image file"),
    ],
)
def test_impossible_request_ends_with_one_line_and_status_2(
    arguments: list[str], said: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"RUN": str(run), "EMPTY": str(tmp_path / "empty")}
    status, text, error = predict(capsys, *(places.get(argument, argument) for argument in arguments))
    assert status == 2 and not text and said in error and error.startswith("error: ") and len(error.splitlines()) == 1


@pytest.mark.parametrize("name", ["bogus", "meta"])
def test_unknown_device_is_refused_in_one_line(
    name: str, run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    expected = f"error: --device: '{name}' is not a device; use auto, cpu, cuda or cuda:N\n"
    assert predict(capsys, run, pictures, "--device", name) == (2, "", expected)
    assert run_main([*FLAGS, "--device", name, "--output_dir", str(tmp_path / "runs")]) == 2
    assert capsys.readouterr().err == expected and not (tmp_path / "runs").exists()
