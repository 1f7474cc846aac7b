"""The one logger, "sharpzo": to the terminal without disturbing a progress bar, and to a run's log.txt."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from utils.files import with_filename, write_all

LOGGER = "sharpzo"
# failures that these libraries log reach the user as our own errors
LIBRARIES = ("open_clip", "PIL", "timm")


class ConsoleHandler(logging.Handler):
    """Prints above any progress bar. A full or closed standard output is an error, not silence."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stdout is not None:
            with with_filename("standard output"):
                tqdm.write(self.format(record))
                sys.stdout.flush()


class FileHandler(logging.Handler):
    """Appends to a file that is opened without a buffer, so that every line is on disk at once."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self._file = path.open("ab", buffering=0)

    def emit(self, record: logging.LogRecord) -> None:
        write_all(self._file, f"{self.format(record)}\n".encode(errors="backslashreplace"), self.path)

    def close(self) -> None:
        self._file.close()
        super().close()


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[logging.Logger]:
    """The logger, which prints its lines and appends them to `path`. Raises OSError if the file cannot be opened."""
    logger = logging.getLogger(LOGGER)
    level, propagate = logger.level, logger.propagate
    handlers = (ConsoleHandler(), FileHandler(path))
    logger.setLevel(logging.INFO)
    # an application's own root handlers would print every line a second time
    logger.propagate = False
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield logger
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
        logger.level, logger.propagate = level, propagate


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silences the log output of image and model libraries. The root logger's level and handlers do not change."""

    def is_ours(record: logging.LogRecord) -> bool:
        return not any(f"{name}/" in record.pathname.replace("\\", "/") for name in LIBRARIES)

    loggers = [logging.getLogger(name) for name in LIBRARIES]
    levels = [logger.level for logger in loggers]
    root = logging.getLogger()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    # open_clip calls logging.warning, which goes to the root logger itself
    root.addFilter(is_ours)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        root.removeFilter(is_ours)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
