"""What all commands share: errors in one line, any terminal, ~ in paths, any working directory."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.__main__ import commands
from tools.common.cli import command, user_path, user_path_text
from utils.config import REPOSITORY
from utils.errors import RunError, UserError


def call(*argv: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    where = os.environ | environment
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "tools"), *argv], cwd=cwd, env=where, capture_output=True, timeout=600
    )


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("--x: wrong"), 2, "error: --x: wrong\n"),
        (RunError("lost"), 1, "error: lost\n"),
        (OSError(28, "No space left on device", "out.csv"), 1, "error: out.csv: No space left on device\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
)
def test_errors_are_one_line_with_their_exit_status(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @command
    def main(argv: list[str]) -> int:
        raise error

    assert main([]) == status
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_every_command_prints_its_help_on_any_terminal_and_from_any_directory(encoding: str, tmp_path: Path) -> None:
    # imports of torch are not tested here, so a light command represents those that import it
    for name in ("sweep", "summarize", "status", "data", "reproduce"):
        done = call(name, "--help", cwd=tmp_path, PYTHONIOENCODING=encoding)
        assert done.returncode == 0, done.stderr
        assert f"python -m tools.{name}".encode() in done.stdout
    done = call("summarize", str(REPOSITORY / "docs" / "mini" / "runs.csv"), cwd=tmp_path, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert f"79.17 {'+-' if encoding == 'ascii' else '±'} 2.98 (n = 5)".encode(encoding) in done.stdout


def test_data_is_printed_as_utf8_whatever_the_terminal(tmp_path: Path) -> None:
    done = call("data", "document", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.stdout.decode() == (REPOSITORY / "DATASET.md").read_text(encoding="utf-8")


def test_unknown_command_is_refused_with_the_list_of_commands(tmp_path: Path) -> None:
    done = call("swep", cwd=tmp_path)
    assert done.returncode == 2
    assert b"error: unknown command 'swep'" in done.stderr and b"sweep" in done.stderr
    assert {"sweep", "summarize", "status", "validate", "plot_accuracy", "benchmark", "data", "reproduce"} <= set(commands())
    assert not {"common", "maintain"} & set(commands())


def test_tilde_is_the_home_folder_without_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/runs") == tmp_path / "runs"
    assert user_path_text("~/runs") == str(tmp_path / "runs")
    assert user_path_text("") == "" and user_path_text("./runs") == "./runs"


def test_every_path_argument_of_a_command_expands_the_tilde() -> None:
    """argparse with type=Path leaves ~ to the shell, which does not expand it after "=" or in quotes."""
    plain = [
        f"{path.relative_to(REPOSITORY)}: {line.strip()}"
        for path in (REPOSITORY / "tools").rglob("*.py")
        for line in path.read_text().splitlines()
        if "type=Path" in line
    ]
    assert plain == []


def test_commands_do_not_import_commands() -> None:
    for path in (REPOSITORY / "tools").rglob("*.py"):
        if "maintain" in path.parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
        room = path.relative_to(REPOSITORY / "tools").parts[0]
        foreign = {f"tools.{name}" for name in commands() if name != room.removesuffix(".py")}
        assert not {name for name in imported if any(name == other or name.startswith(f"{other}.") for other in foreign)}, path
