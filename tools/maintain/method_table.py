"""Prints the table of methods in docs/methods.md from the registry of trainers.

python -m tools.maintain.method_table
"""

from __future__ import annotations

from typing import NamedTuple

from tools.common.tables import Table
from trainers import TRAINERS, TrainerInfo


class Facts(NamedTuple):
    """What the registry does not record: a method's paper, and its queries per step in the symbols of docs/methods.md."""

    paper: str
    queries: str


FACTS = {
    "sharpzo": Facts("Yang et al., NeurIPS 2025", "2d + S; then 2q, and 2d for a mask"),
    "zo": Facts("Yang et al., NeurIPS 2025", "2d + S; then 2q"),
    "cma-es": Facts("Yang et al., NeurIPS 2025", "2d + S"),
    "sharpzo+": Facts("–", "S; then N + 1"),
    "fo": Facts("–", "1"),
    "bbt": Facts("as in CraFT, ICML 2024", "S = 40"),
    "zip": Facts("ICLR 2025", "10"),
    "zip-20k": Facts("ICLR 2025", "10"),
    "coop": Facts("Zhou et al., IJCV 2022", "1"),
    "craft": Facts("Wang et al., ICML 2024", "40 + mini-batches"),
    "blackvip": Facts("CVPR 2023", "10"),
    "bpt-vlm": Facts("IJCAI 2023", "S = 30"),
    "tip-adapter": Facts("Zhang et al., ECCV 2022", "0"),
    "linear-probe": Facts("–", "0"),
    "mezo": Facts("Malladi et al. 2023", "2q"),
    "sparse-mezo": Facts("Liu et al. 2024", "2q"),
    "cge": Facts("estimator of DeepZero, Chen et al. 2023", "2k, or k + 1"),
    "zo-sign": Facts("Liu et al. 2019", "2q"),
    "zo-momentum": Facts("Zhang et al. 2024", "2q"),
    "zo-adam": Facts("Zhang et al. 2024", "2q"),
    "zo-conservative": Facts("Zhang et al. 2024", "2q + 3"),
    "forward-gradient": Facts("Baydin et al. 2022", "q (tangents)"),
    "lozo": Facts("Chen et al. 2024", "2"),
    "polystep": Facts("Le 2026", "2d per particle"),
    "rank-sgd": Facts("Tang, Rybin and Chang 2023", "m + n"),
    "sep-cma": Facts("Ros and Hansen 2008", "S"),
    "spsa": Facts("Spall 1992", "2q"),
    "adam-cge": Facts("Kingma and Ba 2015", "2d"),
    "lbfgs": Facts("Liu and Nocedal 1989", "2d + 1, or d + 1"),
    "openai-es": Facts("Salimans et al. 2017", "2n"),
    "plain-cma": Facts("Hansen 2016", "4 + ⌊3 ln d⌋"),
    "fzoo": Facts("arXiv 2506.09034", "N + 1"),
    "r-adazo": Facts("arXiv 2502.01014", "K + 1"),
    "conmezo": Facts("AISTATS 2026, arXiv 2511.02757", "2"),
    "curvzo": Facts("arXiv 2603.21725", "2"),
    "zoar": Facts("arXiv 2506.14460", "K"),
    "guided-es": Facts("Maheswaranathan et al. 2018", "2P"),
    "zosa": Facts("arXiv 2511.09156", "2(m + 1)"),
    "zest": Facts("arXiv 2510.16157", "2k"),
    "loren": Facts("AAAI 2026, arXiv 2511.07971", "K"),
    "bszo": Facts("arXiv 2601.01452", "k + 1"),
    "zero-shot": Facts("Radford et al. 2021", "0"),
    "saved": Facts("–", "0"),
}


SEARCHED = {
    "trainers.blackbox.problem:projected_prompt": "projected context",
    "trainers.baselines.zip:problem": "low-rank context",
    "trainers.baselines.coop:problem": "context",
    "trainers.baselines.craft:problem": "projected context, adapter",
    "trainers.baselines.blackvip.problem:problem": "pixels' prompt",
    "trainers.baselines.bpt_vlm:problem": "context, image tokens",
    "trainers.references.tip_adapter:problem": "α, β of a cache",
    "trainers.references.linear_probe:problem": "linear classifier",
}
GROUPS = {
    "trainers.sharpzo": "SharpZO",
    "trainers.baselines": "baselines",
    "trainers.references": "references without prompts",
    "trainers.zeroth_order": "zeroth-order optimizers",
    "": "nothing trained",
}


def method_table() -> str:
    """One Markdown row per trainer, by group, in the order of the registry."""
    table = Table(
        "Methods", ["method", "`--prompt_trainer`", "what it does", "searches", "queries per step", "own defaults", "paper"]
    )
    for group, heading in GROUPS.items():
        table.rows.append([f"**{heading}**", *[""] * 6])
        for key, info in TRAINERS.items():
            if group_of(info) == group:
                facts = FACTS[key]
                names = ", ".join(f"`{name}`" for name in (key, *info.aliases))
                table.rows.append([info.title, names, info.help, searched(info), facts.queries, own_defaults(info), facts.paper])
    return table.grid()


def group_of(info: TrainerInfo) -> str:
    """The key of GROUPS that a trainer belongs to: where its problem, or else its optimizer, is defined."""
    prefixes = [prefix for prefix in GROUPS if prefix]
    return next((p for p in prefixes if info.trains and (info.problem.startswith(p) or info.build.startswith(p))), "")


def searched(info: TrainerInfo) -> str:
    return "context matrix" if info.matrix else SEARCHED[info.problem] if info.trains else "–"


def own_defaults(info: TrainerInfo) -> str:
    """The settings for which a trainer's defaults differ from docs/flags.md."""
    by_shots = {name: f"{max(values.values()):,}, fewer at few shots" for name, values in info.by_shots.items()}
    shown = {name: shown_value(value) for name, value in info.defaults.items()} | by_shots
    return "; ".join(f"`{name}` {value}" for name, value in shown.items())


def shown_value(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int):
        return "unlimited" if value == 10**9 else f"{value:,}"
    return str(value) or "empty"


if __name__ == "__main__":
    print(method_table())
