"""Draws the icon sets of the npm package @iconify/json and cuts the bundled few-shot sets from those that are held out.

    npm pack @iconify/json@2.2.535 && tar xzf iconify-json-2.2.535.tgz
    pip install resvg-py==0.5.0
    python -m tools.maintain.build_icons draw package drawn        # every set at 32 × 32: about 3 minutes on one core
    python -m tools.maintain.build_icons cut package drawn         # writes datasets/icons/: the sets, LICENSES.md, hashes

`icon_sets.yaml` next to this file lists the held-out sets and the classes. With the versions above, the files are equal to those
in the repository byte for byte. `cut --dry-run` only counts.
"""

from __future__ import annotations

import argparse
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tools.common.cli import user_path
from tools.maintain.icon_classes import LEAST_TEST, VAL_SHOTS, Cut, cut_set, cut_shift
from tools.maintain.icon_pictures import Picture, draw, permitted_prefixes, read_pictures, read_rules

# long enough that a collision among all pairs of pictures is unlikely (about 1%)
HASH_BYTES = 5
OUTPUT = Path(__file__).resolve().parents[2] / "datasets" / "icons"


def encode(pixels: np.ndarray) -> bytes:
    """RGBA pixels (H, W, 4) on white, as lossless WebP."""
    opacity = pixels[..., 3:].astype(np.float64) / 255
    rgb = (pixels[..., :3] * opacity + 255 * (1 - opacity)).round().astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "WEBP", lossless=True, quality=100, method=6)
    return stream.getvalue()


def write_set(path: Path, cut: Cut, drawn: Path) -> None:
    """The file that `datasets.icons` reads."""
    from safetensors.numpy import save

    rows = [(part, label, p) for part, items in enumerate((cut.train, cut.val, cut.test)) for p, label in items]
    pixels = {prefix: np.load(drawn / f"{prefix}.npz")["x"] for prefix in {p.prefix for _, _, p in rows}}
    pictures = [encode(pixels[p.prefix][p.position]) for _, _, p in rows]
    tensors: dict[str, np.ndarray] = {
        "pictures": np.frombuffer(b"".join(pictures), np.uint8),
        "ends": np.cumsum([len(picture) for picture in pictures], dtype=np.int64),
        "labels": np.array([label for _, label, _ in rows], np.int16),
        "parts": np.array([part for part, _, _ in rows], np.uint8),
        "hashes": hash_rows(p.hash for _, _, p in rows),
        "sources": np.frombuffer("\n".join(p.path for _, _, p in rows).encode(), np.uint8),
    }
    path.write_bytes(save(tensors, metadata={"classes": json.dumps(cut.classes)}))


def licenses_document(package: Path, used: Counter[str]) -> str:
    """LICENSES.md: author, license and source of every icon set from which a bundled picture comes."""
    collections = json.loads((package / "collections.json").read_text())
    version = json.loads((package / "package.json").read_text())["version"]
    rows = []
    for prefix, count in sorted(used.items()):
        info = collections[prefix]
        author, terms = info["author"], info["license"]
        name = f"[{author['name']}]({author['url']})" if author.get("url") else author["name"]
        license_name = f"[{terms['title']}]({terms['url']})" if terms.get("url") else terms["title"]
        rows.append(f"| `{prefix}` | {info['name']} | {name} | {license_name} ({terms['spdx']}) | {count} |")
    return LICENSES_INTRODUCTION.format(version=version) + "\n".join(rows) + "\n"


LICENSES_INTRODUCTION = """# Authors and licenses of the bundled pictures

Written by `python -m tools.maintain.build_icons cut`. The pictures were drawn at 32 × 32 pixels on white from the npm package
[`@iconify/json`](https://www.npmjs.com/package/@iconify/json) {version}, which collects icon sets from their authors and records
what is listed here. They were not changed otherwise. A picture of a set under a CC BY-SA license is passed on under that license.
Logos remain trademarks of their owners.

| prefix | icon set | author | license | pictures |
|---|---|---|---|---|
"""


