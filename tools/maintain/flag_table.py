"""Prints the table of flags in README.md from the settings themselves.

python -m tools.maintain.flag_table
"""

from __future__ import annotations

from datasets import DATASETS
from tools.common.tables import Table
from trainers import TRAINERS
from utils.config import FIELDS


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
            text += "; " + "; ".join(f"`{key}`: {trainer.help}" for key, trainer in TRAINERS.items())
        if name == "dataset":
            text += ": " + ", ".join(DATASETS)
        flag = f"`--{name}`" if meta["kind"] is not bool else f"`--{name}`, `--no-{name}`"
        default = "" if field.default in (None, "") else f"`{field.default}`"
        table.rows.append([flag, default, text])
    return table.grid()


if __name__ == "__main__":
    print(flag_table())
