"""A run whose data, weights, cache and outputs move resumes; content decides what a run is, and paths do not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from main_sharpzo import main
from tests.helpers.data import draw_images
from tests.helpers.runs import FINISHED, FLAGS, outcome, stop_in_call
from utils.config import REPOSITORY
from utils.interrupt import Interrupted
from utils.replay import LOSSES

# stage 1 makes 8 queries in 4 steps, stage 2 one query per step
IN_STAGE_2 = 10


class Project:
    """A folder with all that a run reads and writes: pictures in class folders, a checkpoint file, a cache and outputs."""

    def __init__(self, place: Path):
        self.place = place
        self.pictures, self.weights, self.cache = place / "pictures", place / "mini.safetensors", place / "cache"

    @property
    def run_folder(self) -> Path:
        return self.place / "outputs" / self.pictures.name / "sharpzo" / "Mini" / "2shots" / "seed1"

    def run(self, *more: str) -> int:
        read = ["--root_path", str(self.pictures), "--checkpoint", str(self.weights), "--cache_dir", str(self.cache)]
        flags = ["--config", "configs/folder.yaml", "--backbone", "Mini", *FLAGS, *read]
        return main([*flags, "--output_dir", str(self.place / "outputs"), *more])

    def stopped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            stop_in_call(patch, IN_STAGE_2, Interrupted("test"))
            assert self.run() == 3
        assert (self.run_folder / LOSSES).stat().st_size > 0


def made(place: Path) -> Project:
    project = Project(place)
    for name in ("ant", "bee", "cow"):
        draw_images(project.pictures / name, *(f"{number}.png" for number in range(12)))
    shutil.copyfile(REPOSITORY / "clip/mini/mini.safetensors", project.weights)
    return project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return made(tmp_path / "before")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """The results of the same run without an interruption."""
    project = made(tmp_path_factory.mktemp("unbroken"))
    assert project.run() == 0
    return outcome(project.run_folder)


@pytest.mark.parametrize("cache", ["moved", "lost"])
def test_run_resumes_after_its_data_weights_cache_and_outputs_moved(
    cache: str,
    project: Project,
    unbroken: tuple,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project.stopped(monkeypatch)
    moved = Project(tmp_path / "after")
    moved.pictures, moved.weights, moved.cache = tmp_path / "p" / "pictures", tmp_path / "w.bin", tmp_path / "c"
    for source, target in (
        (project.pictures, moved.pictures),
        (project.weights, moved.weights),
        (project.cache, moved.cache),
        (project.place / "outputs", moved.place / "outputs"),
    ):
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
    shutil.rmtree(project.place)
    if cache == "lost":
        shutil.rmtree(moved.cache)
    capsys.readouterr()
    assert moved.run() == 0
    assert f"{moved.run_folder}: an earlier run was interrupted; resuming after step 4" in capsys.readouterr().out
    assert outcome(moved.run_folder) == unbroken
    assert {path.name for path in moved.run_folder.iterdir()} == FINISHED


def other_picture(project: Project) -> None:
    """Changes every picture, so that the drawn ones are among them."""
    for path in project.pictures.rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)


def other_weights(project: Project) -> None:
    state = load_file(project.weights)
    state["text_projection"][0, 0] += 1
    save_file(state, project.weights)


@pytest.mark.parametrize(
    ("change", "named"),
    [(other_picture, ("images or class names", "--root_path")), (other_weights, ("weights", "--checkpoint"))],
)
def test_run_whose_content_changed_is_refused_naming_what_and_its_work_is_left_alone(
    change: Callable[[Project], None],
    named: tuple[str, str],
    project: Project,
    unbroken: tuple,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project.stopped(monkeypatch)
    shutil.copytree(project.place, tmp_path / "aside", copy_function=shutil.copy2)
    change(project)
    before = {path.name: path.read_bytes() for path in project.run_folder.iterdir()}
    capsys.readouterr()
    assert project.run() == 2
    [line] = capsys.readouterr().err.splitlines()
    what, flag = named
    assert line.startswith(f"error: {project.run_folder}: holds an unfinished run with other {what}")
    assert f"({flag}" in line
    assert "--run_name NAME" in line
    assert "overwrite" not in line
    assert {path.name: path.read_bytes() for path in project.run_folder.iterdir()} == before
    # the flag named helps
    old = tmp_path / "aside"
    assert project.run("--root_path", str(old / "pictures"), "--checkpoint", str(old / "mini.safetensors")) == 0
    assert outcome(project.run_folder) == unbroken


def test_pictures_in_a_folder_of_another_name_say_where_their_run_is(
    project: Project, unbroken: tuple, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a job whose pictures are copied to a folder with the job's number."""
    project.stopped(monkeypatch)
    first = project.run_folder
    project.pictures = project.pictures.rename(project.place / "4711")
    capsys.readouterr()
    with monkeypatch.context() as patch:
        stop_in_call(patch, 1, Interrupted("test"))
        assert project.run() == 3
    hint = f"warning: {first}: holds this run, unfinished, with the same settings and images; to continue there use "
    assert hint + "--dataset_name pictures\n" in capsys.readouterr().out
    assert project.run("--dataset_name", "pictures") == 0
    assert outcome(first) == unbroken


def test_other_pictures_in_a_folder_of_another_name_are_another_run(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert project.run() == 0
    other_picture(project)
    project.pictures = project.pictures.rename(project.place / "4711")
    assert project.run() == 0
    assert "holds this run" not in capsys.readouterr().out
