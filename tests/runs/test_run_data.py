"""The data of whole runs: given lists, halves of the classes, views, own folders, and features that a second run reads."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import main_sharpzo
from clip.backbone import Backbone
from datasets import DATASETS, PARTS
from tests.helpers.data import draw_images

TINY = [
    "--backbone",
    "Mini",
    "--intrinsic_dim",
    "4",
    "--popsize",
    "4",
    "--total_steps",
    "2",
    "--change_point",
    "1",
    "--shots",
    "1",
]
CLASSES = ("AnnualCrop", "Forest", "River")


class Outcome:
    """Status, output and folder of a run."""

    def __init__(self, status: int, out: str, err: str, path: Path):
        self.status, self.out, self.err, self.path = status, out, err, path

    def json(self, name: str) -> Any:
        return json.loads((self.path / f"{name}.json").read_text())

    @property
    def losses(self) -> list[float]:
        return [json.loads(line).get("loss") for line in (self.path / "metrics.jsonl").read_text().splitlines()]

    def assert_refused(self, *named: str) -> None:
        assert (self.status, self.out) == (2, "")
        assert re.fullmatch(r"error: [^\n]+\n", self.err)
        for text in named:
            assert text in self.err
        assert not self.path.parents[4].exists()


Call = Callable[..., Outcome]


@pytest.fixture
def call(tmp_path: Path, capfd: pytest.CaptureFixture[str], eurosat: Path) -> Call:
    """A tiny run on the small EuroSAT unless flags say otherwise, written below tmp_path/NAME."""

    def run(*argv: str, name: str = "outputs", dataset: str = "eurosat", trainer: str = "sharpzo") -> Outcome:
        capfd.readouterr()
        flags = ["--config", f"configs/{dataset}.yaml", "--root_path", str(eurosat), *TINY, "--prompt_trainer", trainer]
        status = main_sharpzo.main([*flags, "--output_dir", str(tmp_path / name), "--cache_dir", str(tmp_path / "cache"), *argv])
        out, err = capfd.readouterr()
        return Outcome(status, out, err, tmp_path / name / dataset / trainer / "Mini" / "1shots" / "seed1")

    return run


@pytest.fixture
def eurosat(tmp_path: Path) -> Path:
    """A root with a EuroSAT of three classes: 3 train, 2 val and 2 test images each."""
    folder = tmp_path / "data" / "eurosat"
    split: dict[str, list] = {part: [] for part in PARTS}
    for label, name in enumerate(CLASSES):
        for number, part in enumerate(("train",) * 3 + ("val",) * 2 + ("test",) * 2):
            split[part].append([f"{name}/{name}_{number}.jpg", label, name])
        draw_images(folder / "2750" / name, *(f"{name}_{number}.jpg" for number in range(7)))
    (folder / DATASETS["eurosat"].split).write_text(json.dumps(split))
    return tmp_path / "data"


def edit_split(root: Path, change: Callable[[dict[str, list]], Any]) -> None:
    path = root / "eurosat" / DATASETS["eurosat"].split
    split = json.loads(path.read_text())
    change(split)
    path.write_text(json.dumps(split))


def test_second_run_reads_its_features_and_computes_the_same(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, without = call(), call("--no-cache", name="without")
    assert len(list((tmp_path / "cache").iterdir())) == 3

    def refuse(self: Backbone, images: Any) -> None:
        raise AssertionError("an image was encoded")

    monkeypatch.setattr(Backbone, "encode_images", refuse)
    second = call(name="second")
    assert first.losses == second.losses == without.losses
    assert first.json("result")["test_accuracy"] == second.json("result")["test_accuracy"]


def test_damaged_cache_is_reported_and_changes_nothing(call: Call, tmp_path: Path) -> None:
    first = call()
    for path in (tmp_path / "cache").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-3])
    second = call(name="second")
    assert second.losses == first.losses
    assert second.out.count("damaged entry of the feature cache") == 3


def test_cache_folder_does_not_identify_a_run(call: Call, tmp_path: Path) -> None:
    call()
    assert "finished already" in call("--cache_dir", str(tmp_path / "other")).out
    assert "finished already" in call("--no-cache").out


def test_given_list_repeats_the_run_that_wrote_it(call: Call, tmp_path: Path) -> None:
    first = call("--seed", "1")
    other = call("--split_file", str(first.path / "split.json"), name="other")
    assert (other.status, other.losses) == (0, first.losses)
    assert other.json("split") == first.json("split")
    call("--split_file", str(tmp_path / "none.json"), name="third").assert_refused("--split_file", "no such file")


def test_half_the_classes_are_tuned_and_scored_alone(call: Call) -> None:
    for half, names in (("base", CLASSES[:2]), ("new", CLASSES[2:])):
        run = call("--subsample_classes", half, name=half)
        assert run.status == 0
        assert [item[1:] for item in run.json("split")["train"]] == [[label, name] for label, name in enumerate(names)]
        assert f"* total: {2 * len(names)}" in run.out
        zero_shot = call("--subsample_classes", half, name=half, trainer="zero-shot")
        assert zero_shot.json("result")["zero_shot_accuracy"] == run.json("result")["zero_shot_accuracy"]


def test_run_on_half_the_classes_does_not_take_the_place_of_another(call: Call) -> None:
    call()
    other = call("--subsample_classes", "base")
    assert other.status == 2
    assert "subsample_classes ('all' in that run, 'base' now)" in other.err


def test_random_views_repeat_and_are_other_features(call: Call) -> None:
    plain = call()
    two, again = call("--augment_views", "2", name="two"), call("--augment_views", "2", "--no-cache", name="again")
    assert two.losses == again.losses != plain.losses
    assert two.json("result")["zero_shot_accuracy"] == plain.json("result")["zero_shot_accuracy"]


def test_folder_of_images_requires_no_code(call: Call, tmp_path: Path) -> None:
    for name in ("red_square", "blue circle"):
        draw_images(tmp_path / "mine" / name, *(f"{number}.png" for number in range(10)))
    run = call("--root_path", str(tmp_path / "mine"), "--template", "a drawing of a {}.", dataset="folder")
    assert (run.status, run.err) == (0, "")
    assert "* total: 6" in run.out
    assert "'a drawing of a {}.', 6 test images" in run.out
    run.path = tmp_path / "outputs" / "mine" / run.path.relative_to(tmp_path / "outputs" / "folder")
    assert {item[2] for item in run.json("split")["train"]} == {"blue circle", "red_square"}
    assert run.json("result")["dataset_name"] == "mine"
    (tmp_path / "mine").rename(tmp_path / "digits")
    assert "outputs/folder-digits/" in call("--root_path", str(tmp_path / "digits"), dataset="folder").out
    assert "outputs/pets/" in call("--root_path", str(tmp_path / "digits"), "--dataset_name", "pets", dataset="folder").out


def dataset_line(run: Outcome) -> str:
    [line] = [line for line in run.out.splitlines() if line.startswith("Dataset: ")]
    return line.removeprefix("Dataset: ")


def test_opening_line_counts_the_images_found_skipped_and_used_of_each_part(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    for part, number in (("train", 4), ("test", 3)):
        for name in ("ant", "bee"):
            draw_images(folder / part / name, *(f"{image}.png" for image in range(number)))
    for path in ("train/ant/1.heic", "train/bee/notes.txt", "test/bee/2.heic"):
        (folder / path).touch()
    draw_images(folder, "cover.png")
    parts = "train: 8 found, 2 skipped, 2 used; val: 0 found, 2 used from train; test: 6 found, 1 skipped, 6 used"
    run = call("--root_path", str(folder), dataset="folder")
    assert dataset_line(run) == f"mine, 2 classes, 1 image skipped outside the parts; {parts}"
    assert "test: 6 found, 1 skipped, 6 used" in dataset_line(
        call("--root_path", str(folder), dataset="folder", trainer="zero-shot")
    )
    flat = folder / "train"
    line = "train, 2 classes, 8 images found, 3 skipped; train: 4 found, 2 used; val: 2 found, 2 used; test: 2 found, 2 used"
    draw_images(flat, "cover.png")
    assert dataset_line(call("--root_path", str(flat), dataset="folder")) == line
    # lists name the images of a dataset: nothing is skipped
    line = "eurosat, 3 classes; train: 9 found, 3 used; val: 6 found, 3 used; test: 6 found, 6 used"
    assert dataset_line(call()) == line


def test_shift_is_scored_and_refuses_to_train(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "imagenet-sketch"
    for wnid in ("n01440764", "n01443537"):
        draw_images(folder / "images" / wnid, "1.JPEG", "2.JPEG")
    (folder / "classnames.txt").write_text("n01440764 tench\nn01443537 goldfish\n")
    run = call(dataset="imagenet_sketch", trainer="zero-shot")
    assert (run.status, run.err) == (0, "")
    assert "* total: 4" in run.out
    call(dataset="imagenet_sketch", name="trained").assert_refused("imagenet_sketch is for evaluation only")


def test_class_with_fewer_images_than_shots_is_refused_or_taken_whole(call: Call, eurosat: Path) -> None:
    edit_split(eurosat, lambda split: split["train"].pop())
    call("--shots", "3").assert_refused("train: class 'River' has 2 images, fewer than 3 shots", "--short_classes take-all")
    assert call("--shots", "3", "--short_classes", "take-all").status == 0


@pytest.mark.parametrize("trainer", ["sharpzo", "zero-shot"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda split: split["test"].append(["../../etc/passwd", 0, "AnnualCrop"]), "test[6]: '../../etc/passwd' must be a path"),
        (lambda split: split["test"].append(["/etc/passwd", 0, "AnnualCrop"]), "test[6]: '/etc/passwd' must be a path"),
        (lambda split: split["val"].append(["a.jpg", 0]), "val[6]: ['a.jpg', 0]: expected [path, label, class name]"),
        (lambda split: split.pop("val"), "must be an object with exactly train, val and test"),
        (lambda split: split["train"].append(["a.jpg", 0, "Forest"]), "label 0 has two names, 'AnnualCrop' and 'Forest'"),
        (lambda split: split["test"].append(["River", 2, "River"]), "River: not a readable image: it is a folder"),
        (lambda split: split["test"].append(["River/9.jpg", 2, "River"]), "River/9.jpg: the image is missing"),
    ],
)
def test_bad_split_is_refused_in_one_line_and_nothing_is_written(
    change: Callable[[dict], Any], reason: str, trainer: str, call: Call, eurosat: Path
) -> None:
    edit_split(eurosat, change)
    call(trainer=trainer).assert_refused(str(eurosat / "eurosat"), reason)


def test_class_without_training_images_is_refused_by_name(call: Call, eurosat: Path) -> None:
    edit_split(eurosat, lambda split: split.update(train=[item for item in split["train"] if item[1] != 1]))
    call().assert_refused("train: class 'Forest' has no images")


@pytest.mark.parametrize("content", [b"", b"these are words", None], ids=["empty", "text", "truncated"])
def test_bad_image_is_refused_in_one_line_and_nothing_is_written(content: bytes | None, call: Call, eurosat: Path) -> None:
    path = eurosat / "eurosat" / "2750" / "River" / "River_6.jpg"
    path.write_bytes(path.read_bytes()[:50] if content is None else content)
    call().assert_refused(f"{path}: not a readable image: ")
