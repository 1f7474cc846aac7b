"""Dependencies are written once per purpose and agree; the lock files pin them with hashes."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml

from utils.config import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(name: str) -> set[str]:
    lines = (REPOSITORY / name).read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith(("#", "-r"))}


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=!~ ;]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_project_and_requirements_files_list_the_same_dependencies() -> None:
    extras = PROJECT["optional-dependencies"]
    assert requirements("requirements.txt") == set(PROJECT["dependencies"])
    (included,) = [name for name in extras["dev"] if name.startswith("sharpzo[")]
    names = ["dev", *included.removeprefix("sharpzo[").removesuffix("]").split(",")]
    assert requirements("requirements-dev.txt") == {entry for name in names for entry in extras[name]} - {included}


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_lock_file_pins_every_dependency_with_hashes(name: str) -> None:
    text = (REPOSITORY / name.replace(".txt", "-lock.txt")).read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([\w.-]+)==\S+ ;.*((?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?)+)", text, re.MULTILINE))
    assert {name_of(entry) for entry in requirements(name)} <= pinned.keys()
    assert len(pinned) == len(re.findall("^[a-z]", text, re.MULTILINE))
    # torch has a file for each platform and version of Python
    assert pinned["torch"].count("sha256") > 8


def test_both_lock_files_pin_the_same_versions() -> None:
    runtime, everything = (
        dict(re.findall(r"^([\w.-]+)==(\S+)", (REPOSITORY / name).read_text(encoding="utf-8"), re.MULTILINE))
        for name in ("requirements-lock.txt", "requirements-dev-lock.txt")
    )
    assert runtime.items() <= everything.items()


def test_hooks_of_pre_commit_have_the_locked_ruff() -> None:
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    (ruff,) = [hook["rev"] for hook in hooks if hook["repo"].endswith("/ruff-pre-commit")]
    assert f"ruff=={ruff.removeprefix('v')} " in (REPOSITORY / "requirements-dev-lock.txt").read_text(encoding="utf-8")
