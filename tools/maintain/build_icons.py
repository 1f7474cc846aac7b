"""Draws the icon sets of the npm package @iconify/json and cuts the bundled few-shot sets from those that are held out.

    npm pack @iconify/json@2.2.535 && tar xzf iconify-json-2.2.535.tgz
    pip install resvg-py==0.5.0
    python -m tools.maintain.build_icons draw package drawn        # every set at 32 × 32: about 3 minutes on one core
    python -m tools.maintain.build_icons cut package drawn         # writes datasets/icons/: the sets, LICENSES.md, hashes

`icon_sets.yaml` beside this file says which sets are held out and what the classes are. With the versions above the files come out
byte for byte as they are in the repository. `cut --dry-run` only counts.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from tools.maintain.icon_names import affixes, parse_name, without_skin_tone

RULES = Path(__file__).with_name("icon_sets.yaml")
OUTPUT = Path(__file__).resolve().parents[2] / "datasets" / "icons"
SIDE = 32
# a picture that is nowhere more opaque than this (of 255) is blank: an animation's first frame, or a font that is not there
FAINTEST = 40
# colors of one picture that differ by less (of 255) are one color
SAME_COLOR = 16
VAL_SHOTS = 4
LEAST_TEST = 10


@dataclass(frozen=True)
class Picture:
    """One icon: where it is from, what its name and its set's categories say, and what it looks like.

    `hash`: 8 bytes of the SHA-256 of its pixels; of its opacity alone where it has one color, so that a drawing has one hash in
    black, white and blue.
    """

    prefix: str
    name: str
    position: int
    subject: str
    manner: str
    category: str
    hash: bytes

    @property
    def path(self) -> str:
        return f"{self.prefix}/{self.name}"


def read_rules() -> dict[str, Any]:
    return yaml.safe_load(RULES.read_text())


def permitted_prefixes(package: Path, refused: Iterable[str]) -> list[str]:
    """The icon sets whose SPDX license names none of `refused`, sorted."""
    collections = json.loads((package / "collections.json").read_text())
    licenses = {prefix: info["license"].get("spdx", "") for prefix, info in collections.items()}
    return sorted(p for p, spdx in licenses.items() if spdx and not any(word in spdx for word in refused))


def draw_icon(document: dict, icon: dict) -> np.ndarray | None:
    """The icon centered on a transparent square, (SIDE, SIDE, 4) uint8 RGBA; None where it is blank or cannot be drawn."""
    import resvg_py

    def value(key: str, default: float) -> float:
        return icon.get(key, document.get(key, default))

    width, height = value("width", 16), value("height", 16)
    side = max(width, height)
    left, top = value("left", 0) - (side - width) / 2, value("top", 0) - (side - height) / 2
    still = re.sub(r"<animate[^>]*?/>|<set [^>]*?/>", "", icon["body"]).replace("currentColor", "#000")
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{SIDE}" height="{SIDE}" viewBox="{left} {top} {side} {side}">{still}</svg>'
    )
    try:
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True))
    except ValueError:
        return None
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))
    return pixels if pixels.shape == (SIDE, SIDE, 4) and pixels[..., 3].max() >= FAINTEST else None


def draw(package: Path, drawn: Path) -> None:
    """One file for each permitted set: `x` (n, SIDE, SIDE, 4) uint8 and `names`. Files that are there are kept."""
    drawn.mkdir(parents=True, exist_ok=True)
    for prefix in permitted_prefixes(package, read_rules()["refused_licenses"]):
        path = drawn / f"{prefix}.npz"
        if path.exists():
            continue
        document = json.loads((package / "json" / f"{prefix}.json").read_text())
        shown = {name: icon for name, icon in document["icons"].items() if not icon.get("hidden")}
        pictures = {name: pixels for name, icon in shown.items() if (pixels := draw_icon(document, icon)) is not None}
        part = path.with_suffix(".part.npz")
        np.savez(part, x=np.stack(list(pictures.values())), names=np.array(list(pictures)))
        part.rename(path)
        print(f"{prefix}: {len(pictures)} drawn, {len(shown) - len(pictures)} blank or broken", flush=True)


def has_one_color(pixels: np.ndarray) -> bool:
    """Whether what can be seen of `pixels` (H, W, 4) has one color."""
    colors = pixels[..., :3][pixels[..., 3] > 8].astype(int)
    return not len(colors) or int((colors.max(0) - colors.min(0)).max()) <= SAME_COLOR


def picture_hash(pixels: np.ndarray) -> bytes:
    """See `Picture.hash`."""
    opacity = pixels[..., 3]
    seen = opacity if has_one_color(pixels) else np.where(opacity[..., None] > 0, pixels, 0)
    return hashlib.sha256(np.ascontiguousarray(seen).tobytes()).digest()[:8]


def read_pictures(package: Path, drawn: Path, prefix: str) -> list[Picture]:
    """All pictures of one set, in its order."""
    document = json.loads((package / "json" / f"{prefix}.json").read_text())
    suffixes, prefixes = affixes(document, "suffixes"), affixes(document, "prefixes")
    category: dict[str, str] = {}
    for words, names in (document.get("categories") or {}).items():
        for name in names:
            category.setdefault(name, words)
    with np.load(drawn / f"{prefix}.npz") as file:
        pixels, names = file["x"], file["names"].tolist()
    return [
        Picture(prefix, name, i, *parse_name(name, suffixes, prefixes), category.get(name, ""), picture_hash(pixels[i]))
        for i, name in enumerate(names)
    ]


# ------ classes


def subject_rule(rule: dict) -> Callable[[Picture], str | None]:
    """A class is a list of subjects, its own name among them."""
    class_of = {subject: name for name, others in reversed(rule["classes"].items()) for subject in (*(others or ()), name)}
    return lambda picture: class_of.get(without_skin_tone(picture.subject))


def ending_rule(rule: dict) -> Callable[[Picture], str | None]:
    """As `subject_rule`, but up to two words may stand before: some sets begin a name with the words of a category."""
    exact = subject_rule(rule)
    class_of = {subject: name for name, others in reversed(rule["classes"].items()) for subject in (*(others or ()), name)}

    def find(picture: Picture) -> str | None:
        words = picture.subject.split()
        endings = (" ".join(words[start:]) for start in range(1, min(3, len(words))))
        return exact(picture) or next((class_of[ending] for ending in endings if ending in class_of), None)

    return find


def words_rule(rule: dict) -> Callable[[Picture], str | None]:
    """A class is a bag of words; `same_words` are read as others."""
    class_of = {tuple(sorted(name.split())): name for name in rule["classes"]}
    same = rule["same_words"]
    return lambda picture: class_of.get(tuple(sorted(same.get(word, word) for word in picture.subject.split())))


def last_word_rule(rule: dict) -> Callable[[Picture], str | None]:
    """A class is the second of two words: what is added to a thing."""
    class_of = {word: name for name, words in rule["classes"].items() for word in words}

    def find(picture: Picture) -> str | None:
        words = picture.subject.split()
        return class_of.get(words[1]) if len(words) == 2 and words[0] not in rule["not_first"] else None

    return find


def manner_rule(rule: dict) -> Callable[[Picture], str | None]:
    """A class is a manner of drawing: for some sets, a pattern that names of icons in that manner fit."""
    patterns: dict[str, list[tuple[re.Pattern, str]]] = defaultdict(list)
    for name, sets in rule["classes"].items():
        for prefix, pattern in sets.items():
            patterns[prefix].append((re.compile(pattern), name))
    return lambda picture: next((name for pattern, name in patterns[picture.prefix] if pattern.search(picture.name)), None)


def category_rule(rule: dict) -> Callable[[Picture], str | None]:
    """A class unites categories that the authors of sets file their icons under."""
    class_of = {category: name for name, categories in rule["classes"].items() for category in categories}
    return lambda picture: class_of.get(picture.category.lower())


RULE_KINDS = {
    "subject": subject_rule,
    "ending": ending_rule,
    "words": words_rule,
    "last word": last_word_rule,
    "manner": manner_rule,
    "category": category_rule,
}


# ------ few-shot parts


@dataclass(frozen=True)
class Cut:
    """One few-shot set: its classes, and (picture, label) for each part."""

    classes: tuple[str, ...]
    train: list[tuple[Picture, int]]
    val: list[tuple[Picture, int]]
    test: list[tuple[Picture, int]]


def order_of(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def drawing_of(picture: Picture, family_of: dict[str, str]) -> str:
    """What pictures that show one drawing share: its family of sets and its subject."""
    return f"{family_of.get(picture.prefix, picture.prefix)}/{without_skin_tone(picture.subject)}"


def choose_pictures(pictures: Iterable[Picture], rule: dict, seen: set[bytes]) -> dict[str, list[Picture]]:
    """The pictures of each class: none that looks like one of `seen`, none twice, and at most `per_set` of one icon set."""
    class_of = RULE_KINDS[rule["rule"]](rule)
    candidates: dict[str, list[Picture]] = {name: [] for name in rule["classes"]}
    for picture in pictures:
        name = class_of(picture)
        if name is not None and picture.hash not in seen:
            candidates[name].append(picture)
    taken: set[bytes] = set()
    chosen: dict[str, list[Picture]] = {}
    for name, group in candidates.items():
        per_set: Counter[str] = Counter()
        drawings: set[tuple[str, str]] = set()
        chosen[name] = []
        for picture in sorted(group, key=lambda p: order_of(p.path)):
            tone = (picture.prefix, without_skin_tone(picture.subject))
            # an emoji that is drawn for each color of skin counts once
            if picture.hash in taken or per_set[picture.prefix] >= rule["per_set"] or (rule["rule"] == "category" and tone in drawings):
                continue
            taken.add(picture.hash)
            drawings.add(tone)
            per_set[picture.prefix] += 1
            chosen[name].append(picture)
    return chosen


def split_class(pictures: list[Picture], rule: dict, family_of: dict[str, str], first: set[bytes]) -> tuple[list, list, list]:
    """Train, val and test of one class. Pictures of one drawing stay together; those in `first` go to training.

    Drawings come in an order that a hash decides. Training gets `shots` pictures, then the test part LEAST_TEST, validation
    VAL_SHOTS; of the rest, training gets a quarter, validation a tenth, the test part what remains, up to the set's limits.
    """
    drawings: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        drawings[drawing_of(picture, family_of)].append(picture)
    parts: tuple[list[Picture], ...] = ([], [], [])
    total = len(pictures)
    spare = max(0, total - rule["shots"] - VAL_SHOTS - LEAST_TEST)
    wanted = [
        min(rule["shots"] + spare // 4, rule.get("most_train", 40)),
        min(VAL_SHOTS + spare // 10, 8),
        rule.get("most_test", 60),
    ]

    def forced(key: str) -> bool:
        return any(picture.hash in first for picture in drawings[key])

    for key in sorted(drawings, key=lambda key: (not forced(key), order_of(key))):
        room = [want - len(part) for want, part in zip(wanted, parts, strict=True)]
        into = 0 if room[0] > 0 else 1 if room[1] > 0 else 2
        if forced(key) and into:
            continue
        parts[into].extend(drawings[key][: max(room[into], 0)])
    return parts


def cut_set(pictures: Iterable[Picture], rule: dict, family_of: dict[str, str], seen: set[bytes], first: set[bytes]) -> Cut:
    parts: tuple[list[tuple[Picture, int]], ...] = ([], [], [])
    for label, group in enumerate(choose_pictures(pictures, rule, seen).values()):
        for part, chosen in zip(parts, split_class(group, rule, family_of, first), strict=True):
            part += [(picture, label) for picture in chosen]
    return Cut(tuple(rule["classes"]), *parts)


def cut_shift(pictures: Iterable[Picture], rule: dict, source: dict, seen: set[bytes]) -> Cut:
    """Test pictures only: the names of another set drawn by the sets that `rule` names, where there are `least` of a name."""
    chosen = choose_pictures(pictures, {**source, "rule": "ending", "per_set": rule["per_set"]}, seen)
    names = [name for name, group in chosen.items() if len(group) >= rule["least"]]
    test = [(picture, label) for label, name in enumerate(names) for picture in chosen[name][: rule["most_test"]]]
    return Cut(tuple(names), [], [], test)


# ------ files


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
    tensors = {
        "pictures": np.frombuffer(b"".join(pictures), np.uint8),
        "ends": np.cumsum([len(picture) for picture in pictures], dtype=np.int64),
        "labels": np.array([label for _, label, _ in rows], np.int16),
        "parts": np.array([part for part, _, _ in rows], np.uint8),
        "sources": np.frombuffer("\n".join(p.path for _, _, p in rows).encode(), np.uint8),
    }
    path.write_bytes(save(tensors, metadata={"classes": json.dumps(cut.classes)}))


def licenses_document(package: Path, used: Counter[str]) -> str:
    """LICENSES.md: author, license and source of every icon set that a bundled picture is from."""
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
what is told here. They were not changed otherwise. A picture of a set under a CC BY-SA license is passed on under that license.
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

    def pictures_of(rule: dict) -> Iterator[Picture]:
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
    """The first five bytes of the hash of every picture that the towers were trained on, sorted: (n, 5) uint8."""
    from safetensors.numpy import save

    shortened = sorted({digest[:5] for digest in seen})
    path.write_bytes(save({"hashes": np.frombuffer(b"".join(shortened), np.uint8).reshape(-1, 5).copy()}))


def describe(name: str, cut: Cut, rule: dict | None) -> str:
    """One line of counts, and what is short of the rule's promises."""
    line = f"{name}: {len(cut.classes)} classes, train {len(cut.train)}, val {len(cut.val)}, test {len(cut.test)}"
    least = {"train": rule["shots"], "val": VAL_SHOTS, "test": LEAST_TEST} if rule else {}
    short = []
    for part, wanted in least.items():
        counts = Counter(label for _, label in getattr(cut, part))
        short += [f"{cut.classes[i]} {part} {counts[i]}" for i in range(len(cut.classes)) if counts[i] < wanted]
    return line + (f"\n    too few: {', '.join(short)}" if short else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(dest="job", required=True)
    for job, text in (("draw", "draw every permitted set"), ("cut", "write the few-shot sets, licenses and hashes")):
        command = jobs.add_parser(job, help=text)
        command.add_argument("package", type=Path, help="the unpacked npm package")
        command.add_argument("drawn", type=Path, help="folder of the drawn sets")
        if job == "cut":
            command.add_argument("--output", type=Path, default=OUTPUT)
            command.add_argument("--dry-run", action="store_true", help="count only")
    args = parser.parse_args()
    if args.job == "draw":
        draw(args.package, args.drawn)
    else:
        cut_all(args.package, args.drawn, args.output, args.dry_run)


if __name__ == "__main__":
    main()
