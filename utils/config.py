"""The one way from flags and YAML to settings: defaults < the trainer's own < YAML < the YAML's section for the trainer < flags.

`Config` is the list of all settings, with their types, defaults (the paper's), limits and help; everything else here reads
that list. No torch is imported, so that `--help` and a bad flag answer at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import yaml

from utils.errors import UserError

REPOSITORY = Path(__file__).resolve().parent.parent


def option(default: Any, group: str, help: str, *, kind: type | None = None, **limits: Any) -> Any:
    """A field of Config. `limits`: choices, low, high (inclusive), above, below (exclusive), words (allowed beside a number)."""
    metadata = {"group": group, "help": help, "kind": kind or type(default), **limits}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    """Every setting of a run, resolved. Field names are the flags and the YAML keys."""

    config: str = option("configs/digits.yaml", "run", "dataset YAML; its keys are the other flags' names")
    dataset: str = option("", "run", "dataset key; the YAML names it")
    root_path: str | None = option(None, "run", "folder that holds the datasets, in CoOp's layout; of folder: itself", kind=str)
    output_dir: str = option("outputs", "run", "root of the run folders")
    run_name: str = option("", "run", "adds a folder level, for variants of a setting")
    seed: int = option(1, "run", "seed of every random draw", low=0)
    device: str = option("auto", "run", "auto, cpu, cuda, cuda:1 …")
    threads: int = option(0, "run", "CPU threads; 0: torch's own choice. Another number gives other last digits", low=0)
    overwrite: bool = option(False, "run", "delete a run that is already in the run folder")
    save_model: bool = option(True, "run", "write prompt.safetensors")

    backbone: str = option("ViT-B/16", "model", "Mini, RN50, RN101, ViT-B/32, ViT-B/16, or an open_clip NAME or NAME@TAG")
    checkpoint: str | None = option(None, "model", "local weights: OpenAI TorchScript, open_clip .pt, safetensors", kind=str)
    trust_checkpoint: bool = option(False, "model", "let a TorchScript file that is not OpenAI's run its code")
    precision: str = option(
        "auto",
        "model",
        "of text passes; auto: float64 where a finite-difference step is below 1e-4, else float32",
        choices=("auto", "float32", "float64", "bfloat16", "float16"),
    )
    engine: str = option(
        "fast", "model", "text features: shared work, or open_clip's tower on whole prompts", choices=("fast", "stock")
    )
    memory_limit: int = option(0, "model", "MiB for activations of one pass; 0: 1024 on CPU, 4096 elsewhere", low=0, high=1 << 30)
    batch_size: int = option(256, "model", "images a pass through the image tower", low=1)

    shots: int = option(16, "data", "training images a class", low=1)
    short_classes: str = option(
        "error", "data", "of a class with fewer images than shots: refuse it, or take all it has", choices=("error", "take-all")
    )
    split_file: str | None = option(None, "data", "few-shot list to use instead of a draw, as a run's split.json", kind=str)
    subsample_classes: str = option(
        "all", "data", "which half of the classes, cut after the draw", choices=("all", "base", "new")
    )
    template: str | None = option(None, "data", "zero-shot template with {} for the name; default: the dataset's", kind=str)
    augment_views: int = option(
        0, "data", "random crops of each training image; 0: the deterministic transform", low=0, high=10_000
    )
    cache: bool = option(True, "data", "keep image features on disk, for the next run")
    cache_dir: str | None = option(None, "data", "where; default: ~/.cache/sharpzo ($XDG_CACHE_HOME/sharpzo)", kind=str)

    ctx_init: str = option("a photo of a", "prompt", "words that the context tokens start from; their number is n_ctx")
    intrinsic_dim: int = option(512, "prompt", "d, length of the trained vector w", low=1, high=10_000)
    std: float = option(1.0, "prompt", "standard deviation of the projection A", above=0.0)
    init_std: float = option(0.02, "prompt", "standard deviation of the first w", low=0.0)

    prompt_trainer: str = option("zo-pruned", "method", "which optimiser")
    total_steps: int = option(20_000, "method", "T, steps of both stages", low=1)
    change_point: int | str = option(
        100, "method", "T_c, first step of stage 2, or auto: by validation accuracy", kind=int, low=0, words=("auto",)
    )
    max_queries: int = option(0, "method", "stop before the step that would exceed this many queries; 0: no limit", low=0)
    fidelity: str = option("paper", "method", "paper, released, or a comma list of the released code's departures")

    popsize: int = option(40, "stage 1", "S, CMA-ES population", low=2, high=100_000)
    sigma: float = option(0.4, "stage 1", "σ, initial CMA-ES step", above=0.0)
    bound: float = option(5.0, "stage 1", "box ±bound on w in CMA-ES; 0: none", low=0.0)
    rho: float = option(0.1, "stage 1", "ρ, sharpness radius", low=0.0)
    smoothness_estimator: str = option(
        "zo",
        "stage 1",
        "gradient behind ε*: CGE, backpropagation (for comparison), or none",
        choices=("zo", "fo", "none"),
    )
    zo_eps_cge: float = option(1e-3, "stage 1", "μ of the CGE gradient", above=0.0)

    zo_lr: float = option(1e-3, "stage 2", "η, step size (of the fo trainer too)", above=0.0)
    zo_eps_rge: float = option(1e-3, "stage 2", "μ of the RGE gradient", above=0.0)
    num_pertub: int = option(1, "stage 2", "q, RGE samples a step", low=1)
    pruning: str = option(
        "zscore", "stage 2", "score that the mask ranks coordinates by", choices=("zscore", "magnitude", "none")
    )
    prune_ratio: float = option(0.5, "stage 2", "r, share of the coordinates that the mask drops", low=0.0, below=1.0)
    prune_interval: int = option(200, "stage 2", "K_int, steps between mask refreshes", low=1)
    zo_eps_mask: float = option(1e-5, "stage 2", "μ of the mask's CGE gradient", above=0.0)

    eval_every: int = option(10, "log", "steps between validation accuracies in metrics.jsonl; 0: at the end only", low=0)
    eval_test: bool = option(False, "log", "also log test accuracy then (for curves; decides nothing)")

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


# settings that name where a run is kept, not what it computes
NOT_IDENTITY = frozenset({"config", "output_dir", "run_name", "overwrite", "cache", "cache_dir"})

# rows of the table "paper versus released code" in README.md that a run can choose, in the released code's own terms
RELEASED = ("fresh-mean-gradient", "fresh-mean-start", "gradient-buffer", "matrix-radius", "zero-start", "matrix-w")
DEPARTURES = (*RELEASED, "abs-score", "keep-lowest")

FIELDS = {field.name: field for field in dataclasses.fields(Config)}


class Entry(NamedTuple):
    """A value and where it was given: FILE:LINE: KEY, or --FLAG."""

    value: Any
    where: str


class Parser(argparse.ArgumentParser):
    """Refuses in our one line."""

    def error(self, message: str) -> None:
        raise UserError(message)


class Trainer(Protocol):
    """What is read here of a registry entry: a line of help, its own defaults, whether it has a change point."""

    help: str
    defaults: Mapping[str, Any]
    two_stages: bool


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
        if meta["kind"] is bool:
            group.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, help=text)
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
    path = _find_config(flags.get("config"), aliases)
    document = read_yaml(path)

    if "config" in document:
        raise UserError(f"{document['config'].where}: a config cannot name another")
    settings = _typed({key: entry for key, entry in document.items() if not isinstance(entry.value, dict)}, trainers)
    sections = {key: entry for key, entry in document.items() if isinstance(entry.value, dict)}
    for key, entry in sections.items():
        if key not in trainers:
            raise UserError(
                f"{entry.where}: a section must be named after a trainer{_nearest(key, trainers)}: {', '.join(trainers)}"
            )
        if "prompt_trainer" in entry.value:
            raise UserError(f"{entry.value['prompt_trainer'].where}: a trainer's section cannot choose the trainer")
    typed_sections = {key: _typed(entry.value, trainers) for key, entry in sections.items()}
    given = _typed({key: Entry(value, f"--{key}") for key, value in flags.items()}, trainers)

    unset = Entry(FIELDS["prompt_trainer"].default, "default")
    trainer, where = given.get("prompt_trainer") or settings.get("prompt_trainer") or unset
    if trainer not in trainers:
        raise UserError(f"{where}: unknown trainer {trainer!r}{_nearest(trainer, trainers)}; there are {', '.join(trainers)}")
    own = {key: Entry(value, f"default of {trainer}") for key, value in trainers[trainer].defaults.items()}
    resolved = own | settings | typed_sections.get(trainer, {}) | given | {"config": Entry(str(path), "--config")}
    config = Config(**{key: entry.value for key, entry in resolved.items()})
    config = dataclasses.replace(config, dataset=aliases.get(config.dataset, config.dataset))
    _check(config, {key: entry.where for key, entry in resolved.items()}, trainers[trainer].two_stages, datasets)
    return config


def _typed(entries: Mapping[str, Entry], trainers: Collection[str]) -> dict[str, Entry]:
    for key, entry in entries.items():
        if key in trainers:
            raise UserError(f"{entry.where}: {key} is a trainer; its settings belong in a mapping below it")
    return {key: Entry(_coerce(key, entry.value, entry.where), entry.where) for key, entry in entries.items()}


def read_yaml(path: Path) -> dict[str, Entry]:
    """A flat YAML mapping whose values may be mappings once more; every value knows its line. Safe loader only."""
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


def _mapping(node: yaml.Node, path: str, depth: int) -> dict[str, Entry]:
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}:{line}: expected a mapping of settings, such as 'shots: 16'")
    entries: dict[str, Entry] = {}
    for key_node, value_node in node.value:
        where = f"{path}:{key_node.start_mark.line + 1}: {key_node.value}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{path}:{key_node.start_mark.line + 1}: a key must be a plain word")
        if key_node.value in entries:
            raise UserError(f"{where}: the key stands twice")
        if isinstance(value_node, yaml.MappingNode) and depth == 0:
            value: Any = _mapping(value_node, path, depth=1)
        else:
            value = _scalar(value_node, where)
        entries[key_node.value] = Entry(value, where)
    return entries


def _scalar(node: yaml.Node, where: str) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        raise UserError(f"{where}: expected one value, not a list or mapping")
    if node.tag.removeprefix("tag:yaml.org,2002:") not in ("str", "int", "float", "bool", "null"):
        raise UserError(f"{where}: {node.value!r} is no text, number or true/false (YAML reads it as {node.tag})")
    try:
        return yaml.constructor.SafeConstructor().construct_object(node)
    # PyYAML's constructors pass on whatever a tag's conversion raised
    except (yaml.YAMLError, ValueError, LookupError) as error:
        raise UserError(f"{where}: {node.value!r} does not fit its tag {node.tag}") from error


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
        raise UserError(f"{where}: {raw!r} is not {wanted}{words}")
    if "choices" in meta and value not in meta["choices"]:
        raise UserError(f"{where}: {value!r} is not one of {', '.join(meta['choices'])}")
    tests = {
        "low": (lambda v, m: v >= m, "at least"),
        "high": (lambda v, m: v <= m, "at most"),
        "above": (lambda v, m: v > m, "more than"),
        "below": (lambda v, m: v < m, "less than"),
    }
    for limit, (holds, words) in tests.items():
        if limit in meta and not holds(value, meta[limit]):
            raise UserError(f"{where}: {value} is out of range: it must be {words} {meta[limit]}")
    return value


def _as_kind(raw: Any, kind: type) -> Any:
    """`raw` as `kind`, or None where it is something else. PyYAML reads 1e-3 as text, so numbers may come as text."""
    if kind is bool:
        return raw if isinstance(raw, bool) else None
    if kind is str:
        return raw if isinstance(raw, str) and "\0" not in raw else None
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        return None
    try:
        number = float(raw)
        if kind is float:
            return number if math.isfinite(number) else None
        return int(raw) if isinstance(raw, str) else (int(raw) if number.is_integer() else None)
    except (ValueError, OverflowError):
        return None


def _find_config(given: str | None, aliases: Mapping[str, str]) -> Path:
    if given is None:
        return REPOSITORY / FIELDS["config"].default
    path = Path(given)
    # a shipped config is found from any working directory, and under its dataset's other name
    for candidate in (path, REPOSITORY / path, REPOSITORY / path.with_stem(aliases.get(path.stem, path.stem))):
        if candidate.is_file():
            return candidate
    raise UserError(f"--config: {path}: no such file")


def _nearest(word: str, names: Any) -> str:
    close = difflib.get_close_matches(str(word), list(names), n=1)
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
    if not config.ctx_init.strip():
        refuse("ctx_init", "the context needs at least one word")
    if config.run_name and (Path(config.run_name).name != config.run_name or config.run_name in (".", "..")):
        refuse("run_name", f"{config.run_name!r} must be a plain folder name")
    if two_stages and config.change_point != "auto" and config.change_point > config.total_steps:
        refuse(
            "change_point",
            f"change point {config.change_point} lies past the last step (total_steps {config.total_steps})",
        )
    if config.prompt_trainer == "zo" and config.pruning != "none":
        refuse("pruning", f"trainer zo is dense; for {config.pruning} pruning use --prompt_trainer zo-pruned")
    _check_fidelity(config, refuse)


def check_paths(config: Config) -> None:
    """What can be told of the given paths before anything heavy is imported. Raises UserError."""
    for key in ("checkpoint", "split_file"):
        path = getattr(config, key)
        if path is not None and not Path(path).is_file():
            raise UserError(f"--{key}: {path}: no such file")
    if config.cache_dir is not None and Path(config.cache_dir).exists() and not Path(config.cache_dir).is_dir():
        raise UserError(f"--cache_dir: {config.cache_dir}: exists and is no folder")


def departures(config: Config) -> frozenset[str]:
    """The released code's departures from the paper that `--fidelity` selects."""
    named = {"paper": (), "released": RELEASED}.get(config.fidelity)
    return frozenset(named if named is not None else (part.strip() for part in config.fidelity.split(",")))


def _check_fidelity(config: Config, refuse: Any) -> None:
    chosen = departures(config)
    for name in chosen - set(DEPARTURES):
        refuse("fidelity", f"unknown departure {name!r}{_nearest(name, DEPARTURES)}; there are {', '.join(DEPARTURES)}")
    if chosen and config.prompt_trainer not in ("zo", "zo-pruned", "cma-es"):
        refuse("fidelity", f"the released code's departures concern zo, zo-pruned and cma-es, not {config.prompt_trainer}")
    sparse = config.pruning != "none" and config.prompt_trainer != "cma-es"
    if config.fidelity == "released" and sparse:
        refuse("fidelity", "the released code's sparse stage 2 never ran; use --prompt_trainer zo with --fidelity released")
    if "matrix-w" in chosen and ("gradient-buffer" not in chosen or sparse):
        refuse(
            "fidelity",
            "matrix-w comes from the buffer: it needs gradient-buffer and the dense stage 2 (--prompt_trainer zo)",
        )
    if chosen & {"abs-score", "keep-lowest"} and (config.pruning != "zscore" or not sparse):
        refuse("fidelity", "abs-score and keep-lowest change the Z-pruning mask: they need zo-pruned with --pruning zscore")
