"""Settings are chosen on all validation images of a dataset, by any method's saved prompt."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from clip.prompt import load_prompt, save_prompt
from datasets.split import load_dataset
from main_sharpzo import main
from tools import validate
from tools.common.names import title
from tools.common.runs import read_run

FLAGS = ["--total_steps", "2", "--change_point", "1", "--popsize", "4", "--intrinsic_dim", "16", "--max_queries", "60"]


@pytest.mark.parametrize(("trainer", "flags"), [("sharpzo", []), ("craft", []), ("blackvip", []), ("bpt-vlm", ["--deep"])])
def test_accuracy_is_the_logged_one_if_the_run_used_all_images(
    trainer: str, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*FLAGS, "--shots", "4", "--prompt_trainer", trainer, "--output_dir", str(tmp_path), *flags]) == 0
    run = read_run(tmp_path / f"digits/{trainer}/Mini/4shots/seed1")
    logged = run.result["val_accuracy"]
    everything = validate.Validator()
    assert everything.accuracy(run) != logged
    drawn = {impath for impath, _, _ in json.loads((run.path / "split.json").read_text())["val"]}
    data = load_dataset("digits", None)
    few = dataclasses.replace(data, val=[item for item in data.val if item.path in drawn])
    assert len(few.val) == 40
    monkeypatch.setattr(validate, "load_dataset", lambda *_: few)
    assert validate.Validator().accuracy(run) == pytest.approx(logged, abs=1e-9)


def test_run_names_are_listed_by_their_mean_over_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed, steps in (("short", 1, 1), ("short", 2, 1), ("long", 1, 6)):
        flags = [
            "--run_name",
            name,
            "--seed",
            str(seed),
            "--total_steps",
            str(steps),
            "--shots",
            "2",
            "--output_dir",
            str(tmp_path),
        ]
        assert main(["--prompt_trainer", "bbt", "--intrinsic_dim", "16", "--popsize", "8", *flags]) == 0
    capsys.readouterr()
    assert validate.main([str(tmp_path)]) == 0
    lines = [re.split(r"  +", line) for line in capsys.readouterr().out.splitlines()[1:]]
    assert [line[:4] for line in lines] == [["digits", title("bbt"), "Mini", "2"]] * 2
    shown = {line[4]: line[5] for line in lines}
    assert shown["short"].endswith("(n = 2)") and shown["long"].endswith("(n = 1)")
    means = [float(line[5].split()[0]) for line in lines]
    assert means == sorted(means, reverse=True)


def test_prompt_of_other_classes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--prompt_trainer", "bbt", "--total_steps", "1", "--shots", "2", "--output_dir", str(tmp_path)]) == 0
    path = next(tmp_path.rglob("prompt.safetensors"))
    tensors, about = load_prompt(path)
    save_prompt(path, tensors, about | {"classnames": about["classnames"][::-1]})
    assert validate.main([str(tmp_path)]) == 2
    assert "classes differ" in capsys.readouterr().err
