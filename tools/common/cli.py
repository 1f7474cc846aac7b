"""What every command shares: its parser, errors in one line with their exit status, and output on any terminal."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils.config import Parser
from utils.errors import RunError, UserError
from utils.terminal import encode_anything

INTERRUPTED = 130

Body = Callable[[list[str]], int]
Main = Callable[..., int]


def make_parser(name: str, description: str | None, **options: Any) -> Parser:
    """The parser of `python -m NAME`: keeps the layout of the description and accepts no abbreviated flags."""
    style = argparse.RawDescriptionHelpFormatter
    return Parser(prog=f"python -m {name}", description=description, formatter_class=style, allow_abbrev=False, **options)


def command(body: Body) -> Main:
    """`body(argv)` as a main function with `argv=None` for the command line.

    UserError becomes one line and exit status 2; RunError and OSError become one line and exit status 1.
    """

    @functools.wraps(body)
    def main(argv: list[str] | None = None) -> int:
        encode_anything()
        try:
            return body(sys.argv[1:] if argv is None else argv)
        except (UserError, RunError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2 if isinstance(error, UserError) else 1
        except BrokenPipeError:
            # The reader, such as `head`, has gone; without this, Python reports the failed flush at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except OSError as error:
            print(f"error: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("error: interrupted", file=sys.stderr)
            return INTERRUPTED

    return main


def user_path(text: str) -> Path:
    """A path argument; a leading ~ is the home folder, also where no shell expands it (--output=~/x)."""
    return Path(text).expanduser()


def user_path_text(text: str) -> str:
    """The same as text, for a setting that is passed on to runs."""
    return str(user_path(text)) if text.startswith("~") else text


def print_utf8(text: str) -> None:
    """Prints data rather than messages: always UTF-8, since another program or a file reads it."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", errors="strict")
    print(text, end="")
