"""docs/optimizers.md describes every ZO optimizer and its example runs; optimizers-measured.md holds the tables of the CSVs."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

import trainers
from main_sharpzo import main
from tests.trainers import test_every_trainer as registry
from tools.maintain.compare_rules import DOCUMENT, GRIDS, best_settings, with_tables
from trainers import TRAINERS, TrainerInfo
from utils.config import REPOSITORY, read_yaml

DOC = (REPOSITORY / "docs" / "optimizers.md").read_text(encoding="utf-8")
ZO_OPTIMIZERS = [name for name, info in TRAINERS.items() if info.stage2 and name != "fo"]


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Installs the document's example as described there; returns its name in the registry."""
    module, entry = re.findall(r"```python\n(.*?)```", DOC, flags=re.DOTALL)
    assert len(module.splitlines()) < 40
    (tmp_path / "normalized.py").write_text(module, encoding="utf-8")
    monkeypatch.setattr(trainers, "__path__", [*trainers.__path__, str(tmp_path)])
    ((name, info),) = eval("{" + entry + "}", {"TrainerInfo": TrainerInfo}).items()
    monkeypatch.setitem(TRAINERS, name, info)
    yield name
    sys.modules.pop("trainers.normalized", None)


def test_the_example_passes_the_tests_of_the_registry(example: str) -> None:
    registry.test_descends(example)
    registry.test_same_seed_same_path_other_seed_another(example)
    registry.test_queries_of_one_step_are_exact(example)
    registry.test_a_step_that_does_not_fit_the_budget_is_not_started(example)


def test_the_examples_commands_run(example: str, tmp_path: Path) -> None:
    commands = re.findall(rf"^python main_sharpzo\.py (.*{example}.*)$", DOC, flags=re.MULTILINE)
    assert len(commands) == 2
    # shorter: the last of two equal flags counts
    short = ["--shots", "1", "--eval_every", "0", "--total_steps", "3", "--change_point", "1", "--smoothness_estimator", "none"]
    for number, command in enumerate(commands):
        assert main([*command.split(), *short, "--output_dir", str(tmp_path / str(number))]) == 0
        result = json.loads(next((tmp_path / str(number)).rglob("result.json")).read_text())
        assert result["queries"] == (3 * 9, 40 + 2 * 9)[number]


def test_tables_are_those_of_the_csvs() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert with_tables(text) == text, "run python -m tools.maintain.compare_rules write"


@pytest.mark.parametrize("name", ZO_OPTIMIZERS)
def test_every_optimizer_has_its_paragraph_and_formula(name: str) -> None:
    paragraph = DOC.split(f"\n**`{name}`** (", 1)[1].split("\n**`")[0]
    assert re.search(r"^    \S.*(←|~|argmin)", paragraph, flags=re.MULTILINE) or "m ⊙ u" in paragraph
    assert f"`{name}`" in DOC.split("## One by one")[0]


@pytest.mark.parametrize("name", GRIDS)
def test_the_default_of_digits_has_the_screened_settings(name: str) -> None:
    section = read_yaml(REPOSITORY / "configs" / "digits.yaml")[name].value
    chosen = dict(setting.split("=") for setting in best_settings(name).split())
    assert {key: float(section[key].value) for key in chosen} == {key: float(value) for key, value in chosen.items()}
    assert section["max_queries"].value == 34_740
