"""The program's help and its answer to bad flags."""

from __future__ import annotations

import dataclasses
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from datasets import DATASETS
from tests.helpers.settings import command
from tools.maintain.flag_table import page
from trainers import TRAINERS
from utils.config import REPOSITORY
from utils.settings import Config


@pytest.mark.parametrize("argv", [("--prune_ratio", "1.5"), ("--config", "given.yaml")])
def test_bad_setting_ends_the_program_with_status_2_and_one_line_and_no_folder(argv: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "given.yaml").write_text("dataset: digits\nsimga: 0.1\n")
    done = command(*argv, "--output_dir", str(tmp_path / "outputs"), cwd=tmp_path)
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*(--prune_ratio: 1\.5|given\.yaml:2: simga).*\n", done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given.yaml"]


@pytest.mark.parametrize(("flag", "status"), [("--help", 0), ("--simga=1", 2), ("--shots=0", 2)])
def test_help_and_a_bad_flag_answer_at_once_without_torch(flag: str, status: int, tmp_path: Path) -> None:
    code = (
        "import sys, main_sharpzo\n"
        "try: status = main_sharpzo.main(sys.argv[1:])\n"
        "except SystemExit as end: status = end.code or 0\n"
        "print('HEAVY', {'torch', 'open_clip', 'numpy', 'cma'} & set(sys.modules), file=sys.stderr)\n"
        "sys.exit(status)\n"
    )
    started = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(
        [sys.executable, "-c", code, flag], cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True
    )
    # CPU time, which depends less on the machine's load than the wall clock does
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - started
    assert done.returncode == status
    assert "HEAVY set()" in done.stderr
    assert seconds < 3


def test_help_names_every_flag_trainer_and_dataset(tmp_path: Path) -> None:
    done = command("--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    flags = {f"--{field.name}" for field in dataclasses.fields(Config)}
    assert flags <= set(re.findall(r"--\w+", done.stdout))
    # argparse breaks lines at hyphens too
    text = "".join(done.stdout.split())
    assert all(f"{name}: {trainer.help}".replace(" ", "") in text for name, trainer in TRAINERS.items())
    assert all(name in text for name in DATASETS)


def test_the_page_of_flags_is_that_of_the_settings() -> None:
    written = (REPOSITORY / "docs" / "flags.md").read_text(encoding="utf-8")
    assert written == page(), "run python -m tools.maintain.flag_table > docs/flags.md"
