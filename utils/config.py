"""The one way from flags and YAML to settings: defaults < the trainer's own < YAML < the YAML's section for the trainer < flags.

The list of all settings is `Config` in utils/settings.py; everything here reads that list. No torch is imported, so that `--help`
and a bad flag answer at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import os
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from utils.documents import Located, read_yaml
from utils.errors import UserError, is_unicode, shortened
from utils.settings import DEPARTURES, FORMER_KEYS, PATHS, Config, departures, with_current_names

REPOSITORY = Path(__file__).resolve().parent.parent

# more than any run counts, and small enough for whatever takes it
LARGEST = 10**12

FIELDS = {field.name: field for field in dataclasses.fields(Config)}


class Parser(argparse.ArgumentParser):
    """Refuses in our one line, and of a flag that it does not know names the nearest."""

    def error(self, message: str) -> None:
        unknown = message.removeprefix("unrecognized arguments: ").partition(" ")[0].partition("=")[0]
        near = _nearest(unknown, self._option_string_actions) if unknown.startswith("--") else ""
        raise UserError(message + near)


class Trainer(Protocol):
    """What is read here of a registry entry: a line of help, its own defaults, and what it can do (see TrainerInfo)."""

    help: str
    aliases: tuple[str, ...]
    defaults: Mapping[str, Any]
    by_shots: Mapping[str, Mapping[int, Any]]
    two_stages: bool
    stage2: bool
    update: bool
    matrix: bool
    derivative: bool


class DatasetEntry(Protocol):
    """What is read here of a dataset's registry entry: another key that it goes by, or ""."""

    alias: str


