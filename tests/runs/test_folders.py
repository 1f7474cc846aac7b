"""Run folders that are occupied, damaged, blocked or left by a killed run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import main_sharpzo
from tests.helpers.outcomes import FEW, Call, contents


def test_finished_run_is_unchanged_and_overwrite_reruns_it(call: Call) -> None:
    folder = "digits/sharpzo/Mini/1shots/seed1"
    first = call(*FEW, folder=folder)
    before = contents(first.path)
    second = call(*FEW, folder=folder)
    assert (second.status, second.err) == (0, "")
    assert (
        second.out == f"{first.path}: finished already with zero-shot 59.70% → 59.70% (+0.00 points); --overwrite runs it again\n"
    )
    assert contents(first.path) == before
    (first.path / "stray").touch()
    third = call(*FEW, "--overwrite", folder=folder)
    assert (third.status, third.log[-5]) == (0, "Finish training")
    after = contents(first.path)
    assert set(after) == set(before)
    assert after["metrics.jsonl"][1] > before["metrics.jsonl"][1]


def test_unfinished_run_starts_over_and_says_so(call: Call) -> None:
    folder = "digits/sharpzo/Mini/1shots/seed1"
    first = call(*FEW, folder=folder)
    metrics, said = first.untimed_metrics, first.log
    (first.path / "result.json").unlink()
    (first.path / "metrics.jsonl").write_text('{"step": 0}\n{"ste')
    second = call(*FEW, folder=folder)
    assert second.status == 0
    assert second.log[0] == f"{first.path}: an earlier run did not finish and left no valid checkpoint; starting over"
    assert "did not finish" not in "".join(said)
    assert second.untimed_metrics == metrics
    assert second.result["queries"] == first.metrics[-1]["queries"]


def test_run_of_another_configuration_is_refused_by_key_unless_overwritten(call: Call) -> None:
    folder = "digits/sharpzo/Mini/1shots/seed1"
    first = call(*FEW, folder=folder)
    before = contents(first.path)
    other = [*FEW, "--sigma", "0.25"]
    call(*other).assert_refused("sigma (0.4 in that run, 0.25 now)")
    assert "popsize" not in call(*other).err
    assert contents(first.path) == before
    assert call(*other, "--overwrite", folder=folder).config["sigma"] == 0.25


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_folder_that_no_run_wrote_is_refused_and_left_alone(more: tuple[str, ...], call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "outputs/digits/sharpzo/Mini/1shots/seed1"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("precious")
    before = contents(tmp_path)
    call(*FEW, *more).assert_refused(str(folder), "is not a run folder")
    assert contents(tmp_path) == before


def test_empty_folder_is_used(call: Call, tmp_path: Path) -> None:
    folder = "digits/sharpzo/Mini/1shots/seed1"
    (tmp_path / "outputs" / folder).mkdir(parents=True)
    assert call(*FEW, folder=folder).result["shots"] == 1


@pytest.mark.parametrize("text", ["{", "just text", "- a\n- b\n", "\x00"])
def test_damaged_config_of_an_earlier_run_is_refused(text: str, call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "outputs/digits/sharpzo/Mini/1shots/seed1"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(text)
    call(*FEW).assert_refused(str(folder / "config.yaml"), "--overwrite")
    assert (folder / "config.yaml").read_text() == text


@pytest.mark.parametrize("blocked", ["outputs", "outputs/digits", "outputs/digits/sharpzo/Mini/1shots/seed1"])
def test_file_in_the_way_of_the_run_folder_is_refused_and_untouched(blocked: str, call: Call, tmp_path: Path) -> None:
    (tmp_path / blocked).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / blocked).write_text("in the way")
    call(*FEW).assert_refused(str(tmp_path / "outputs"))
    assert (tmp_path / blocked).read_text() == "in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_is_refused(call: Call, tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir(mode=0o500)
    call(*FEW).assert_refused(str(tmp_path / "outputs"))


def test_run_folder_that_is_a_link_is_refused_with_a_reason(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "outputs/digits/sharpzo/Mini/1shots/seed1"
    folder.parent.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    run = call(*FEW, folder="digits/sharpzo/Mini/1shots/seed1")
    if run.status:
        run.assert_refused(str(folder))
        assert "None" not in run.err
    else:
        assert run.result["shots"] == 1


def test_run_name_adds_a_level(call: Call) -> None:
    run = call(*FEW, "--run_name", "wide", folder="digits/sharpzo/Mini/wide/1shots/seed1")
    assert (run.status, run.result["shots"]) == (0, 1)


def test_folder_that_a_killed_run_left_without_its_config_starts_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "digits/zero-shot/Mini/16shots/seed1"
    folder.mkdir(parents=True)
    (folder / "config.yaml.tmp").write_text("dataset: di")
    assert main_sharpzo.main(["--prompt_trainer", "zero-shot", "--output_dir", str(tmp_path)]) == 0
    assert "starting over" in capsys.readouterr().out
