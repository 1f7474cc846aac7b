"""`python -m tools.data`: the check's table and lines, few-shot lists on stdout, and DATASET.md."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from datasets import DATASETS, PARTS, Sizes
from datasets.fewshot import draw_few_shot
from datasets.sources import SOURCES
from datasets.split import load_dataset
from tests.helpers.data import draw_images
from tools.data.__main__ import main
from tools.data.document import document
from utils.config import REPOSITORY
from utils.seeds import sampling_generator


@pytest.fixture
def eurosat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A EuroSAT of two classes with 2 train, 1 val and 1 test image each, which the table is made to know as whole."""
    info = DATASETS["eurosat"]
    monkeypatch.setitem(DATASETS, "eurosat", type(info)(**vars(info) | {"sizes": Sizes(2, 4, 2, 2)}))
    folder = tmp_path / "eurosat"
    split: dict[str, list] = {part: [] for part in PARTS}
    for label, name in enumerate(("Forest", "River")):
        for number, part in enumerate(("train", "train", "val", "test")):
            split[part].append([f"{name}/{number}.jpg", label, name])
        draw_images(folder / "2750" / name, *(f"{number}.jpg" for number in range(4)))
    (folder / info.split).write_text(json.dumps(split))
    return tmp_path


class Call:
    """The exit status and output of a call of the tool."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *argv: str):
        self.status = main(list(argv))
        self.out, self.err = capsys.readouterr()
        self.lines = self.out.splitlines()

    def row(self, name: str) -> list[str]:
        return next(line for line in self.lines if line.startswith(f"{name} ")).split()


def test_whole_dataset_is_well(eurosat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = Call(capsys, "check", "--root_path", str(eurosat), "eurosat")
    assert (call.status, call.err) == (0, "")
    assert call.row("eurosat") == ["eurosat", str(eurosat / "eurosat"), "there", "2", "4", "2", "2", "0", "0", "ok"]
    assert len(call.lines) == 2


def test_without_names_existing_datasets_are_checked_and_the_others_listed(
    eurosat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = Call(capsys, "check", "--root_path", str(eurosat))
    assert call.status == 0
    assert call.row("imagenet")[-2:] == ["not", "here"]
    assert call.lines[-1].startswith("not here: imagenet, caltech101, ")
    assert {line.split()[0] for line in call.lines[1:-1]} == set(SOURCES)


def test_every_missing_and_unreadable_file_is_counted_and_named(eurosat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = eurosat / "eurosat" / "2750"
    (images / "Forest" / "0.jpg").unlink()
    whole = (images / "River" / "3.jpg").read_bytes()
    (images / "River" / "3.jpg").write_bytes(whole[: len(whole) - 30])
    (images / "River" / "2.jpg").write_bytes(b"")
    call = Call(capsys, "check", "--root_path", str(eurosat), "eurosat")
    assert call.status == 1
    assert call.row("eurosat")[-3:] == ["1", "2", "wrong"]
    assert f"eurosat: {images / 'Forest' / '0.jpg'}: the image is missing" in call.lines
    assert f"eurosat: {images / 'River' / '2.jpg'}: not a readable image: the file is empty" in call.lines
    assert any(line.startswith(f"eurosat: {images / 'River' / '3.jpg'}: not a readable image: ") for line in call.lines)
    unopened = Call(capsys, "check", "--root_path", str(eurosat), "--no-images", "eurosat")
    assert unopened.row("eurosat")[-3:] == ["1", "1", "wrong"]


def test_long_lists_of_missing_files_are_cut_short(eurosat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(eurosat / "eurosat" / "2750" / "Forest")
    shutil.rmtree(eurosat / "eurosat" / "2750" / "River")
    call = Call(capsys, "check", "--root_path", str(eurosat), "eurosat")
    assert call.row("eurosat")[-3:] == ["8", "0", "wrong"]
    assert call.lines[-1] == "eurosat: and 3 more images are missing"


def test_counts_that_are_not_the_published_ones_are_wrong(
    eurosat: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = eurosat / "eurosat" / DATASETS["eurosat"].split
    split = json.loads(path.read_text())
    split["train"].append(split["test"][0])
    path.write_text(json.dumps(split))
    call = Call(capsys, "check", "--root_path", str(eurosat), "eurosat")
    assert call.status == 1
    assert "eurosat: train: 5, where the published split has 4" in call.lines
    assert "eurosat: test: 1 images are in train or val too, first Forest/3.jpg" in call.lines


@pytest.mark.parametrize("name", SOURCES)
def test_each_missing_file_is_named_with_its_source_and_instructions(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = Call(capsys, "check", "--root_path", str(tmp_path), name)
    assert call.status == 1
    for piece in SOURCES[name].pieces:
        line = next(line for line in call.lines if f"{tmp_path / DATASETS[name].folder / piece.path}: missing" in line)
        assert piece.page in line
        assert (f"python -m tools.data download {name} --root_path {tmp_path}" if piece.download else "by hand") in line


def test_part_of_a_dataset_says_what_it_lacks(eurosat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (eurosat / "eurosat" / DATASETS["eurosat"].split).unlink()
    call = Call(capsys, "check", "--root_path", str(eurosat), "eurosat")
    assert call.status == 1
    assert "missing" in call.row("eurosat")
    assert len(call.lines) == 3


def test_unreadable_split_is_reported_in_the_words_of_a_run(eurosat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = eurosat / "eurosat" / DATASETS["eurosat"].split
    path.write_text(json.dumps({"train": [["/etc/passwd", 0, "Forest"]], "val": [], "test": []}))
    call = Call(capsys, "check", "--root_path", str(eurosat), "eurosat")
    assert f"eurosat: {path}: train[0]: '/etc/passwd' must be a path below the image folder" in call.lines


def test_folders_of_images_and_digits_are_also_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cat", "dog"):
        draw_images(tmp_path / name, *(f"{number}.png" for number in range(10)))
    assert Call(capsys, "check", "--root_path", str(tmp_path), "folder").row("folder")[-7:] == [
        "2",
        "10",
        "4",
        "6",
        "0",
        "0",
        "ok",
    ]
    digits = Call(capsys, "check", "--root_path", str(tmp_path), "digits").row("digits")
    assert digits[-7:] == ["10", "908", "358", "531", "0", "0", "ok"]


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (("check", "--root_path", "nowhere"), "--root_path: nowhere: no such folder"),
        (("check", "--root_path", ".", "eurosta"), "unknown dataset 'eurosta'"),
        (("check",), "the following arguments are required: --root_path"),
        (("download", "--root_path", "."), "the following arguments are required: DATASET"),
        (("download", "--root_path", ".", "digits"), "digits: has no download"),
        (("tidy",), "invalid choice: 'tidy'"),
        (("fewshot", "--config", "configs/imagenet_a.yaml", "--root_path", "."), "imagenet_a is for evaluation only"),
        (("fewshot", "--config", "configs/eurosat.yaml", "--root_path", "nowhere"), "no such folder"),
        (("fewshot", "--config", "configs/eurosat.yaml"), "--root_path: dataset eurosat requires the folder that holds eurosat/"),
    ],
)
def test_bad_call_ends_with_one_line_and_status_2(argv: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    call = Call(capsys, *argv)
    assert (call.status, call.out) == (2, "")
    assert call.err.startswith("error: ")
    assert reason in call.err
    assert call.err.count("\n") == 1


def test_few_shot_list_is_printed_from_the_split_alone(test_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "caltech-101"
    folder.mkdir()
    shutil.copy(test_data / "splits" / DATASETS["caltech101"].split, folder)
    command = [
        sys.executable,
        "-m",
        "tools.data",
        "fewshot",
        "--config",
        "configs/caltech101.yaml",
        "--shots",
        "2",
        "--seed",
        "3",
    ]
    done = subprocess.run([*command, "--root_path", str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    train, val = draw_few_shot(load_dataset("caltech101", str(tmp_path)), 2, sampling_generator(3))
    assert json.loads(done.stdout) == {"train": [list(item) for item in train], "val": [list(item) for item in val]}
    assert done.stdout.count("\n") == 1


def test_few_shot_list_of_half_the_classes_can_be_given_back(eurosat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "fewshot",
        "--config",
        "configs/eurosat.yaml",
        "--root_path",
        str(eurosat),
        "--shots",
        "1",
        "--subsample_classes",
        "new",
    ]
    first = Call(capsys, *flags)
    assert first.status == 0
    assert [item[1:] for item in json.loads(first.out)["train"]] == [[0, "River"]]
    (eurosat / "list.json").write_text(first.out)
    assert Call(capsys, *flags, "--split_file", str(eurosat / "list.json")).out == first.out


def test_dataset_md_is_what_the_tables_say() -> None:
    assert document() == (REPOSITORY / "DATASET.md").read_text(encoding="utf-8"), "run python -m tools.data document > DATASET.md"


def test_every_dataset_has_a_source_and_a_section() -> None:
    assert set(SOURCES) == {name for name, info in DATASETS.items() if info.folder not in ("", ".")}
    for name in DATASETS:
        assert f"\n## {name}: " in document()
    for name, source in SOURCES.items():
        split = DATASETS[name].split
        assert not split or split in [piece.path for piece in source.pieces]
        assert all(piece.download or piece.note for piece in source.pieces)
