"""Checks and downloads datasets, and prints few-shot lists.

    python -m tools.data check --root_path DATA [DATASET ...]           # all that exist, or those named
    python -m tools.data download eurosat dtd --root_path DATA
    python -m tools.data fewshot --config configs/eurosat.yaml --root_path DATA --shots 16 --seed 1 > list.json
    python -m tools.data document > DATASET.md

Exit status: 0 no problem, 1 the data has a problem or could not be fetched, 2 invalid arguments.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from datasets import DATASETS
from tools.common.cli import command, make_parser, print_utf8, user_path_text
from trainers import TRAINERS
from utils.config import FIELDS, Parser, load_config
from utils.errors import UserError

FEWSHOT_FLAGS = ("config", "dataset", "root_path", "shots", "seed", "short_classes", "split_file", "subsample_classes")


@command
def main(argv: list[str]) -> int:
    arguments = _parser().parse_args(argv)
    return {"check": _check, "download": _download, "fewshot": _fewshot, "document": _document}[arguments.job](arguments)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("tools.data", __doc__)
    jobs = parser.add_subparsers(dest="job", required=True, metavar="{check,download,fewshot,document}", parser_class=Parser)
    root: dict[str, Any] = {"type": user_path_text, "required": True}
    check = jobs.add_parser("check", help="list what is present and what is wrong with it", allow_abbrev=False)
    check.add_argument("datasets", nargs="*", metavar="DATASET", help="default: every dataset whose folder exists")
    check.add_argument("--root_path", **root, help="folder that holds the datasets, in CoOp's layout")
    check.add_argument(
        "--images",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="open every image (default), which finds damaged ones; --no-images only checks that they exist",
    )
    download = jobs.add_parser("download", help="fetch what has a scriptable source; never overwrites", allow_abbrev=False)
    download.add_argument("datasets", nargs="+", metavar="DATASET")
    download.add_argument("--root_path", **root, help="folder to put the datasets in, in CoOp's layout")
    fewshot = jobs.add_parser("fewshot", help="print a few-shot list as JSON; images need not exist", allow_abbrev=False)
    for name in FEWSHOT_FLAGS:
        fewshot.add_argument(f"--{name}", default=argparse.SUPPRESS, help=FIELDS[name].metadata["help"].replace("%", "%%"))
    jobs.add_parser("document", help="print DATASET.md", allow_abbrev=False)
    return parser


def _keys(given: list[str]) -> list[str]:
    aliases = {info.alias: key for key, info in DATASETS.items() if info.alias}
    keys = [aliases.get(name, name) for name in given]
    for key in keys:
        if key not in DATASETS:
            raise UserError(f"unknown dataset {key!r}; choose from {', '.join(DATASETS)}")
    return keys


def _check(arguments: argparse.Namespace) -> int:
    from tools.data.check import check

    return 0 if check(_keys(arguments.datasets), arguments.root_path, arguments.images) else 1


def _download(arguments: argparse.Namespace) -> int:
    from tools.data.check import check
    from tools.data.download import download

    keys = _keys(arguments.datasets)
    download(keys, arguments.root_path)
    return 0 if check(keys, arguments.root_path, open_images=False) else 1


def _fewshot(arguments: argparse.Namespace) -> int:
    from datasets.fewshot import choose_images, few_shot_document
    from datasets.roots import check_dataset
    from datasets.split import load_dataset
    from utils.seeds import sampling_generator

    flags = [text for name in FEWSHOT_FLAGS if name in arguments for text in (f"--{name}", getattr(arguments, name))]
    config = load_config(flags, TRAINERS, DATASETS)
    check_dataset(config.dataset, config.root_path, trains=True)
    dataset = load_dataset(config.dataset, config.root_path, ("train", "val"))
    options = config.short_classes, config.split_file, config.subsample_classes
    _, train, val = choose_images(dataset, config.shots, sampling_generator(config.seed), *options)
    print_utf8(json.dumps(few_shot_document(train, val), ensure_ascii=False) + "\n")
    return 0


def _document(arguments: argparse.Namespace) -> int:
    from tools.data.document import document

    print_utf8(document())
    return 0


if __name__ == "__main__":
    sys.exit(main())
