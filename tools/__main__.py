"""Runs a command of tools/ from any directory: `python PATH/tools COMMAND …` is `python -m tools.COMMAND …` in the clone.

python PATH/tools sweep --datasets digits --dry-run
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def commands() -> list[str]:
    """A file directly in tools/, or a folder with a __main__.py, is a command."""
    files = [path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("__")]
    return sorted(files + [path.parent.name for path in FOLDER.glob("*/__main__.py")])


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in commands():
        asked = sys.argv[1] if len(sys.argv) > 1 else ""
        usage = f"usage: python {sys.argv[0]} COMMAND …, where COMMAND is one of {', '.join(commands())}"
        print(usage if asked in ("", "-h", "--help") else f"error: unknown command {asked!r}\n{usage}", file=sys.stderr)
        return 0 if asked in ("-h", "--help") else 2
    # `python PATH/tools` puts PATH/tools first; imports start at the root of the clone.
    sys.path[0] = str(FOLDER.parent)
    name = sys.argv.pop(1)
    runpy.run_module(f"tools.{name}", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
