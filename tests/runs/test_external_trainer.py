"""An optimizer from outside the clone: --prompt_trainer my_module:build."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from main_sharpzo import main
from tests.helpers.runs import FLAGS

pytestmark = pytest.mark.usefixtures("one_mini")

MODULE = """
from trainers.optimizer import SinglePointOptimizer

class Blind(SinglePointOptimizer):
    def __init__(self, w0):
        super().__init__(w0, queries=1)

    def step(self, objective):
        return {"loss": float(objective(self.w[None])[0])}

def build(config, problem):
    return Blind(problem.initial)
"""


def test_optimizer_of_a_module_in_the_working_directory_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_blind_module.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    assert main([*FLAGS, "--prompt_trainer", "my_blind_module:build", "--output_dir", "outputs"]) == 0
    assert list(Path("outputs/digits/my_blind_module-build").rglob("prompt.safetensors"))
    assert sys.path == path


@pytest.mark.parametrize("name", ["no_such_module:build", "json:build"])
def test_missing_module_or_function_is_refused_in_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FLAGS, "--prompt_trainer", name, "--output_dir", str(tmp_path / "outputs")]) == 2
    assert capsys.readouterr().err.startswith(f"error: --prompt_trainer: {name}: cannot be imported")
    assert not (tmp_path / "outputs").exists()
