"""A saved prompt reproduces its run's accuracy, and is scored on other classes and datasets or refused there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from clip.prompt import load_prompt, save_prompt
from main_sharpzo import main
from tools.common.runs import Job
from trainers import TRAINERS, saved

FLAGS = ["--shots", "2", "--total_steps", "2", "--change_point", "1", "--popsize", "4", "--intrinsic_dim", "16"]


def result(output: Path, *parts: str) -> dict:
    return json.loads(output.joinpath("digits", *parts, "2shots", "seed3", "result.json").read_text())


def train(output: Path, trainer: str, *flags: str) -> Path:
    assert main([*FLAGS, "--seed", "3", "--prompt_trainer", trainer, "--output_dir", str(output), *flags]) == 0
    return output / "digits" / trainer / "Mini" / "2shots" / "seed3" / "prompt.safetensors"


@pytest.mark.parametrize(
    ("trainer", "flags"),
    [
        *((name, []) for name, info in TRAINERS.items() if info.build),
        ("bpt-vlm", ["--deep"]),
        ("coop", ["--csc", "--class_token_position", "middle"]),
    ],
)
def test_accuracy_is_that_of_the_run_that_saved_it(trainer: str, flags: list[str], tmp_path: Path) -> None:
    path = train(tmp_path, trainer, *flags)
    assert main(["--load_prompt", str(path), "--output_dir", str(tmp_path)]) == 0
    again = result(tmp_path, "saved", "Mini", f"{trainer}-from-digits")
    assert again["test_accuracy"] == result(tmp_path, trainer, "Mini")["test_accuracy"]
    assert (again["trainer"], again["shots"], again["seed"], again["queries"]) == ("saved", 2, 3, 0)


def test_retrained_prompt_is_not_mistaken_for_the_scored_prompt(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = train(tmp_path, "bbt")
    score = Job(
        ("--prompt_trainer", "saved", "--load_prompt", str(path), "--output_dir", str(tmp_path), "--shots", "2", "--seed", "3")
    )
    score = Job((*score.flags, "--run_name", "bbt-from-digits"))
    assert main(list(score.flags)) == 0 and score.state == "finished"
    train(tmp_path, "bbt", "--sigma", "0.9", "--overwrite")
    assert score.state == "other settings"
    capsys.readouterr()
    assert main(list(score.flags)) == 2
    assert f"scored another prompt than {path} holds now; --overwrite scores this one" in capsys.readouterr().err
    assert main([*score.flags, "--overwrite"]) == 0 and score.state == "finished"


def test_out_of_memory_is_not_reported_as_a_prompt_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    path = train(tmp_path, "sharpzo")
    capsys.readouterr()
    monkeypatch.setattr(saved, "text_features", fail)
    assert main(["--load_prompt", str(path), "--output_dir", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: out of memory (requested 2.00 GiB): --memory_limit is 1024")


def test_prompt_of_the_base_classes_is_evaluated_on_the_new_ones(tmp_path: Path) -> None:
    path = train(tmp_path, "sharpzo", "--subsample_classes", "base")
    assert main(["--load_prompt", str(path), "--subsample_classes", "new", "--output_dir", str(tmp_path)]) == 0
    assert load_prompt(path)[1]["classnames"] == ["zero", "one", "two", "three", "four"]
    new = result(tmp_path, "saved", "Mini", "sharpzo-from-digits-new")
    assert 0 <= new["test_accuracy"] <= 100
    split = json.loads((tmp_path / "digits/saved/Mini/sharpzo-from-digits-new/2shots/seed3/split.json").read_text())
    assert split == {"train": [], "val": []}


@pytest.mark.parametrize(
    ("trainer", "flags"),
    [
        ("coop", ["--csc", "--train_features", "cached"]),
        ("craft", ["--train_features", "cached"]),
        ("tip-adapter", []),
        ("linear-probe", []),
    ],
)
def test_prompt_that_is_bound_to_its_classes_is_refused_on_fewer(
    trainer: str, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = train(tmp_path, trainer, *flags)
    capsys.readouterr()
    assert main(["--load_prompt", str(path), "--subsample_classes", "new", "--output_dir", str(tmp_path / "new")]) == 2
    assert str(path) in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_prompt_of_other_weights_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = train(tmp_path, "zo")
    tensors, about = load_prompt(path)
    save_prompt(path, tensors, about | {"weights_sha256": "0" * 64})
    assert main(["--load_prompt", str(path), "--output_dir", str(tmp_path / "other")]) == 2
    assert "other weights" in capsys.readouterr().err


def test_file_that_does_not_say_how_it_was_made_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = train(tmp_path, "zo")
    tensors, about = load_prompt(path)
    for missing in ("settings", "prompt_trainer", "weights_sha256"):
        other = tmp_path / f"{missing}.safetensors"
        save_prompt(other, tensors, {key: value for key, value in about.items() if key != missing})
        assert main(["--load_prompt", str(other), "--output_dir", str(tmp_path / "o")]) == 2
        assert str(other) in capsys.readouterr().err
    save_file({"x": tensors["w"]}, tmp_path / "foreign.safetensors")
    assert main(["--load_prompt", str(tmp_path / "foreign.safetensors"), "--output_dir", str(tmp_path / "o")]) == 2
    assert not (tmp_path / "o").exists()


def test_trainer_and_file_go_together(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--prompt_trainer", "saved", "--output_dir", str(tmp_path)]) == 2
    assert "--load_prompt" in capsys.readouterr().err
    assert main(["--load_prompt", str(tmp_path / "absent"), "--output_dir", str(tmp_path)]) == 2
    assert "absent: no such file" in capsys.readouterr().err
