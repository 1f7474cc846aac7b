"""Every command in the documents has flags that parse, and is run here or states what it requires."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import io
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datasets import DATASETS
from tests.helpers.commands import (
    NEEDS,
    PAGES,
    Block,
    all_blocks,
    blocks,
    flags_of_run,
    installed_already,
    needs_of,
    recorded,
)
from trainers import TRAINERS
from trainers.run_path import run_path
from utils.config import REPOSITORY, load_config

WITH_COMMANDS = [page for page in PAGES if blocks(page)]
QUICK = [page for page in WITH_COMMANDS if any(not block.needs for block in blocks(page))]


class Parsed(BaseException):
    """Ends a command once its arguments are read."""


def parses(main: Any, argv: list[str]) -> bool:
    """Whether the program accepts its arguments; nothing is run."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *arguments: Any) -> None:
        parse(self, *arguments)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        # some programs read sys.argv
        patch.setattr(sys, "argv", ["", *argv])
        try:
            main(argv) if inspect.signature(main).parameters else main()
        except Parsed:
            return True
    return False


def flags_in_help(main: Any) -> set[str]:
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        main(["--help"])
    return set(re.findall(r"--[a-z_-]+", text.getvalue()))


def check(command: list[str], block: Block) -> None:
    """Raises an error if our own programs would refuse the command's arguments."""
    program, *arguments = command
    flags = flags_of_run(command)
    if flags is not None:
        if "code" not in block.needs:
            load_config(flags, TRAINERS, DATASETS)
    elif program == "pip" and "-e" in arguments:
        extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
        assert set(re.findall(r"[a-z]+", arguments[-1])) <= extras.keys()
    elif program == "pip" and "-r" in arguments:
        assert (REPOSITORY / arguments[arguments.index("-r") + 1]).is_file()
    elif program == "python" and arguments[0] == "-m" and arguments[1].startswith("tools."):
        name = arguments[1]
        folder = (REPOSITORY / name.replace(".", "/")).is_dir()
        module = importlib.import_module(f"{name}.__main__" if folder else name)
        if "…" in arguments:
            # a placeholder for the reader's flags, so only the others can be checked
            assert {flag for flag in arguments if flag.startswith("--")} <= flags_in_help(module.main), " ".join(command)
        else:
            assert parses(module.main, arguments[2:]), " ".join(command)
    elif program == "python" and arguments[0] != "-m" and arguments[0] != "exported/predict_onnx.py":
        assert (REPOSITORY / arguments[0]).is_file(), f"{arguments[0]}: no such program"


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_flags_parse_and_a_block_states_what_it_requires(page: str, tmp_path: Path) -> None:
    for block, commands in recorded(page, tmp_path):
        assert commands or "=" in block.text, f"{block}: holds no command"
        for command in commands:
            check(command, block)
            missing = needs_of(command) - block.needs
            assert not missing, f"{block}: {' '.join(command)}: add <!-- needs: {', '.join(sorted(missing | block.needs))} -->"


@pytest.mark.parametrize("page", PAGES)
def test_commands_stand_in_blocks_that_are_collected(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    others = [content for language, content in fenced if language not in ("sh", "bash")]
    assert not [content for content in others if re.search(r"^(python|torchrun|pip|\./run)\S* ", content, re.MULTILINE)]


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_run_folders_that_pages_name_are_those_of_the_runs_before(page: str, tmp_path: Path) -> None:
    made: set[str] = set()
    for block, commands in recorded(page, tmp_path):
        for command in commands:
            flags = flags_of_run(command)
            if flags is not None and "code" not in needs_of(command):
                made.add(str(run_path(load_config(flags, TRAINERS, DATASETS))))
        named = set(re.findall(r"^RUN=(\S+)$", block.text, re.MULTILINE))
        assert named <= made, f"{block}: {named - made}; the runs before are in {made}"


def test_needs_are_words_of_the_list() -> None:
    marked = [block for block in all_blocks() if block.needs]
    assert marked and all(block.needs <= NEEDS.keys() for block in marked), [str(block) for block in marked]


def test_an_unmarked_command_that_cannot_run_is_found() -> None:
    assert needs_of(["python", "main_sharpzo.py"]) == {"time"}
    eurosat = ["python", "main_sharpzo.py", "--config", "configs/eurosat.yaml", "--root_path", "DATA", "--backbone", "ViT-B/16"]
    assert needs_of(eurosat) == {"time", "dataset", "weights"}
    assert needs_of(["torchrun", "--nproc_per_node=2", "main_sharpzo.py", "--device", "cuda"]) == {"time", "gpu"}
    assert needs_of(["python", "main_sharpzo.py", "--prompt_trainer", "mine"]) == {"time", "code"}
    assert needs_of(["python", "-m", "tools.predict", "outputs", "photo.png"]) == {"runs", "pictures"}
    assert needs_of(["python", "-m", "tools.sweep", "--datasets", "digits", "--dry-run"]) == set()
    assert needs_of(["python", "-m", "tools.data", "download", "dtd", "--root_path", "DATA"]) == {"network", "dataset"}
    assert needs_of(["pip", "install", "-r", "requirements.txt"]) == {"network"}


# folders outside the repository; .ci/run tests a copy without git, so git cannot list them
MADE = shutil.ignore_patterns(".*", "__pycache__", "outputs*", "site", "reproduced")


def run_blocks(page: str, chosen: list[Block], folder: Path) -> None:
    """Runs the blocks as a reader does, in a copy of the repository."""
    shutil.copytree(REPOSITORY, folder, ignore=MADE, dirs_exist_ok=True)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    script = "\n".join(block.text for block in chosen)
    done = subprocess.run(["bash", "-euc", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{page}: {done.stderr}"


@pytest.mark.parametrize("page", QUICK)
def test_commands_that_need_nothing_run(page: str, tmp_path: Path) -> None:
    run_blocks(page, [block for block in blocks(page) if not block.needs], tmp_path)


def test_a_command_that_fails_is_reported(tmp_path: Path) -> None:
    block = Block("README.md", 1, "python main_sharpzo.py --no_such_flag\n", frozenset())
    with pytest.raises(AssertionError, match="no_such_flag"):
        run_blocks("README.md", [block], tmp_path)


def test_installing_is_left_out_where_packages_are_installed() -> None:
    quick_start, *_ = blocks("README.md")
    assert installed_already(quick_start) == replace(quick_start, text="python main_sharpzo.py\n", needs=frozenset({"time"}))
    download = Block(
        "DATASET.md", 1, "pip install x\npython -m tools.data download dtd --root_path DATA\n", frozenset({"network"})
    )
    assert installed_already(download).needs == {"network"}


# servers, and the tests themselves
ENDLESS = re.compile(r"tensorboard --logdir|pytest")


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands_that_need_only_time_run(page: str, tmp_path: Path) -> None:
    """In the order of the page, so that the output of earlier commands exists."""
    ready = [installed_already(block) for block in blocks(page)]
    run_blocks(page, [block for block in ready if block.needs <= {"time", "runs"} and not ENDLESS.search(block.text)], tmp_path)
