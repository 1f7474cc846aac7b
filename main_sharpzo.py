"""SharpZO: tunes the prompt of a frozen CLIP by forward passes only.

    python main_sharpzo.py                                                    # the embedded default: digits, Mini CLIP
    python main_sharpzo.py --config configs/eurosat.yaml --root_path DATA --backbone ViT-B/16 --shots 16 --seed 1
    python main_sharpzo.py --dataset eurosat --root_path DATA --prompt_trainer zero-shot

    torchrun --nproc_per_node=4 main_sharpzo.py --threads 1                   # one run on several ranks (docs/scale.md)

Exit status: 0 finished; 1 the run failed; 2 invalid arguments or data; 3 interrupted, the same command resumes it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import os
import sys
from typing import TYPE_CHECKING, Any

from datasets import DATASETS, ENSEMBLE
from datasets.roots import check_dataset
from trainers import TRAINERS
from utils.checks import check_paths, check_ranks
from utils.config import load_config
from utils.device import arithmetic, device_name, exit_process, pick_device
from utils.errors import RunError, UserError
from utils.interrupt import Deadline, Interrupted, interruptible
from utils.log import quiet_libraries
from utils.memory import explain_oom
from utils.ranks import Ranks, follows, joined
from utils.settings import Config

if TYPE_CHECKING:
    from trainers.jobs import ZeroShot
    from utils.run import Run


def main(argv: list[str] | None = None) -> int:
    status, message = run_command(sys.argv[1:] if argv is None else argv)
    if message:
        # the terminal may be closed
        with contextlib.suppress(OSError):
            print(message, file=sys.stderr)
    return status


def run_command(argv: list[str]) -> tuple[int, str]:
    """The exit status, and the line that says why it is not 0."""
    config = None
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a class name that the terminal's encoding lacks must not end the run
            stream.reconfigure(errors="backslashreplace")
    try:
        config = load_config(argv, TRAINERS, DATASETS, epilog=__doc__)
        if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
            # what torchrun restarts is to be resumed
            config = dataclasses.replace(config, overwrite=False)
        check_ranks(config, int(os.environ.get("WORLD_SIZE", "1")), TRAINERS)
        check_paths(config)
        check_dataset(config.dataset, config.root_path, trains=TRAINERS[config.prompt_trainer].trains)
        with (
            interruptible(config.max_seconds or math.inf) as deadline,
            arithmetic(config),
            quiet_libraries(),
            joined(config) as ranks,
        ):
            run(config, ranks.deadline(deadline), ranks)
    except (UserError, RunError) as error:
        quiet = follows() if error.quiet is None else error.quiet
        return 2 if isinstance(error, UserError) else 1, "" if quiet else f"error: {error}"
    except OSError as error:
        again = f"; then {resume_command(config)}" if config else ""
        return 1, f"error: {error.filename or 'output'}: {error.strerror or error}{again}"
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
        return 1, "error: the system starts no more threads (ulimit -u, or the container's limit); raise it, or use --threads 1"
    except KeyboardInterrupt as reason:
        step = reason.step if isinstance(reason, Interrupted) else None
        after = "" if step is None else f" after step {step:,}"
        return 3, "" if follows() else f"interrupted ({str(reason) or 'SIGINT'}){after}: {resume_command(config)}"
    return 0, ""


def resume_command(config: Config | None) -> str:
    without = " without --overwrite" if config and config.overwrite else ""
    return f"run the same command{without} to resume"


def run(config: Config, deadline: Deadline, ranks: Ranks) -> None:
    """One run: data → CLIP → features → prompt → optimizer → report. Heavy imports wait until the settings are checked."""
    from datasets.fewshot import write_split
    from trainers.jobs import make_job
    from utils.identity import dataset_name
    from utils.lock import refuse_locked
    from utils.run import Run, find_earlier_run, refuse_other_inputs, remove_checkpoint

    device = pick_device(config.device)
    job = make_job(config, device, ranks)
    earlier = ranks.decide(lambda: find_earlier_run(job.path, job.config))
    if earlier == "finished":
        if ranks.rank == 0:
            # left behind if a run was killed during cleanup
            remove_checkpoint(job.path)
            print(earlier_result(job))
        return
    ranks.decide(lambda: refuse_locked(job.path))
    with explain_oom(job.config, device) as lower:
        # nothing is written before this has succeeded, so that what is refused leaves no folder
        job.prepare(lower)
        ranks.require_equal({"the digest of the weights": job.weights_sha256(), "that of the data": job.inputs_sha256()})
        if earlier == "finished elsewhere":
            ranks.decide(lambda: refuse_other_inputs(job.path, job.inputs_sha256()))
            if ranks.rank == 0:
                print(earlier_result(job))
            return
        if ranks.rank > 0:
            job.follow(deadline)
            return
        with Run(job.path, job.config, {"device": device_name(device), "inputs_sha256": job.inputs_sha256()}) as folder:
            introduce(folder, job)
            write_split(folder.path / "split.json", job.task.train, job.task.val)
            settings = {key: getattr(job.config, key) for key in ("dataset", "backbone", "shots", "seed")}
            if job.config.dataset == "folder":
                settings |= {"dataset_name": dataset_name(job.config)}
            settings |= {"trainer": job.config.prompt_trainer, "zero_shot_accuracy": job.task.zero_shot_accuracy}
            result = settings | job.run(folder, deadline)
            report(folder, result, len(job.task.test_samples))
            folder.finish(result)


def introduce(folder: Run, job: ZeroShot) -> None:
    """The opening lines."""
    for line in job.introduction():
        folder.log(line)
    for warning in job.warnings:
        folder.log(f"warning: {warning}")
    template = f"{job.config.template!r}" + (f" and {len(ENSEMBLE)} more" if job.config.ensemble else "")
    images = f"{template}, {len(job.task.test_samples)} test images"
    folder.log(f"Zero-shot accuracy: {job.task.zero_shot_accuracy:.2f}% ({images})")


def report(folder: Run, result: dict[str, Any], total: int) -> None:
    """The closing lines, the last five in the form that CoOp's result parser reads."""
    correct = round(result["test_accuracy"] / 100 * total)
    folder.log(f"{result['queries']:,} queries in {result['seconds']:.1f} s; {summary(result)}; results in {folder.path}")
    if result["test_accuracy"] < result["zero_shot_accuracy"]:
        folder.log("warning: the result is below zero-shot; try more shots, more queries or smaller steps (--zo_lr, --sigma)")
    folder.log("Finish training")
    folder.log("=> result")
    folder.log(f"* total: {total:,}")
    folder.log(f"* correct: {correct:,}")
    folder.log(f"* accuracy: {result['test_accuracy']:.2f}%")


def summary(result: dict[str, Any]) -> str:
    gain = result["test_accuracy"] - result["zero_shot_accuracy"]
    return f"zero-shot {result['zero_shot_accuracy']:.2f}% → {result['test_accuracy']:.2f}% ({gain:+.2f} points)"


def earlier_result(job: ZeroShot) -> str:
    from utils.run import read_result

    result = read_result(job.path)
    said = f" with {summary(result)}" if result else ""
    return f"{job.path}: finished already{said}; --overwrite runs it again"


if __name__ == "__main__":
    exit_process(main())
