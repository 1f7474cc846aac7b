"""The three kinds of run: tune a prompt, score CLIP's own zero-shot prompt, score a saved one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from clip.precision import tangent_precision
from clip.prompt import PROMPT_FILE, save_prompt
from datasets import DATASETS
from trainers import TRAINERS
from trainers.blackbox.ledger import Recorded
from trainers.blackbox.passes import Passes
from trainers.blackbox.samples import Classified
from trainers.early_stop import EarlyStop
from trainers.loading import load_task
from trainers.loop import build_optimizer, build_problem, optimize, planned_queries
from trainers.per_class import TestPredictions
from trainers.report import image_counts
from trainers.run_path import dataset_name, run_path
from trainers.saved import read_saved, saved_scores
from trainers.step_log import StepLog
from utils.device import DEFAULT_MEMORY_LIMIT
from utils.errors import UserError
from utils.files import sha256
from utils.inputs import INPUTS, WEIGHTS
from utils.interrupt import Deadline
from utils.loggers import Loggers
from utils.memory import return_freed
from utils.progress import Progress
from utils.ranks import Alone, Ranks
from utils.replay import METRICS
from utils.setting_kinds import prompt_settings, uses_tangents
from utils.settings import Config

if TYPE_CHECKING:
    from utils.run import Run

ABOUT_PROMPT = ("dataset", "backbone", "checkpoint", "prompt_trainer", "ctx_init", "shots", "seed")
NOTHING_SPENT = {"seconds": 0.0, "queries": 0, "forwards": 0, "tower_images": 0, "evaluations": 0}

Lower = Callable[[str], None]


def make_job(config: Config, device: torch.device, ranks: Ranks | None = None) -> ZeroShot:
    """The run that `--prompt_trainer` names, with all defaults that depend on the machine or the dataset filled in."""
    config = dataclasses.replace(
        config,
        device=str(device),
        root_path=config.root_path if DATASETS[config.dataset].folder else None,
        threads=torch.get_num_threads(),
        template=config.template or DATASETS[config.dataset].template,
        memory_limit=config.memory_limit or DEFAULT_MEMORY_LIMIT[device.type],
        tangent_precision=tangent_precision(config.tangent_precision, device) if uses_tangents(config) else "auto",
    )
    ranks = ranks or Alone()
    if config.load_prompt:
        return ScoreSaved(config, device, ranks)
    return (Tune if TRAINERS[config.prompt_trainer].trains else ZeroShot)(config, device, ranks)


class ZeroShot:
    """CLIP with only the template. `prepare` does everything that can fail before the run folder is created."""

    def __init__(self, config: Config, device: torch.device, ranks: Ranks):
        self.config, self.device, self.ranks = config, device, ranks

    @property
    def path(self) -> Path:
        return run_path(self.config)

    def prepare(self, lower: Lower) -> None:
        """Data, CLIP and features. `lower` is called with the setting to lower if memory runs out from here on."""
        lower("batch_size")
        self.task = load_task(self.config, self.device)
        lower("memory_limit")

    @property
    def warnings(self) -> list[str]:
        return list(dict.fromkeys(self.task.warnings))

    def digests(self) -> dict[str, str]:
        """SHA-256 of the weights, and of all inputs (weights, class names, features and labels): equal wherever the files lie."""
        digest = hashlib.sha256()
        for part in self._inputs():
            digest.update(part)
        return {WEIGHTS: self.task.backbone.fingerprint(), INPUTS: digest.hexdigest()}

    def _inputs(self) -> list[bytes]:
        task = self.task
        names = json.dumps([task.backbone.fingerprint(), *task.dataset.classnames]).encode()
        sets = (task.train_samples, task.val_samples, task.test_samples)
        return [names, *(tensor.cpu().numpy().tobytes() for part in sets for tensor in (part.inputs, part.labels))]

    def introduction(self) -> list[str]:
        """What the run is: data, model, method and size."""
        config, task = self.config, self.task
        title = TRAINERS[config.prompt_trainer].title or config.prompt_trainer
        return [
            f"Dataset: {dataset_name(config)}, {image_counts(task.dataset, self._images_used())}",
            f"Backbone: {config.backbone}; method: {title}{self._size()}; seed {config.seed}",
            f"Run folder: {self.path}",
        ]

    def _images_used(self) -> dict[str, int]:
        """By part, of the parts that the run reads."""
        return {"test": len(self.task.test_samples)}

    def _size(self) -> str:
        return ""

    def settings(self) -> dict[str, Any]:
        """The entries of result.json that are known before the run starts."""
        shown = {key: getattr(self.config, key) for key in ("dataset", "backbone", "shots", "seed")}
        if self.config.dataset == "folder":
            shown |= {"dataset_name": dataset_name(self.config)}
        return shown | {"trainer": self.config.prompt_trainer, "zero_shot_accuracy": self.task.zero_shot_accuracy}

    def run(self, folder: Run, deadline: Deadline, loggers: Loggers) -> dict[str, Any]:
        """The entries of result.json besides `settings`; accuracies in percent. Sets `predictions`."""
        assert self.task.zero_shot is not None
        return self._tested(self.task.zero_shot) | {"test_loss": self.task.zero_shot_loss} | NOTHING_SPENT

    def predict_again(self, lower: Lower) -> TestPredictions:
        """The predictions of this finished run. Raises UserError if they require a prompt that was not saved."""
        ZeroShot.prepare(self, lower)
        assert self.task.zero_shot is not None
        self._tested(self.task.zero_shot)
        return self.predictions

    def _tested(self, found: Classified) -> dict[str, Any]:
        """Sets `predictions` from the classes that the run's prompt predicts; returns the test accuracy in percent."""
        before = self.task.zero_shot
        assert before is not None
        self.predictions = TestPredictions(self.task.dataset.classnames, found.labels, before.predicted, found.predicted)
        return {"test_accuracy": 100 * found.share_right}

    def follow(self, deadline: Deadline) -> None:
        """The part of `run` that ranks other than 0 do."""


