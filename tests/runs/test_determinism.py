"""The same settings give the same bits, regardless of other work; docs/reliability.md says what may differ."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from main_sharpzo import main
from tests.helpers.runs import FLAGS, folder_of, outcome
from utils import parallel
from utils.config import REPOSITORY
from utils.setting_kinds import NOT_IDENTITY
from utils.settings import Config

pytestmark = pytest.mark.usefixtures("one_mini")
# craft's mini-batches are decoded afresh, by threads
trainers = pytest.mark.parametrize("trainer", ["sharpzo", "craft"])


def bits(root: Path, trainer: str, *more: str) -> tuple:
    assert main([*FLAGS, "--prompt_trainer", trainer, "--output_dir", str(root), *more]) == 0
    return outcome(folder_of(root, trainer))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple]:
    return {trainer: bits(tmp_path_factory.mktemp("expected"), trainer, "--no-cache") for trainer in ("sharpzo", "craft")}


def test_another_python_process_gives_the_same_bits(expected: dict, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    command = [sys.executable, "main_sharpzo.py", *FLAGS, "--output_dir", str(tmp_path), "--no-cache"]
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, capture_output=True)
    assert outcome(folder_of(tmp_path, "sharpzo")) == expected["sharpzo"]


@pytest.fixture
def noisy_process() -> Iterator[None]:
    """Something else in the process that draws from, and reseeds, every global generator."""
    done = threading.Event()

    def disturb() -> None:
        while not done.wait(0.001):
            torch.manual_seed(torch.randint(1000, ()).item())
            np.random.seed(np.random.randint(1000))  # noqa: NPY002
            random.seed(random.random())

    thread = threading.Thread(target=disturb)
    thread.start()
    yield
    done.set()
    thread.join()


@trainers
def test_what_else_runs_in_the_process_changes_no_bit(trainer: str, expected: dict, noisy_process: None, tmp_path: Path) -> None:
    assert bits(tmp_path, trainer, "--no-cache") == expected[trainer]


@trainers
def test_number_of_decoding_threads_changes_no_bit(
    trainer: str, expected: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for threads in (1, 7):
        monkeypatch.setattr(parallel, "usable_cores", lambda threads=threads: threads)
        assert bits(tmp_path / str(threads), trainer, "--no-cache") == expected[trainer]


def test_settings_that_are_no_part_of_a_runs_identity_change_no_bit(expected: dict, tmp_path: Path) -> None:
    cache = ("--cache_dir", str(tmp_path / "cache"))
    for number, more in enumerate((cache, (*cache, "--save_every", "4"), ("--max_seconds", "1000", "--run_name", "name"))):
        assert main([*FLAGS, "--output_dir", str(tmp_path / str(number)), *more]) == 0
        folder = next((tmp_path / str(number)).rglob("result.json")).parent
        assert outcome(folder) == expected["sharpzo"], more
    assert set(Config.__dataclass_fields__) >= NOT_IDENTITY


def test_deterministic_switch_changes_no_bit_on_the_cpu_and_is_put_back(
    expected: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    seen = []
    switch = torch.use_deterministic_algorithms
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda on: (seen.append(on), switch(on)))
    assert bits(tmp_path, "sharpzo", "--deterministic") == expected["sharpzo"]
    assert seen == [True, False]
    assert not torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