def build_parser(trainers: Mapping[str, Trainer], datasets: Collection[str], epilog: str = "") -> argparse.ArgumentParser:
    """The command line: one flag a Config field, with the registered trainers and datasets named in the help."""
    parser = Parser(
        prog="main_sharpzo.py",
        description="SharpZO: prompt tuning of a frozen CLIP by forward passes only.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    groups: dict[str, Any] = {}
    for name, field in FIELDS.items():
        meta = field.metadata
        group = groups.setdefault(
            meta["group"], parser.add_argument_group(meta["group"]) if meta["group"] not in groups else None
        )
        default = "" if field.default in (None, "") else f" (default: {field.default})"
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


def load_config(
    argv: list[str],
    trainers: Mapping[str, Trainer],
    datasets: Mapping[str, DatasetEntry],
    epilog: str = "",
) -> Config:
    """Resolves a command line against the registries. Raises UserError (one line) on anything that cannot be right."""
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
                f"{entry.where}: a section must be named after a trainer{_nearest(key, trainers)}: {', '.join(trainers)}"
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
        raise UserError(f"{where}: unknown trainer {trainer!r}{_nearest(trainer, trainers)}; choose from {', '.join(trainers)}")
    sections = {named.get(key, key): values for key, values in typed_sections.items()}
    chosen = settings | sections.get(trainer, {}) | given | {"config": Located(str(path), "--config")}
    shots = chosen.get("shots", Located(FIELDS["shots"].default, "")).value
    own = {**trainers[trainer].defaults, **trainers[trainer].by_shots}
    resolved = {key: Located(value, f"default of {trainer}") for key, value in own.items()} | chosen
    derivatives = resolved.get("derivatives")
    if derivatives and derivatives.value == "forward":
        jvp = Located("jvp", derivatives.where)
        resolved = {"smoothness_estimator": jvp, "mask_estimator": jvp} | resolved
    config = Config(**{key: _at_shots(entry.value, shots) for key, entry in resolved.items()})
    config = dataclasses.replace(config, dataset=aliases.get(config.dataset, config.dataset), prompt_trainer=trainer)
    config = _with_home(config)
    origins = {key: entry.where for key, entry in resolved.items()}
    _check(config, origins, trainers[trainer].two_stages, datasets)
    _check_rules(config, origins, trainers)
    return config


def _with_home(config: Config) -> Config:
    """`~` at the start of a path is the home folder also where no shell expands it: behind "=", in quotes, in YAML."""
    paths = {key: getattr(config, key) for key in (*PATHS, "output_dir", "cache_dir")}
    return dataclasses.replace(config, **{key: str(user_path(path)) for key, path in paths.items() if path and path[0] == "~"})


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
    """The value as its field wants it; of a section, also {least shots: value}."""
    if not isinstance(entry.value, dict) or key == "shots":
        return _coerce(key, entry.value, entry.where)
    where = f"{entry.where}: by shots"
    values = {_coerce("shots", least, where): _coerce(key, given.value, where) for least, given in entry.value.items()}
    if 1 not in values:
        raise UserError(f"{where}: there must be a value from 1 shot on, as in {{1: 50, 4: 100}}")
    return values


def _at_shots(value: Any, shots: int) -> Any:
    """`value`, or where it is {least shots: value}, the one for so many."""
    return value[max(least for least in value if least <= shots)] if isinstance(value, Mapping) else value


def checked_settings(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Those of `given` that are settings, each of its field's type and within its limits. Raises UserError."""
    return {key: _coerce(key, value, f"{where}: {key}") for key, value in with_current_names(given).items() if key in FIELDS}


def _coerce(key: str, raw: Any, where: str) -> Any:
    """`raw`, from YAML or a flag, as the type that the field wants and within its limits."""
    if key not in FIELDS:
        raise UserError(f"{where}: unknown key{_nearest(key, FIELDS)}")
    field, meta = FIELDS[key], FIELDS[key].metadata
    kind = meta["kind"]
    if raw is None and field.default is None:
        return None
    if raw in meta.get("words", ()) and isinstance(raw, str):
        return raw
    value = _as_kind(raw, kind)
    if value is None:
        wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]
        words = "".join(f" or {word!r}" for word in meta.get("words", ()))
        raise UserError(f"{where}: {shortened(repr(raw))} is not {wanted}{words}")
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
    """`raw` as `kind`, or None where it is something else. PyYAML reads 1e-3 as text, so numbers may come as text."""
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
        own = REPOSITORY / "configs" / f"{aliases.get(dataset, dataset)}.yaml"
        return own if re.fullmatch(r"\w+", dataset) and own.is_file() else REPOSITORY / FIELDS["config"].default
    path = user_path(given)
    # a shipped config is found from any working directory, and under its dataset's other name
    try:
        for candidate in (path, REPOSITORY / path, REPOSITORY / path.with_stem(aliases.get(path.stem, path.stem))):
            if candidate.is_file():
                return candidate
    except (OSError, ValueError) as error:
        raise UserError(f"--config: {shortened(repr(given))}: cannot be a file ({error})") from error
    raise UserError(f"--config: {path}: no such file")


def _nearest(word: str, names: Any) -> str:
    close = difflib.get_close_matches(str(word)[:80], list(names), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _check(config: Config, where: Mapping[str, str], two_stages: bool, datasets: Mapping[str, DatasetEntry]) -> None:
    """What no field can tell alone."""

    def refuse(key: str, reason: str) -> None:
        raise UserError(f"{where.get(key, f'default of {key}')}: {reason}")

    if not config.dataset:
        refuse("dataset", f"{config.config} names no dataset; add 'dataset: NAME' (there are {', '.join(datasets)})")
    if config.dataset not in datasets:
        refuse(
            "dataset",
            f"unknown dataset {config.dataset!r}{_nearest(config.dataset, datasets)}; there are {', '.join(datasets)}",
        )
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.device):
        refuse("device", f"{config.device!r} is no device; use auto, cpu, cuda or cuda:N")
    if config.template is not None and config.template.count("{}") != 1:
        refuse("template", f"{config.template!r} must hold {{}} once, where the class name goes")
    if config.ctx_init and not config.ctx_init.strip():
        refuse("ctx_init", "a blank is no word; '' starts from n_ctx random vectors")
    if config.run_name and (Path(config.run_name).name != config.run_name or config.run_name in (".", "..")):
        refuse("run_name", f"{config.run_name!r} must be a plain folder name")
    if (config.prompt_trainer == "saved") != bool(config.load_prompt):
        refuse("load_prompt", "--prompt_trainer saved and --load_prompt FILE go together")
    if two_stages and config.change_point != "auto" and config.change_point > config.total_steps:
        refuse(
            "change_point",
            f"change point {config.change_point} lies past the last step (total_steps {config.total_steps}); "
            "choose an earlier change_point or more total_steps",
        )
    if config.prompt_trainer == "zo" and config.pruning != "none":
        refuse("pruning", f"trainer zo is dense; for {config.pruning} pruning use --prompt_trainer sharpzo")
    _check_fidelity(config, refuse)


def _check_rules(config: Config, where: Mapping[str, str], trainers: Mapping[str, Trainer]) -> None:
    """What the trainer, the rule in stage 2's place, the prompt and the objective ask of each other."""

    def refuse(key: str, reason: str) -> None:
        raise UserError(f"{where.get(key, f'default of {key}')}: {reason}")

    name, own_stage2 = config.prompt_trainer, FIELDS["stage2"].default
    parts = [(name, trainers[name])]
    if config.stage2 != own_stage2:
        rules = [own_stage2, *(key for key, trainer in trainers.items() if trainer.stage2)]
        if config.stage2 not in rules:
            refuse("stage2", f"{config.stage2!r} is no rule{_nearest(config.stage2, rules)}; there are {', '.join(rules)}")
        if not trainers[name].two_stages:
            two = ", ".join(key for key, trainer in trainers.items() if trainer.two_stages)
            refuse("stage2", f"{name} has one stage; --stage2 goes with {two}")
        if departures(config) & {"gradient-buffer", "matrix-w", "abs-score", "keep-lowest"}:
            refuse("fidelity", f"departures of stage 2 concern sparse-zo, not {config.stage2}")
        parts.append((config.stage2, trainers[config.stage2]))
    for part, trainer in parts:
        if trainer.matrix and config.prompt_space != "full":
            refuse("prompt_space", f"{part} moves the context's own matrix, and a projected w is none; use --prompt_space full")
        if trainer.derivative and config.objective == "accuracy":
            refuse("objective", f"accuracy has no derivative, which {part} asks for")
    if config.zo_update != "default" and not any(trainer.update for _, trainer in parts):
        names = ", ".join(key for key, trainer in trainers.items() if trainer.update)
        refuse("zo_update", f"{name} has a fixed update; --zo_update goes with {names}")
    if name == "craft" and config.objective != "cross-entropy":
        refuse("objective", f"craft's candidates and adapter are both judged by cross-entropy; {config.objective} is not for it")
    if name == "bpt-vlm" and config.deep and config.class_token_position != "end":
        refuse("class_token_position", "deep prompts (--deep) stand before the class name, so it must be at the end")
    # only these have a stage 1; for all others the setting stands idle
    estimator = config.smoothness_estimator if trainers[name].two_stages or name == "cma-es" else "none"
    if estimator in ("fo", "jvp") and config.objective == "accuracy":
        refuse("objective", f"accuracy has no derivative, which --smoothness_estimator {estimator} asks for")
    masked = trainers[name].two_stages and config.stage2 == own_stage2 and config.pruning == "zscore"
    if masked and config.mask_estimator == "jvp" and config.objective == "accuracy":
        refuse("objective", "accuracy has no derivative, which --mask_estimator jvp asks for")


def check_paths(config: Config) -> None:
    """What can be told of the given paths before anything heavy is imported. Raises UserError."""
    for key in ("checkpoint", "split_file", "load_prompt"):
        path = getattr(config, key)
        if path is not None and not _can_be(Path.is_file, key, path):
            raise UserError(f"--{key}: {path}: no such file")
    if config.root_path is not None:
        _can_be(Path.is_dir, "root_path", config.root_path)
    cache = config.cache_dir
    if cache is not None and _can_be(Path.exists, "cache_dir", cache) and not Path(cache).is_dir():
        raise UserError(f"--cache_dir: {cache}: exists and is no folder")
    _can_be(Path.exists, "output_dir", config.output_dir)
    existing = next(
        folder for folder in (Path(config.output_dir).absolute(), *Path(config.output_dir).absolute().parents) if folder.exists()
    )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"--output_dir: {config.output_dir}: {existing} cannot be written")