def cut_all(package: Path, drawn: Path, output: Path, dry_run: bool) -> None:
    """Cuts, counts and writes every set and shift of `icon_sets.yaml`."""
    rules = read_rules()
    groups: dict[str, list[str]] = rules["held_out"]
    held_out = {prefix for prefixes in groups.values() for prefix in prefixes}
    training = [prefix for prefix in permitted_prefixes(package, rules["refused_licenses"]) if prefix not in held_out]
    seen = {picture.hash for prefix in training for picture in read_pictures(package, drawn, prefix)}
    held = {prefix: read_pictures(package, drawn, prefix) for prefix in sorted(held_out)}

    def pictures_of(rule: dict[str, Any]) -> Iterator[Picture]:
        for group in rule.get("sets", groups):
            for prefix in groups[group]:
                yield from held[prefix]

    cuts: dict[str, Cut] = {}
    first: set[bytes] = set()
    for name, rule in rules["sets"].items():
        cuts[name] = cut_set(pictures_of(rule), rule, rules["family_of"], seen, first)
        if name == rules["source"]:
            first = {p.hash for p, _ in (*cuts[name].train, *cuts[name].val)}
    for name, rule in rules["shifts"].items():
        cuts[name] = cut_shift(pictures_of(rule), rule, rules["sets"][rules["source"]], seen)
    used: Counter[str] = Counter()
    for name, cut in cuts.items():
        print(describe(name, cut, rules["sets"].get(name)), flush=True)
        used.update(p.prefix for p, _ in (*cut.train, *cut.val, *cut.test))
        if not dry_run:
            output.mkdir(parents=True, exist_ok=True)
            write_set(output / f"{name}.safetensors", cut, drawn)
    if not dry_run:
        (output / "LICENSES.md").write_text(licenses_document(package, used))
        write_hashes(output / "training_hashes.safetensors", seen)


def write_hashes(path: Path, seen: set[bytes]) -> None:
    """The shortened hash of every picture outside the held-out sets, sorted: (n, HASH_BYTES) uint8."""
    from safetensors.numpy import save

    rows = hash_rows(seen)
    path.write_bytes(save({"hashes": np.unique(rows, axis=0)}))


def hash_rows(hashes: Iterable[bytes]) -> np.ndarray:
    """The first HASH_BYTES of each hash, (n, HASH_BYTES) uint8."""
    return np.frombuffer(b"".join(digest[:HASH_BYTES] for digest in hashes), np.uint8).reshape(-1, HASH_BYTES).copy()


def describe(name: str, cut: Cut, rule: dict[str, Any] | None) -> str:
    """One line of counts, and a second line if a class has fewer pictures than the rule requires."""
    line = f"{name}: {len(cut.classes)} classes, train {len(cut.train)}, val {len(cut.val)}, test {len(cut.test)}"
    least = {"train": rule["shots"], "val": VAL_SHOTS, "test": LEAST_TEST} if rule else {}
    short = []
    for part, required in least.items():
        counts = Counter(label for _, label in getattr(cut, part))
        short += [f"{cut.classes[i]} {part} {counts[i]}" for i in range(len(cut.classes)) if counts[i] < required]
    return line + (f"\n    too few: {', '.join(short)}" if short else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(dest="job", required=True)
    for job, text in (("draw", "draw every permitted set"), ("cut", "write the few-shot sets, licenses and hashes")):
        command = jobs.add_parser(job, help=text)
        command.add_argument("package", type=user_path, help="the unpacked npm package")
        command.add_argument("drawn", type=user_path, help="folder of the drawn sets")
        if job == "cut":
            command.add_argument("--output", type=user_path, default=OUTPUT)
            command.add_argument("--dry-run", action="store_true", help="count only")
    args = parser.parse_args()
    if args.job == "draw":
        draw(args.package, args.drawn)
    else:
        cut_all(args.package, args.drawn, args.output, args.dry_run)


if __name__ == "__main__":
    main()
