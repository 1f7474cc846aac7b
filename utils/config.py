"""The one way from flags and YAML to settings: defaults < the trainer's own < YAML < the YAML's section for the trainer < flags.

The list of all settings is `Config` in utils/settings.py; everything here reads that list. No torch is imported, so that `--help`
and a bad flag answer at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from utils.checks import check
from utils.documents import Located, read_yaml
from utils.errors import UserError, is_unicode, nearest, shortened
from utils.setting_kinds import FORMER_KEYS, PATHS, with_current_names
from utils.settings import Config

if TYPE_CHECKING:
    from datasets import DatasetInfo
    from trainers import TrainerInfo

REPOSITORY = Path(__file__).resolve().parent.parent

# larger than any count of a run, and small enough for every conversion
LARGEST = 10**12

FIELDS = {field.name: field for field in dataclasses.fields(Config)}


class Parser(argparse.ArgumentParser):
    """Reports errors as a UserError, and suggests the nearest flag for an unknown one."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").partition(" ")[0].partition("=")[0]
        near = nearest(unknown, self._option_string_actions) if unknown.startswith("--") else ""
        raise UserError(message + near)


def build_parser(trainers: Mapping[str, TrainerInfo], datasets: Collection[str], epilog: str = "") -> argparse.ArgumentParser:
    """The command line: one flag per Config field; the help lists the registered trainers and datasets."""
    parser = Parser(
        prog="main_sharpzo.py",
        description="SharpZO: prompt tuning of a frozen CLIP by forward passes only.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, field in FIELDS.items():
        meta = field.metadata
        if meta["group"] not in groups:
            groups[meta["group"]] = parser.add_argument_group(meta["group"])
        group = groups[meta["group"]]
        default = default_text(name)
        default = f" (default: {default})" if default else ""
        text = meta["help"] + default
        if name == "prompt_trainer":
            text += "; " + "; ".join(f"{key}: {trainer.help}" for key, trainer in trainers.items())
        if name == "dataset":
            text += "; one of " + ", ".join(datasets)
        text = text.replace("%", "%%")
        former = [f"--{old}" for old, key in FORMER_KEYS.items() if key == name]
        if meta["kind"] is bool:
            group.add_argument(f"--{name}", *former, dest=name, action=argparse.BooleanOptionalAction, help=text)
        else:
            metavar = "{" + ",".join(meta["choices"]) + "}" if "choices" in meta else name.upper()
            group.add_argument(f"--{name}", metavar=metavar, help=text)
    return parser


@functools.cache
def default_text(name: str) -> str:
    """The default of a setting, which is the paper's, and that of the run without flags where its YAML has another."""
    default = FIELDS[name].default
    text = "" if default in (None, "") else str(default)
    shipped = read_yaml(REPOSITORY / Config.config).get(name)
    if shipped is None or isinstance(shipped.value, dict) or _coerce(name, shipped.value, shipped.where) == default:
        return text
    return "; ".join(part for part in (text, f"{Path(Config.config).name} has {shipped.value}") if part)


def load_config(
    argv: list[str],
    trainers: Mapping[str, TrainerInfo],
    datasets: Mapping[str, DatasetInfo],
    epilog: str = "",
) -> Config:
    """Resolves a command line against the registries. Raises UserError (one line) on anything invalid."""
    flags = vars(build_parser(trainers, datasets, epilog).parse_args(argv))
    aliases = {info.alias: key for key, info in datasets.items() if info.alias}
    path = _find_config(flags.get("config"), aliases, flags.get("dataset", ""))
    document = read_yaml(path)

    if "config" in document:
        raise UserError(f"{document['config'].where}: a config cannot name another")
    named = {alias: key for key, info in trainers.items() for alias in info.aliases}
    settings = _typed({key: entry for key, entry in document.items() if not isinstance(entry.value, dict)}, trainers)
    sections = {key: entry for key, entry in document.items() if isinstance(entry.value, dict)}
    for key, entry in sections.items():
        if key not in trainers:
            raise UserError(
                f"{entry.where}: a section must be named after a trainer{nearest(key, trainers)}: {', '.join(trainers)}"
            )
        twin = next((other for other in sections if other != key and named.get(other, other) == named.get(key, key)), None)
        if twin:
            raise UserError(f"{entry.where}: {twin} and {key} are the same trainer; use one section")
        if "prompt_trainer" in entry.value:
            raise UserError(f"{entry.value['prompt_trainer'].where}: a trainer's section cannot choose the trainer")
    typed_sections = {key: _typed(entry.value, trainers) for key, entry in sections.items()}
    given = _typed({key: Located(value, f"--{key}") for key, value in flags.items()}, trainers)

    if "load_prompt" in given:
        given.setdefault("prompt_trainer", Located("saved", "--load_prompt"))
    unset = Located(FIELDS["prompt_trainer"].default, "default")
    trainer, where = given.get("prompt_trainer") or settings.get("prompt_trainer") or unset
    trainer = named.get(trainer, trainer)
    if trainer not in trainers:
        raise UserError(f"{where}: unknown trainer {trainer!r}{nearest(trainer, trainers)}; choose from {', '.join(trainers)}")
    section = next((values for key, values in typed_sections.items() if named.get(key, key) == trainer), {})
    chosen = settings | section | given | {"config": Located(str(path), "--config")}
    shots = chosen.get("shots", Located(FIELDS["shots"].default, "")).value
    published = {**trainers[trainer].defaults, **trainers[trainer].by_shots}
    resolved = {key: Located(value, f"default of {trainer}") for key, value in published.items()} | chosen
    derivatives = resolved.get("derivatives")
    if derivatives and derivatives.value == "forward":
        jvp = Located("jvp", derivatives.where)
        resolved = {"smoothness_estimator": jvp, "mask_estimator": jvp} | resolved
    config = Config(**{key: _at_shots(entry.value, shots) for key, entry in resolved.items()})
    config = dataclasses.replace(config, dataset=aliases.get(config.dataset, config.dataset), prompt_trainer=trainer)
    config = _with_home(config)
    origins = {key: entry.where for key, entry in resolved.items()}
    check(config, origins, trainers, datasets)
    return config


def _with_home(config: Config) -> Config:
    """Expands `~` at the start of a path, which no shell expands after "=", in quotes or in YAML."""
    paths = {key: getattr(config, key) for key in (*PATHS, "output_dir", "cache_dir")}
    expanded: dict[str, Any] = {key: str(user_path(path)) for key, path in paths.items() if path and path[0] == "~"}
    return dataclasses.replace(config, **expanded)


def user_path(text: str) -> Path:
    """Raises UserError for the home folder of a user who does not exist."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{text}: the home folder of that user is unknown; write the path in full") from None


def _typed(entries: Mapping[str, Located], trainers: Collection[str]) -> dict[str, Located]:
    for key, entry in entries.items():
        if key in trainers:
            raise UserError(f"{entry.where}: {key} is a trainer; its settings belong in a mapping below it")
    for former, key in FORMER_KEYS.items():
        if former in entries and key in entries:
            raise UserError(f"{entries[former].where}: another name of {key}, which is given as well; give one")
    current = {FORMER_KEYS.get(key, key): entry for key, entry in entries.items()}
    return {key: Located(_coerced(key, entry), entry.where) for key, entry in current.items()}


def _coerced(key: str, entry: Located) -> Any:
    """The value as its field's type; in a section also {least shots: value}."""
    if not isinstance(entry.value, dict) or key == "shots":
        return _coerce(key, entry.value, entry.where)
    where = f"{entry.where}: by shots"
    values = {_coerce("shots", least, where): _coerce(key, given.value, where) for least, given in entry.value.items()}
    if 1 not in values:
        raise UserError(f"{where}: give a value from 1 shot on, as in {{1: 50, 4: 100}}")
    return values


def _at_shots(value: Any, shots: int) -> Any:
    """`value`, or the entry of {least shots: value} that applies to this many shots."""
    return value[max(least for least in value if least <= shots)] if isinstance(value, Mapping) else value


def checked_settings(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Those of `given` that are settings, each of its field's type and within its limits. Raises UserError."""
    return {key: _coerce(key, value, f"{where}: {key}") for key, value in with_current_names(given).items() if key in FIELDS}


def _coerce(key: str, raw: Any, where: str) -> Any:
    """`raw`, from YAML or a flag, as the field's type and within its limits."""
    if key not in FIELDS:
        raise UserError(f"{where}: unknown key{nearest(key, FIELDS)}")
    field, meta = FIELDS[key], FIELDS[key].metadata
    kind = meta["kind"]
    if raw is None and field.default is None:
        return None
    if raw in meta.get("words", ()) and isinstance(raw, str):
        return raw
    value = _as_kind(raw, kind)
    if value is None:
        expected = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]
        words = "".join(f" or {word!r}" for word in meta.get("words", ()))
        raise UserError(f"{where}: {shortened(repr(raw))} is not {expected}{words}")
    if "choices" in meta and value not in meta["choices"]:
        raise UserError(f"{where}: {value!r} is not one of {', '.join(meta['choices'])}")
    tests = {
        "low": (lambda v, m: v >= m, "at least"),
        "high": (lambda v, m: v <= m, "at most"),
        "above": (lambda v, m: v > m, "more than"),
        "below": (lambda v, m: v < m, "less than"),
    }
    limits = ({"high": LARGEST} if kind is int else {}) | dict(meta)
    for limit, (holds, words) in tests.items():
        if limit in limits and not holds(value, limits[limit]):
            raise UserError(f"{where}: {shortened(repr(value))} is out of range: it must be {words} {limits[limit]}")
    return value


def _as_kind(raw: Any, kind: type) -> Any:
    """`raw` as `kind`, or None if it is something else. PyYAML reads 1e-3 as text, so numbers may come as text."""
    if kind is bool:
        return raw if isinstance(raw, bool) else None
    if kind is str:
        return raw if isinstance(raw, str) and "\0" not in raw and is_unicode(raw) else None
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        return None
    try:
        number = float(raw)
        if kind is float:
            return number if math.isfinite(number) else None
        return int(raw) if isinstance(raw, str) else (int(raw) if number.is_integer() else None)
    except (ValueError, OverflowError):
        return None


def _find_config(given: str | None, aliases: Mapping[str, str], dataset: str) -> Path:
    """The YAML that `--config` names; without it the one of `--dataset`, or the embedded default's."""
    if given is None:
        shipped = REPOSITORY / "configs" / f"{aliases.get(dataset, dataset)}.yaml"
        return shipped if re.fullmatch(r"\w+", dataset) and shipped.is_file() else REPOSITORY / Config.config
    path = user_path(given)
    # a shipped config is found from any working directory, and under its dataset's other name
    try:
        for candidate in (path, REPOSITORY / path, REPOSITORY / path.with_stem(aliases.get(path.stem, path.stem))):
            if candidate.is_file():
                return candidate
    except (OSError, ValueError) as error:
        raise UserError(f"--config: {shortened(repr(given))}: cannot be a file ({error})") from error
    raise UserError(f"--config: {path}: no such file")
