"""How a run ends: its exit status, and the one line that says why it is not 0."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable

from utils.errors import RunError, UserError
from utils.interrupt import Interrupted
from utils.ranks import follows
from utils.settings import Config
from utils.terminal import encode_anything


def exit_status(load: Callable[[], Config], work: Callable[[Config], None]) -> int:
    """Does `work` under the settings that `load` gives, and returns the exit status; a reason goes to standard error.

    0: finished. 1: the run failed. 2: invalid arguments or data. 3: interrupted; the same command resumes it.
    """
    # a class name that the terminal cannot encode must not end the run
    encode_anything()
    status, reason = _attempt(load, work)
    if reason:
        # the terminal may be closed
        with contextlib.suppress(OSError):
            print(reason, file=sys.stderr)
    return status


def _attempt(load: Callable[[], Config], work: Callable[[Config], None]) -> tuple[int, str]:
    config = None
    try:
        config = load()
        work(config)
    except (UserError, RunError) as error:
        quiet = follows() if error.quiet is None else error.quiet
        return 2 if isinstance(error, UserError) else 1, "" if quiet else f"error: {error}"
    except OSError as error:
        again = f"; then {_to_resume(config)}" if config else ""
        return 1, f"error: {error.filename or 'output'}: {error.strerror or error}{again}"
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
        return 1, "error: the system starts no more threads (ulimit -u, or the container's limit); raise it, or use --threads 1"
    except KeyboardInterrupt as reason:
        step = reason.step if isinstance(reason, Interrupted) else None
        after = "" if step is None else f" after step {step:,}"
        return 3, "" if follows() else f"interrupted ({str(reason) or 'SIGINT'}){after}: {_to_resume(config)}"
    return 0, ""


def _to_resume(config: Config | None) -> str:
    without = " without --overwrite" if config and config.overwrite else ""
    return f"run the same command{without} to resume"


def exit_process(status: int) -> None:
    """Ends the process with `status`, also where standard output cannot take what is still buffered."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = status or 1
    sys.exit(status)
