"""Files of former versions are read: trainer and setting names, finished runs, prompts; unfinished runs are refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from main_sharpzo import main
from tests.helpers.runs import FLAGS, Broken, folder_of
from tools.common.runs import Job
from trainers import TRAINERS
from utils.config import REPOSITORY
from utils.identity import identity
from utils.setting_kinds import FORMER_VALUES
from utils.settings import Config

pytestmark = pytest.mark.usefixtures("one_mini")


@pytest.fixture
def former(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A finished run as a former version would have left it."""
    assert main([*FLAGS, "--output_dir", str(tmp_path / "outputs")]) == 0
    folder = folder_of(tmp_path / "outputs", "zo-pruned")
    folder.parent.parent.parent.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(folder_of(tmp_path / "outputs", "sharpzo").parents[2], folder.parents[2])
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["normalise_adapter"] = settings.pop("normalize_adapter")
    del settings["rank"]
    (folder / "config.yaml").write_text(yaml.safe_dump(settings | {"prompt_trainer": "zo-pruned"}))
    prompt = folder / "prompt.safetensors"
    with safe_open(prompt, "pt") as file:
        metadata = {key: text.replace('"sharpzo"', '"zo-pruned"') for key, text in file.metadata().items()}
    save_file(load_file(prompt), prompt, {key: text.replace("normalize_", "normalise_") for key, text in metadata.items()})
    capsys.readouterr()
    return folder


def test_former_values_are_aliases_of_the_registry() -> None:
    assert all(TRAINERS.canonical(name) == current for name, current in FORMER_VALUES["prompt_trainer"].items())


def test_finished_run_under_the_former_name_is_found(former: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags in ([], ["--prompt_trainer", "zo-pruned"], ["--prompt_trainer", "sharpzo"]):
        assert main([*FLAGS, *flags, "--output_dir", str(tmp_path / "outputs")]) == 0
        assert f"{former}: finished already with zero-shot" in capsys.readouterr().out
    assert not folder_of(tmp_path / "outputs", "sharpzo").exists()


@pytest.mark.parametrize("name", ["sharpzo", "zo-pruned"])
def test_sweep_reuses_a_finished_run_under_the_former_name(name: str, former: Path, tmp_path: Path) -> None:
    job = Job((*FLAGS, "--prompt_trainer", name, "--output_dir", str(tmp_path / "outputs")))
    assert (job.path, job.state) == (former, "finished")


def test_prompt_of_the_former_name_is_scored(former: Path, tmp_path: Path) -> None:
    assert main(["--load_prompt", str(former / "prompt.safetensors"), "--output_dir", str(tmp_path / "scored")]) == 0
    assert list((tmp_path / "scored").rglob("sharpzo-from-digits/*/*/result.json"))


def test_former_config_is_itself_a_config(former: Path, tmp_path: Path) -> None:
    assert main(["--config", str(former / "config.yaml"), "--output_dir", str(tmp_path / "again")]) == 0
    assert (folder_of(tmp_path / "again", "sharpzo") / "result.json").exists()


def test_setting_that_a_former_version_lacked_has_its_default() -> None:
    settings = Config(dataset="digits").as_dict()
    lacking = {key: value for key, value in settings.items() if key != "probes"}
    assert identity(lacking) == identity(settings)
    assert identity(lacking) != identity(settings | {"probes": settings["probes"] + 1})


@pytest.mark.parametrize("name", ["answers.bin", "state.json"])
def test_unfinished_run_of_a_former_version_is_refused_and_left_alone(
    name: str, broken: Broken, monkeypatch: pytest.MonkeyPatch, whole: tuple
) -> None:
    folder = broken.stopped(monkeypatch)
    (folder / "checkpoint.json").rename(folder / name)
    before = sorted(path.name for path in folder.iterdir())
    assert broken.run() == 2
    assert broken.error.startswith(f"error: {folder}: holds an unfinished run of a former version")
    assert sorted(path.name for path in folder.iterdir()) == before
    assert broken.run("--overwrite") == 0


MOVES: dict[str, Callable[[Path], object]] = {
    "copied": lambda data: shutil.copytree(data, data.with_name("elsewhere")),
    "moved": lambda data: data.rename(data.with_name("elsewhere")),
}


@pytest.mark.parametrize("move", MOVES)
def test_finished_run_is_recognized_by_its_weights_content_wherever_they_lie(
    move: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    shutil.copy(REPOSITORY / "clip" / "mini" / "mini.safetensors", weights / "mini.safetensors")
    flags = ["--prompt_trainer", "zero-shot", "--output_dir", str(tmp_path / "outputs"), "--checkpoint"]
    assert main([*flags, str(weights / "mini.safetensors")]) == 0
    MOVES[move](weights)
    assert main([*flags, str(tmp_path / "elsewhere" / "mini.safetensors")]) == 0
    assert "finished already" in capsys.readouterr().out
