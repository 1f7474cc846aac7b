"""docs/architecture.md: no import leads to a package above, and none in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from utils.config import REPOSITORY

# from the bottom up
PACKAGES = ("utils", "datasets", "clip", "trainers.blackbox", "trainers", "tools")


def modules() -> dict[str, Path]:
    paths = [path for top in ("utils", "datasets", "clip", "trainers", "tools") for path in (REPOSITORY / top).rglob("*.py")]
    return {".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules that importing `path` imports; imports for type checkers and inside functions do not count."""
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.ImportFrom) and statement.module:
            for alias in statement.names:
                name = f"{statement.module}.{alias.name}"
                yield name if name in known else statement.module
        elif isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)


def layer(module: str) -> int:
    # the registry, whose modules name trainers as text
    if module == "trainers":
        return PACKAGES.index("trainers.blackbox")
    return next(i for i, package in enumerate(PACKAGES) if f"{module}.".startswith(f"{package}."))


def test_no_module_imports_from_a_package_above_it_or_in_a_circle() -> None:
    known = modules()
    graph = {name: {other for other in imported(path, known) if other in known} for name, path in known.items()}
    upward = {(name, other) for name, others in graph.items() for other in others if layer(other) > layer(name)}
    assert not upward
    # raises CycleError
    assert list(TopologicalSorter(graph).static_order())
