"""Combinations of settings that are refused, and paths that cannot work. Nothing heavy is imported."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from utils.errors import UserError, nearest, shortened
from utils.setting_kinds import DEPARTURES, LOGGERS, departures, loggers_of
from utils.settings import Config

if TYPE_CHECKING:
    from datasets import DatasetInfo
    from trainers import TrainerInfo

Refuse = Callable[[str, str], NoReturn]


def check(
    config: Config, where: Mapping[str, str], trainers: Mapping[str, TrainerInfo], datasets: Mapping[str, DatasetInfo]
) -> None:
    """Raises UserError for settings that exclude each other. `where`: the origin of each given one, FILE:LINE: KEY or --FLAG."""

    def refuse(key: str, reason: str) -> NoReturn:
        raise UserError(f"{where.get(key, f'default of {key}')}: {reason}")

    _check_single(config, datasets, refuse)
    _check_trainer(config, trainers, refuse)
    _check_stage2(config, trainers, refuse)
    _check_derivatives(config, trainers, refuse)
    _check_fidelity(config, refuse)


def _check_single(config: Config, datasets: Mapping[str, DatasetInfo], refuse: Refuse) -> None:
    if not config.dataset:
        refuse("dataset", f"{config.config} does not name a dataset; add 'dataset: NAME' (one of {', '.join(datasets)})")
    if config.dataset not in datasets:
        close = nearest(config.dataset, datasets)
        refuse("dataset", f"unknown dataset {config.dataset!r}{close}; choose from {', '.join(datasets)}")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.device):
        refuse("device", f"{config.device!r} is not a device; use auto, cpu, cuda or cuda:N")
    if config.template is not None and config.template.count("{}") != 1:
        refuse("template", f"{config.template!r} must contain {{}} exactly once, in place of the class name")
    if config.ctx_init and not config.ctx_init.strip():
        refuse("ctx_init", "must not be blank (use '' for n_ctx random vectors)")
    if "{" in config.ctx_init or "}" in config.ctx_init:
        before = config.ctx_init.partition("{")[0].strip() or "a photo of a"
        refuse(
            "ctx_init",
            f"{config.ctx_init!r} must be the words of the context alone, without a placeholder for the class name (try "
            f"{before!r}); the zero-shot template is --template",
        )
    for key in ("run_name", "dataset_name"):
        name = getattr(config, key)
        if name and (Path(name).name != name or name in (".", "..")):
            refuse(key, f"{name!r} must be a plain folder name")
    if config.dataset_name and config.dataset != "folder":
        refuse("dataset_name", f"names an image folder (--dataset folder), not {config.dataset}")
    chosen = loggers_of(config)
    for name in chosen:
        if name not in LOGGERS:
            close = nearest(name, LOGGERS)
            refuse("logger", f"{name!r} is not a logger{close}; use none, {', '.join(LOGGERS)}, or several, comma-separated")
    if len(set(chosen)) < len(chosen):
        refuse("logger", f"{config.logger!r} names a logger twice")
    if (config.prompt_trainer == "saved") != bool(config.load_prompt):
        refuse("load_prompt", "--prompt_trainer saved and --load_prompt FILE require each other")


def _check_trainer(config: Config, trainers: Mapping[str, TrainerInfo], refuse: Refuse) -> None:
    name = config.prompt_trainer
    if trainers[name].two_stages and isinstance(config.change_point, int) and config.change_point > config.total_steps:
        refuse(
            "change_point",
            f"change point {config.change_point} lies past the last step (total_steps {config.total_steps}); "
            "choose an earlier change_point or more total_steps",
        )
    if config.patience and not config.eval_every:
        refuse("patience", "counts evaluations during the run; set --eval_every to the steps between them")
    if name == "zo" and config.pruning != "none":
        refuse("pruning", f"trainer zo is dense; for {config.pruning} pruning use --prompt_trainer sharpzo")
    if name == "craft" and config.objective != "cross-entropy":
        refuse(
            "objective",
            f"craft judges candidates and adapter by cross-entropy; it does not support {config.objective}",
        )
    if name == "bpt-vlm" and config.deep and config.class_token_position != "end":
        refuse("class_token_position", "deep prompts (--deep) precede the class name, so it must be at the end")


def _parts(config: Config, trainers: Mapping[str, TrainerInfo]) -> list[tuple[str, TrainerInfo]]:
    """The trainer, and the one that replaces its stage 2."""
    names = [config.prompt_trainer, *([config.stage2] if config.stage2 != Config.stage2 else [])]
    return [(name, trainers[name]) for name in names]


def _check_stage2(config: Config, trainers: Mapping[str, TrainerInfo], refuse: Refuse) -> None:
    name = config.prompt_trainer
    if config.stage2 != Config.stage2:
        choices = [Config.stage2, *(key for key, trainer in trainers.items() if trainer.stage2)]
        if config.stage2 not in choices:
            close = nearest(config.stage2, choices)
            refuse("stage2", f"{config.stage2!r} is not a stage 2 optimizer{close}; choose from {', '.join(choices)}")
        if not trainers[name].two_stages:
            two = ", ".join(key for key, trainer in trainers.items() if trainer.two_stages)
            refuse("stage2", f"{name} has one stage; --stage2 requires one of {two}")
        if departures(config) & {"gradient-buffer", "matrix-w", "abs-score", "keep-lowest"}:
            refuse("fidelity", f"the released code's departures in stage 2 apply to sparse-zo, not to {config.stage2}")
    parts = _parts(config, trainers)
    for part, trainer in parts:
        if trainer.matrix and config.prompt_space != "full":
            refuse("prompt_space", f"{part} moves the context matrix, but a projected w is a vector; use --prompt_space full")
    if config.zo_update != "default" and not any(trainer.update for _, trainer in parts):
        names = ", ".join(key for key, trainer in trainers.items() if trainer.update)
        refuse("zo_update", f"{name} has a fixed update; --zo_update requires one of {names}")


def _check_derivatives(config: Config, trainers: Mapping[str, TrainerInfo], refuse: Refuse) -> None:
    if config.objective != "accuracy":
        return
    name = config.prompt_trainer
    for part, trainer in _parts(config, trainers):
        if trainer.derivative:
            refuse("objective", f"accuracy has no derivative, which {part} requires")
    # the other trainers have no stage 1 and ignore the setting
    estimator = config.smoothness_estimator if trainers[name].two_stages or name == "cma-es" else "none"
    if estimator in ("fo", "jvp"):
        refuse("objective", f"accuracy has no derivative, which --smoothness_estimator {estimator} requires")
    masked = trainers[name].two_stages and config.stage2 == Config.stage2 and config.pruning == "zscore"
    if masked and config.mask_estimator == "jvp":
        refuse("objective", "accuracy has no derivative, which --mask_estimator jvp requires")


def _check_fidelity(config: Config, refuse: Refuse) -> None:
    chosen = departures(config)
    for name in chosen - set(DEPARTURES):
        refuse("fidelity", f"unknown departure {name!r}{nearest(name, DEPARTURES)}; choose from {', '.join(DEPARTURES)}")
    if chosen and config.prompt_trainer not in ("zo", "sharpzo", "cma-es"):
        refuse("fidelity", f"the released code's departures apply to zo, sharpzo and cma-es, not to {config.prompt_trainer}")
    sparse = config.pruning != "none" and config.prompt_trainer != "cma-es"
    if config.fidelity == "released" and sparse:
        refuse("fidelity", "the released code's sparse stage 2 never ran; use --prompt_trainer zo with --fidelity released")
    if "matrix-w" in chosen and ("gradient-buffer" not in chosen or sparse):
        refuse(
            "fidelity",
            "matrix-w comes from the buffer: it requires gradient-buffer and the dense stage 2 (--prompt_trainer zo)",
        )
    if chosen & {"abs-score", "keep-lowest"} and (config.pruning != "zscore" or not sparse):
        refuse("fidelity", "abs-score and keep-lowest change the Z-pruning mask: they require sharpzo with --pruning zscore")


def check_ranks(config: Config, ranks: int, trainers: Mapping[str, TrainerInfo]) -> None:
    """Raises UserError if several ranks cannot share the run: something in it is not a query by forward passes."""
    if ranks == 1:
        return
    for key in ("prompt_trainer", "stage2"):
        part = getattr(config, key)
        if part in trainers and not trainers[part].shared:
            raise UserError(f"--{key}: {part} cannot run on {ranks} ranks: not all its work is queries; use one process")
    if config.smoothness_estimator == "fo":
        raise UserError(f"--smoothness_estimator: fo cannot run on {ranks} ranks: it backpropagates; use jvp, or one process")


def check_paths(config: Config) -> None:
    """Raises UserError for paths that cannot be read or written."""
    for key in ("checkpoint", "split_file", "load_prompt"):
        path = getattr(config, key)
        if path is not None and not _can_be(Path.is_file, key, path):
            raise UserError(f"--{key}: {path}: no such file")
    if config.root_path is not None:
        _can_be(Path.is_dir, "root_path", config.root_path)
    cache = config.cache_dir
    if cache is not None and _can_be(Path.exists, "cache_dir", cache) and not Path(cache).is_dir():
        raise UserError(f"--cache_dir: {cache}: exists and is not a folder")
    _can_be(Path.exists, "output_dir", config.output_dir)
    existing = next(
        folder for folder in (Path(config.output_dir).absolute(), *Path(config.output_dir).absolute().parents) if folder.exists()
    )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"--output_dir: {config.output_dir}: {existing} cannot be written")


def _can_be(test: Callable[[Path], bool], key: str, path: str) -> bool:
    """test(path). Raises UserError if the system rejects the path, such as a name that is too long."""
    try:
        return test(Path(path))
    except OSError as error:
        raise UserError(f"--{key}: {shortened(path)}: {error.strerror or error}") from error