def _can_be(test: Callable[[Path], bool], key: str, path: str) -> bool:
    """test(path). Raises UserError for what no path can be, as a name that is too long."""
    try:
        return test(Path(path))
    except OSError as error:
        raise UserError(f"--{key}: {shortened(path)}: {error.strerror or error}") from error


def _check_fidelity(config: Config, refuse: Any) -> None:
    chosen = departures(config)
    for name in chosen - set(DEPARTURES):
        refuse("fidelity", f"unknown departure {name!r}{_nearest(name, DEPARTURES)}; there are {', '.join(DEPARTURES)}")
    if chosen and config.prompt_trainer not in ("zo", "sharpzo", "cma-es"):
        refuse("fidelity", f"the released code's departures concern zo, sharpzo and cma-es, not {config.prompt_trainer}")
    sparse = config.pruning != "none" and config.prompt_trainer != "cma-es"
    if config.fidelity == "released" and sparse:
        refuse("fidelity", "the released code's sparse stage 2 never ran; use --prompt_trainer zo with --fidelity released")
    if "matrix-w" in chosen and ("gradient-buffer" not in chosen or sparse):
        refuse(
            "fidelity",
            "matrix-w comes from the buffer: it needs gradient-buffer and the dense stage 2 (--prompt_trainer zo)",
        )
    if chosen & {"abs-score", "keep-lowest"} and (config.pruning != "zscore" or not sparse):
        refuse("fidelity", "abs-score and keep-lowest change the Z-pruning mask: they need sharpzo with --pruning zscore")
