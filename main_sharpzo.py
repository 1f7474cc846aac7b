"""SharpZO: tunes the prompt of a frozen CLIP by forward passes only.

    python main_sharpzo.py                                                    # the embedded default: digits, Mini CLIP
    python main_sharpzo.py --config configs/eurosat.yaml --root_path DATA --backbone ViT-B/16 --shots 16 --seed 1
    python main_sharpzo.py --dataset eurosat --root_path DATA --prompt_trainer zero-shot

    torchrun --nproc_per_node=4 main_sharpzo.py --threads 1                   # one run on several ranks (docs/scale.md)

Exit status: 0 finished; 1 the run failed; 2 invalid arguments or data; 3 interrupted, the same command resumes it.
"""

from __future__ import annotations

import math
import sys

from datasets import DATASETS
from datasets.roots import check_dataset
from trainers import TRAINERS
from utils.checks import check_paths, check_ranks
from utils.config import load_config
from utils.device import arithmetic, device_name, pick_device
from utils.exits import exit_process, exit_status
from utils.interrupt import Deadline, interruptible
from utils.log import quiet_libraries
from utils.loggers import opened, require_packages
from utils.memory import explain_oom
from utils.ranks import Ranks, joined, resumed_by_launcher, world_size
from utils.settings import Config


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    return exit_status(lambda: resumed_by_launcher(load_config(arguments, TRAINERS, DATASETS, epilog=__doc__)), start)


def start(config: Config) -> None:
    """Checks what can be checked before anything heavy is imported, then runs under the clock, the signals and the ranks."""
    check_ranks(config, world_size(), TRAINERS)
    check_paths(config)
    require_packages(config)
    check_dataset(config.dataset, config.root_path, trains=TRAINERS[config.prompt_trainer].trains)
    with (
        interruptible(config.max_seconds or math.inf) as deadline,
        arithmetic(config),
        quiet_libraries(),
        joined(config) as ranks,
    ):
        run(config, ranks.deadline(deadline), ranks)


def run(config: Config, deadline: Deadline, ranks: Ranks) -> None:
    """One run: data → CLIP → features → prompt → optimizer → report."""
    from datasets.fewshot import write_split
    from trainers.confusion import require_matplotlib, write_again, write_confusion
    from trainers.jobs import make_job
    from trainers.report import earlier_result, introduce, report
    from utils.inputs import refuse_other_inputs, same_run_elsewhere
    from utils.lock import refuse_locked
    from utils.run import Run, find_earlier_run, remove_checkpoint

    if config.confusion:
        require_matplotlib()
    device = pick_device(config.device)
    job = make_job(config, device, ranks)
    earlier = ranks.decide(lambda: find_earlier_run(job.path, job.config))
    if earlier == "finished":
        if ranks.rank == 0:
            # left behind if a run was killed during cleanup
            remove_checkpoint(job.path)
            if config.confusion:
                write_again(job)
            print(earlier_result(job))
        return
    ranks.decide(lambda: refuse_locked(job.path))
    with explain_oom(job.config, device) as lower:
        # nothing is written before this has succeeded, so that what is refused leaves no folder
        job.prepare(lower)
        digests = job.digests()
        ranks.require_equal(dict(zip(("the digest of the weights", "that of the data"), digests.values(), strict=True)))
        if earlier != "nothing":
            ranks.decide(lambda: refuse_other_inputs(job.path, digests, finished=earlier == "finished elsewhere"))
        if earlier == "finished elsewhere":
            if ranks.rank == 0:
                if config.confusion:
                    write_again(job)
                print(earlier_result(job))
            return
        if ranks.rank > 0:
            job.follow(deadline)
            return
        elsewhere = same_run_elsewhere(job.path, job.config, digests) if earlier == "nothing" else None
        with Run(job.path, job.config, {"device": device_name(device), **digests}) as folder:
            introduce(folder, job, *([elsewhere] if elsewhere else []))
            write_split(folder.path / "split.json", job.task.train, job.task.val)
            with opened(job.config, folder.path, folder.log) as loggers:
                result = job.settings() | job.run(folder, deadline, loggers) | {"classes": job.predictions.rows()}
                loggers.finish({key: result[key] for key in ("zero_shot_accuracy", "test_accuracy")})
            if config.confusion:
                write_confusion(folder.path, job.predictions.confusion().numpy(), job.predictions.classnames)
            report(folder, result, len(job.task.test_samples))
            folder.finish(result)


if __name__ == "__main__":
    exit_process(main())
