"""Runs as tasks of a SLURM array, through submitit: submission, and what a task does on its node.

A task runs its jobs with the same `Runner` as a sweep on one machine. Before the time limit SLURM sends SIGUSR2 (or the signal
that SUBMITIT_PREEMPT_SIGNAL names): the runs checkpoint, and submitit requeues the task, which resumes them. After SIGTERM they
checkpoint, too; a task that was preempted or requeued is then requeued by SLURM, and one that was cancelled is not.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.common.devices import check_datasets
from tools.common.runner import INTERRUPTED, Runner
from tools.common.runs import Job
from utils.config import REPOSITORY
from utils.errors import RunError, UserError, nearest

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

CLUSTER = "slurm"
DEFAULTS: dict[str, Any] = {"job_name": "sharpzo", "time": 240, "requeue": True, "max_num_timeout": 1000}
# submitit's settings that a value on the command line can give; one process per task is what a task expects
INTEGERS = ("time", "cpus_per_task", "cpus_per_gpu", "gpus_per_node", "signal_delay_s", "array_parallelism", "max_num_timeout")
WORDS = (
    *("job_name", "partition", "qos", "mem", "mem_per_gpu", "mem_per_cpu", "constraint", "exclude", "account", "gres"),
    *("comment", "mail_type", "mail_user", "nodelist", "dependency", "wckey"),
)
SWITCHES = ("exclusive", "requeue")
LINES = ("setup", "teardown")
# SLURM's default MaxArraySize allows indices up to 1000
LONGEST_ARRAY = 1000


class RunTask:
    """What an array task calls with the flags of its runs; submitit asks its `checkpoint` before it requeues the task."""

    def __init__(self, slots: Sequence[str]):
        self.slots = tuple(slots)
        self._runner: Runner | None = None

    def __call__(self, flags: Sequence[tuple[str, ...]]) -> int:
        environment = dict(os.environ)
        cores = int(environment.get("SLURM_CPUS_PER_TASK") or 0)
        if cores:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // len(self.slots))))
        self._runner = Runner(self.slots, environment)
        outcome = self._runner.run([Job(each) for each in flags])
        if outcome.failed:
            raise RunError("; ".join(f"{job.path}: {said}" for job, said in outcome.failed))
        if outcome.status:
            # SLURM records a task that did not finish its runs as failed
            sys.exit(outcome.status)
        return 0

    def checkpoint(self, flags: Sequence[tuple[str, ...]]) -> DelayedSubmission:
        """Ends the runs in progress with their checkpoints written, and returns the same task again."""
        from submitit.helpers import DelayedSubmission

        if self._runner:
            self._runner.stop()
            self._runner.wait()
        return DelayedSubmission(type(self)(self.slots), flags)


def submit(jobs: Sequence[Job], settings: Mapping[str, Any], slots: Sequence[str], runs_per_task: int) -> int:
    """Submits what is neither finished nor queued, prints the tasks and their logs, and returns the exit status.

    0: all runs are finished; INTERRUPTED: some are in the queue now. Raises UserError for what would fail every run, and RunError
    where the submission fails.
    """
    _require_submitit()
    left = [job for job in jobs if job.state != "finished"]
    check_datasets(job.config for job in left)
    in_queue = queued(left)
    tasks = tasks_of([job for job in left if job.path not in in_queue and not job.is_running], runs_per_task)
    waiting = len(left) - sum(map(len, tasks))
    print(f"{len(jobs)} runs: {len(jobs) - len(left)} finished, {waiting} queued or running, {sum(map(len, tasks))} to submit")
    for folder in {folder_of(job) for job in left}:
        folder.mkdir(parents=True, exist_ok=True)
    for batch in (tasks[start : start + LONGEST_ARRAY] for start in range(0, len(tasks), LONGEST_ARRAY)):
        _submit_array(batch, settings, slots)
    return INTERRUPTED if left else 0


def tasks_of(jobs: Sequence[Job], runs_per_task: int) -> list[Sequence[Job]]:
    return [jobs[start : start + runs_per_task] for start in range(0, len(jobs), runs_per_task)]


def folder_of(job: Job) -> Path:
    """Where submitit writes its files of the runs below one output folder; every node must see it."""
    return Path(job.config.output_dir) / "logs" / "slurm"


def _submit_array(tasks: Sequence[Sequence[Job]], settings: Mapping[str, Any], slots: Sequence[str]) -> None:
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    folder = folder_of(tasks[0][0])
    parameters = parameters_of(settings)
    timeouts = parameters.pop("max_num_timeout")
    try:
        executor = submitit.AutoExecutor(folder, cluster=CLUSTER, **{f"{CLUSTER}_max_num_timeout": timeouts})
        # each key for SLURM alone, so that another cluster's executor ignores it
        executor.update_parameters(**{f"slurm_{key}": value for key, value in parameters.items()}, timeout_min=parameters["time"])
        submitted = executor.map_array(RunTask(slots), [[job.flags for job in task] for task in tasks])
    except (FailedJobError, FailedSubmissionError, RuntimeError) as error:
        raise RunError(f"--launcher slurm: not submitted: {error}") from error
    with (folder / "submitted.jsonl").open("a", encoding="utf-8") as record:
        for task, jobs in zip(submitted, tasks, strict=True):
            record.write(json.dumps({"task": task.job_id, "runs": [str(job.path) for job in jobs]}) + "\n")
            print(f"task {task.job_id}: {task.paths.stdout}")
            for job in jobs:
                print(f"  {job.path}: {job.log}")


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """`--slurm KEY=VALUE …` as submitit's settings. Raises UserError naming the pair that is wrong."""
    settings: dict[str, Any] = {}
    known = (*INTEGERS, *WORDS, *SWITCHES, *LINES)
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not value:
            raise UserError(f"--slurm: {pair!r}: expected KEY=VALUE")
        if key not in known:
            raise UserError(f"--slurm: unknown key {key!r}{nearest(key, known)}; choose from {', '.join(sorted(known))}")
        if key in INTEGERS:
            if not value.isdecimal():
                raise UserError(f"--slurm: {pair!r}: {key} must be an integer{' (minutes)' if key == 'time' else ''}")
            settings[key] = int(value)
        elif key in SWITCHES:
            if value not in ("true", "false"):
                raise UserError(f"--slurm: {pair!r}: {key} must be true or false")
            settings[key] = value == "true"
        else:
            settings[key] = [value] if key in LINES else value
    return settings


