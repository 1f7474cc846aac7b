"""The shell commands of the documents: what each requires, and a way to see their arguments without running them.

A block of commands that not every machine runs at once says what it needs in a comment on the line before it:

    <!-- needs: weights, dataset -->
    ```sh

`python -m tests.helpers.commands` lists all blocks with their needs.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from datasets import DATASETS
from trainers import TRAINERS
from utils.config import REPOSITORY, load_config

NEEDS = {
    "time": "more than ten seconds",
    "runs": "what commands before it have made",
    "network": "a download",
    "weights": "a backbone that is not bundled",
    "dataset": "a data set below DATA",
    "pictures": "image files of the reader's",
    "gpu": "CUDA",
    "machines": "several machines, or a scheduler",
    "code": "a module that the reader writes",
}
DOCS = sorted(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md"))
PAGES = ("README.md", "CONTRIBUTING.md", "DATASET.md", *DOCS)
BLOCK = re.compile(r"^```(?:bash|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- needs: ([a-z, ]+) -->\s*\Z")
INSTALL = re.compile(r"pip install |python3 -m venv |\. \.venv/bin/activate$")
BUNDLED = ("Mini", "Mini-RN", "Icons", "Icons-RN")
# third-party programs, whose flags are not checked
OTHERS = ("pip", "pre-commit", "ruff", "mypy", "pytest", "mkdocs", "tensorboard", "wandb", "python3", "torchrun", "parallel")
PICTURES = re.compile(r"\bMY_IMAGES\b|\b\w*PICTURES\b|\.(png|jpg)$")
LONG_TOOLS = ("reproduce", "sweep", "benchmark", "maintain.compare_rules", "maintain.equal_queries", "maintain.scale_model")
READS_RUNS = ("predict", "export", "report", "interpret", "plot", "plot_accuracy", "summarize", "status", "validate")
PLANS = {"--dry-run", "--print-commands", "--no-run", "--from"}


@dataclass(frozen=True)
class Block:
    """Shell commands of a page, and what the page says they need."""

    page: str
    line: int
    text: str
    needs: frozenset[str]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        mark = MARK.search(text[: match.start()])
        needs = frozenset(need.strip() for need in mark[1].split(",")) if mark else frozenset()
        found.append(Block(page, text[: match.start()].count("\n") + 1, match[1], needs))
    return found


def installed_already(block: Block) -> Block:
    """The block as it runs where its packages are installed: without `pip install`, and so often without a network."""
    lines = [" && ".join(part for part in line.split(" && ") if not INSTALL.match(part)) for line in block.text.split("\n")]
    text = "\n".join(line for line in lines if line.strip() != ". .venv/bin/activate")
    needs = block.needs if text == block.text or " download " in text else block.needs - {"network"}
    return replace(block, text=text, needs=needs)


def recorded(page: str, folder: Path) -> list[tuple[Block, list[list[str]]]]:
    """The commands of the page's blocks with their arguments, as a shell passes them to stand-ins that only record them.

    Raises AssertionError with the shell's message where a command is neither in `OTHERS` nor ours.
    """
    stubs = folder / "stubs"
    stubs.mkdir()
    log = folder / "log"
    # one line, so one write: the commands of a pipeline run at the same time
    note = f"IFS=$'\\x1f'; line=\"$*\"; printf '%s\\n' \"${{line//$'\\n'/$'\\x1e'}}\" >> {log}"
    for name in ("python", *OTHERS):
        (stubs / name).write_text(f'#!/bin/bash\nset -- {name} "$@"; {note}\n')
        (stubs / name).chmod(0o755)
    place = folder / "clone"
    (place / ".venv/bin").mkdir(parents=True)
    (place / ".venv/bin/activate").write_text("")
    (place / "run_all_final_exps.sh").symlink_to(REPOSITORY / "run_all_final_exps.sh")
    mark = "\x02"
    script = "\n".join(f"printf '{number}{mark}' >> {log}\n{block.text}" for number, block in enumerate(blocks(page)))
    environment = {"PATH": f"{stubs}:/usr/bin:/bin", "HOME": str(folder)}
    done = subprocess.run(["bash", "-euc", script], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{page}: {done.stderr}"
    parts = re.split(r"\d+\x02", log.read_text(encoding="utf-8"))[1:]
    return [
        (block, [line.replace("\x1e", "\n").split("\x1f") for line in part.split("\n")[:-1]])
        for block, part in zip(blocks(page), parts, strict=True)
    ]


def flags_of_run(command: list[str]) -> list[str] | None:
    """The arguments of main_sharpzo.py if the command runs it, with or without torchrun."""
    return command[command.index("main_sharpzo.py") + 1 :] if "main_sharpzo.py" in command else None


def needs_of(command: list[str]) -> set[str]:
    """What a bare machine would lack for this command, as far as its arguments show."""
    read = [value for before, value in pairwise(command) if before != "--output"]
    needs = {"pictures"} if any(map(PICTURES.search, read)) else set()
    if "pytest" in command:
        needs.add("time")
    flags = flags_of_run(command)
    if flags is not None:
        needs.add("time")
        methods = [value for flag, value in pairwise(flags) if flag in ("--prompt_trainer", "--stage2")]
        if any(method not in TRAINERS for method in methods):
            return needs | {"code"}
        config = load_config(flags, TRAINERS, DATASETS)
        needs |= {"weights"} if config.backbone not in BUNDLED else set()
        needs |= {"dataset"} if DATASETS[config.dataset].folder and "pictures" not in needs else set()
        needs |= {"gpu"} if config.device.startswith("cuda") else set()
        return needs | ({"runs"} if config.load_prompt else set())
    if command[0] == "pip" or command[1:3] == ["-m", "pip"] or "download" in command:
        needs.add("network")
    if command[:2] == ["python", "-m"] and command[2].startswith("tools."):
        tool = command[2].removeprefix("tools.")
        if PLANS.isdisjoint(command):
            needs |= {"time"} if tool in LONG_TOOLS else set()
            needs |= {"dataset"} if "DATA" in command and not (tool == "data" and "check" in command) else set()
        needs |= {"runs"} if tool in READS_RUNS else set()
    return needs


def all_blocks() -> Iterator[Block]:
    for page in PAGES:
        yield from blocks(page)


if __name__ == "__main__":
    os.environ.setdefault("COLUMNS", "200")
    for block in all_blocks():
        first = block.text.splitlines()[0]
        print(f"{block!s:24} {', '.join(sorted(block.needs)) or 'run by the suite':30} {first[:90]}")
