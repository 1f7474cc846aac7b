"""Prints docs/flags.md, the page of flags, from the settings themselves.

python -m tools.maintain.flag_table > docs/flags.md
"""

from __future__ import annotations

from datasets import DATASETS
from tools.common.tables import Table
from trainers import TRAINERS
from utils.config import FIELDS, default_text

PAGE = """# Flags

Written by `python -m tools.maintain.flag_table > docs/flags.md` from the settings; edit the help texts in `utils/settings.py`.

Every flag is also a YAML key.
Precedence, weakest first: defaults, a trainer's own defaults, the YAML, the YAML's section for the trainer, the command line.
Inside a trainer's section a value may depend on the shots: `{1: 2000, 4: 4000}` means 2000 for 1 to 3 shots, and 4000 from 4 on.
`python main_sharpzo.py --help` prints the same list. [methods.md](methods.md) describes the values of `--prompt_trainer`.
"""


def flag_table() -> str:
    """One Markdown row per setting, in the order of Config."""
    table = Table("Flags", ["flag", "default", "what"])
    group = ""
    for name, field in FIELDS.items():
        meta = field.metadata
        if meta["group"] != group:
            group = meta["group"]
            table.rows.append([f"**{group}**", "", ""])
        text = meta["help"]
        if "choices" in meta:
            text += f" ({', '.join(meta['choices'])})"
        if name == "prompt_trainer":
            text += ": " + ", ".join(f"`{key}`" for key in TRAINERS)
        if name == "dataset":
            text += ": " + ", ".join(DATASETS)
        flag = f"`--{name}`" if meta["kind"] is not bool else f"`--{name}`, `--no-{name}`"
        default, *shipped = default_text(name).split("; ")
        default = "; ".join([f"`{default}`" if default and FIELDS[name].default not in (None, "") else default, *shipped])
        table.rows.append([flag, default, text])
    return table.grid()


def page() -> str:
    return f"{PAGE}\n{flag_table()}\n"


if __name__ == "__main__":
    print(page(), end="")