class ScoreSaved(ZeroShot):
    """The prompt that `--load_prompt` names, on this run's classes and images."""

    def __init__(self, config: Config, device: torch.device, ranks: Ranks):
        config, *self._saved = read_saved(config)
        super().__init__(config, device, ranks)

    def prepare(self, lower: Lower) -> None:
        super().prepare(lower)
        tensors, about = self._saved
        self.found, self.loss = saved_scores(self.config, self.task, tensors, about)

    def run(self, folder: Run, deadline: Deadline, loggers: Loggers) -> dict[str, Any]:
        # a hash, so that a retrained prompt is not mistaken for the one that was scored
        scored = {"prompt_sha256": sha256(Path(self.config.load_prompt or ""))}
        return self._tested(self.found) | {"test_loss": self.loss} | NOTHING_SPENT | scored

    def predict_again(self, lower: Lower) -> TestPredictions:
        self.prepare(lower)
        self._tested(self.found)
        return self.predictions


class Tune(ZeroShot):
    """Trains a prompt from its few-shot images, and saves it."""

    def prepare(self, lower: Lower) -> None:
        super().prepare(lower)
        lower("intrinsic_dim")
        self.problem = build_problem(self.config, self.task)
        self.problem.objective.passes = Passes(self.config.passes_multiple, self.ranks)
        self.optimizer = build_optimizer(self.config, self.problem)
        self.early_stop = EarlyStop(self.config.patience, self.ranks) if self.config.patience else None
        # image features are computed, and the problem holds the parts of the towers that it needs
        self.task = dataclasses.replace(self.task, backbone=self.task.backbone.released())
        return_freed()
        lower("memory_limit")

    @property
    def warnings(self) -> list[str]:
        # the zero-shot prompts are often those that tuning starts from
        return list(dict.fromkeys([*self.task.warnings, *self.problem.warnings]))

    def _images_used(self) -> dict[str, int]:
        return {"train": len(self.task.train), "val": len(self.task.val), **super()._images_used()}

    def _size(self) -> str:
        planned = planned_queries(self.optimizer, self.problem, self.config.max_queries)
        return f", {self.config.shots} shots, up to {planned:,} queries"

    def evaluate(self, w: Tensor) -> dict[str, float]:
        """The figures of w for the log; accuracies in percent."""
        objective, problem = self.problem.objective, self.problem
        figures = {"train_loss": objective.loss_at(w, problem.train), "val_accuracy": 100 * objective.accuracy(w, problem.val)}
        return figures | ({"test_accuracy": 100 * objective.accuracy(w, problem.test)} if self.config.eval_test else {})

    def run(self, folder: Run, deadline: Deadline, loggers: Loggers) -> dict[str, Any]:
        config, problem, objective = self.config, self.problem, self.problem.objective
        folder.replay.hash_input(*self._inputs())
        self.ranks.decide(lambda: folder.replay.recorded)

        def record(entry: dict[str, Any]) -> None:
            folder.replay.record(entry)
            loggers.add(entry)

        log = StepLog(
            record,
            evaluate=self.evaluate,
            eval_every=config.eval_every,
            save_every=config.save_every,
            replay=folder.replay,
            progress=Progress(folder.log),
            early_stop=self.early_stop,
        )
        w = optimize(self.optimizer, problem, log, max_queries=config.max_queries, deadline=deadline)
        if config.save_model:
            save_prompt(folder.path / PROMPT_FILE, objective.model.tensors(w), self._about())
        last = json.loads((folder.path / METRICS).read_text().splitlines()[-1])
        early = self.early_stop
        if early:
            folder.log(early.summary(last["step"]))
        elif TRAINERS[config.prompt_trainer].two_stages and last["stage"] == 1 and last["step"] < problem.steps:
            folder.log(f"note: --max_queries {config.max_queries} ended the run at step {last['step']}, before stage 2")
        outcome = {"feature_seconds": round(self.task.feature_seconds, 3), "val_accuracy": last["val_accuracy"]}
        outcome |= {"val_accuracy": early.accuracy, "best_step": early.step} if early else {}
        outcome |= {"seconds": last["seconds"]} | objective.costs()
        outcome |= self._tested(objective.classify(w, problem.test))
        parts = {"train": problem.train, "val": problem.val, "test": problem.test}
        outcome |= {f"{part}_loss": objective.cross_entropy(w, images) for part, images in parts.items() if len(images)}
        return outcome | {"evaluations": objective.evaluations}

    def predict_again(self, lower: Lower) -> TestPredictions:
        prompt = self.path / PROMPT_FILE
        if not prompt.is_file():
            raise UserError(f"{self.path}: holds no {PROMPT_FILE} to predict with (--no-save_model); --overwrite runs it again")
        super().prepare(lower)
        saved, tensors, about = read_saved(dataclasses.replace(self.config, load_prompt=str(prompt)))
        self._tested(saved_scores(saved, self.task, tensors, about)[0])
        return self.predictions

    def follow(self, deadline: Deadline) -> None:
        recorded: np.ndarray = self.ranks.decide(self._no_losses)
        self.problem.objective.replay_from(Recorded(recorded))
        log = StepLog(lambda entry: None, early_stop=self.early_stop)
        optimize(self.optimizer, self.problem, log, max_queries=self.config.max_queries, deadline=deadline)

    @staticmethod
    def _no_losses() -> np.ndarray:
        """Only rank 0 has any."""
        return np.empty(0)

    def _about(self) -> dict[str, Any]:
        """The metadata of prompt.safetensors."""
        about = {key: getattr(self.config, key) for key in ABOUT_PROMPT}
        about |= {"classnames": self.task.dataset.classnames, "weights_sha256": self.task.backbone.fingerprint()}
        return about | {"settings": prompt_settings(self.config)}
