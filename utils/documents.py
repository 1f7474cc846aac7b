"""YAML documents of settings, read with the line of every value. Safe loader only."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from utils.errors import UserError

# levels below a dataset's settings: the section of a trainer, and values by shots in it
DEEPEST = 2


class Located(NamedTuple):
    """A value and where it was given: FILE:LINE: KEY, or --FLAG."""

    value: Any
    where: str


def read_yaml(path: Path) -> dict[str, Located]:
    """Settings by key; sections, and values by shots, are nested dicts. Raises UserError naming file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return {}
        return _mapping(node, str(path), depth=0)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error


def _mapping(node: yaml.Node, path: str, depth: int) -> dict[str, Located]:
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}:{line}: expected a mapping of settings, such as 'shots: 16'")
    entries: dict[str, Located] = {}
    for key_node, value_node in node.value:
        where = f"{path}:{key_node.start_mark.line + 1}: {key_node.value}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{path}:{key_node.start_mark.line + 1}: a key must be a plain word")
        if key_node.value in entries:
            raise UserError(f"{where}: the key is given twice")
        if isinstance(value_node, yaml.MappingNode) and depth < DEEPEST:
            value: Any = _mapping(value_node, path, depth + 1)
        else:
            value = _scalar(value_node, where)
        entries[key_node.value] = Located(value, where)
    return entries


def _scalar(node: yaml.Node, where: str) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        raise UserError(f"{where}: expected one value, not a list or mapping")
    if node.tag.removeprefix("tag:yaml.org,2002:") not in ("str", "int", "float", "bool", "null"):
        raise UserError(f"{where}: {node.value!r} is not text, a number or true/false (YAML reads it as {node.tag})")
    try:
        return yaml.constructor.SafeConstructor().construct_object(node)
    # PyYAML's constructors raise whatever the conversion of a tag raises
    except (yaml.YAMLError, ValueError, LookupError) as error:
        raise UserError(f"{where}: {node.value!r} does not fit its tag {node.tag}") from error