def parameters_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """submitit's parameters: the given settings, our defaults, and the repository on the path of the task's Python."""
    parameters = DEFAULTS | dict(settings)
    if parameters.pop("requeue"):
        parameters["additional_parameters"] = {"requeue": True}
    if not parameters.get("exclusive"):
        parameters.pop("exclusive", None)
    return parameters | {"setup": [_python_path(), *parameters.get("setup", [])]}


def _python_path() -> str:
    return f'export PYTHONPATH={shlex.quote(str(REPOSITORY))}"${{PYTHONPATH:+:$PYTHONPATH}}"'


def script(jobs: Sequence[Job], settings: Mapping[str, Any], runs_per_task: int) -> str:
    """The sbatch script that `submit` would submit for the unfinished runs of `jobs`, at first; "" where none is left."""
    _require_submitit()
    from submitit.slurm.slurm import _make_sbatch_string

    left = [job for job in jobs if job.state != "finished"]
    tasks = tasks_of(left, runs_per_task)[:LONGEST_ARRAY]
    if not tasks:
        return ""
    folder = folder_of(left[0])
    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder.absolute()))}"
    parameters = parameters_of(settings)
    parameters.pop("max_num_timeout")
    if len(tasks) > 1:
        parameters["map_count"] = len(tasks)
    return _make_sbatch_string(command=command, folder=folder.absolute(), **parameters)


def queued(jobs: Sequence[Job]) -> dict[Path, str]:
    """The runs among `jobs` that an earlier submission has in SLURM's queue, each with the id of its task."""
    folders = {folder_of(job) for job in jobs}
    records = [entry for folder in folders for entry in _submissions(folder / "submitted.jsonl")]
    if not records:
        return {}
    try:
        command = ["squeue", "--me", "--noheader", "--array", "--format=%i %t"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        # not a machine of the cluster, so the folders alone say what is finished
        return {}
    # completing and failed tasks run nothing any more
    states = dict(line.split() for line in done.stdout.splitlines())
    alive = {task for task, state in states.items() if state in ("PD", "R", "CF", "S", "RQ", "RD", "RH", "RS", "SO", "ST")}
    return {Path(run): entry["task"] for entry in records if entry["task"] in alive for run in entry["runs"]}


def _submissions(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def _require_submitit() -> None:
    if importlib.util.find_spec("submitit") is None:
        raise UserError("--launcher slurm: needs submitit; run: pip install 'submitit>=1.5,<2'")
