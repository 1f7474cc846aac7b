"""Cuts few-shot sets from the held-out icon sets by the rules of `icon_sets.yaml`."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tools.maintain.icon_names import without_skin_tone
from tools.maintain.icon_pictures import Picture

VAL_SHOTS = 4
LEAST_TEST = 10


def subject_rule(rule: dict[str, Any]) -> Callable[[Picture], str | None]:
    """A class is a list of subjects, which includes its name."""
    class_of = {subject: name for name, others in reversed(rule["classes"].items()) for subject in (*(others or ()), name)}
    return lambda picture: class_of.get(without_skin_tone(picture.subject))


def ending_rule(rule: dict[str, Any]) -> Callable[[Picture], str | None]:
    """Like `subject_rule`, but up to two words may precede the subject: some sets begin names with the words of a category."""
    exact = subject_rule(rule)
    class_of = {subject: name for name, others in reversed(rule["classes"].items()) for subject in (*(others or ()), name)}

    def find(picture: Picture) -> str | None:
        words = picture.subject.split()
        endings = (" ".join(words[start:]) for start in range(1, min(3, len(words))))
        return exact(picture) or next((class_of[ending] for ending in endings if ending in class_of), None)

    return find


def words_rule(rule: dict[str, Any]) -> Callable[[Picture], str | None]:
    """A class is a bag of words; `same_words` maps words to their synonyms."""
    class_of = {tuple(sorted(name.split())): name for name in rule["classes"]}
    same = rule["same_words"]
    return lambda picture: class_of.get(tuple(sorted(same.get(word, word) for word in picture.subject.split())))


def last_word_rule(rule: dict[str, Any]) -> Callable[[Picture], str | None]:
    """A class is the second of two words, for instance the badge that is added to an object."""
    class_of = {word: name for name, words in rule["classes"].items() for word in words}

    def find(picture: Picture) -> str | None:
        words = picture.subject.split()
        return class_of.get(words[1]) if len(words) == 2 and words[0] not in rule["not_first"] else None

    return find


def manner_rule(rule: dict[str, Any]) -> Callable[[Picture], str | None]:
    """A class is a manner of drawing: for some sets, a pattern that the names of icons in that manner match."""
    patterns: dict[str, list[tuple[re.Pattern[str], str]]] = defaultdict(list)
    for name, sets in rule["classes"].items():
        for prefix, pattern in sets.items():
            patterns[prefix].append((re.compile(pattern), name))
    return lambda picture: next((name for pattern, name in patterns[picture.prefix] if pattern.search(picture.name)), None)


def category_rule(rule: dict[str, Any]) -> Callable[[Picture], str | None]:
    """A class unites categories under which the authors of sets file their icons."""
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
    """The key shared by all pictures of one drawing: its family of sets and its subject."""
    return f"{family_of.get(picture.prefix, picture.prefix)}/{without_skin_tone(picture.subject)}"


def choose_pictures(pictures: Iterable[Picture], rule: dict[str, Any], seen: set[bytes]) -> dict[str, list[Picture]]:
    """The pictures of each class: none with a hash in `seen`, none twice, and at most `per_set` from one icon set."""
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
            if (
                picture.hash in taken
                or per_set[picture.prefix] >= rule["per_set"]
                or (rule["rule"] == "category" and tone in drawings)
            ):
                continue
            taken.add(picture.hash)
            drawings.add(tone)
            per_set[picture.prefix] += 1
            chosen[name].append(picture)
    return chosen


def split_class(
    pictures: list[Picture], rule: dict[str, Any], family_of: dict[str, str], first: set[bytes]
) -> tuple[list[Picture], ...]:
    """Train, val and test of one class. Pictures of one drawing stay together; those in `first` go to training.

    A hash decides the order of drawings. Training gets `shots` pictures, then the test part LEAST_TEST and validation VAL_SHOTS;
    of the rest, training gets a quarter, validation a tenth and the test part the remainder, up to the set's limits.
    """
    drawings: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        drawings[drawing_of(picture, family_of)].append(picture)
    parts: tuple[list[Picture], ...] = ([], [], [])
    total = len(pictures)
    spare = max(0, total - rule["shots"] - VAL_SHOTS - LEAST_TEST)
    limits = [
        min(rule["shots"] + spare // 4, rule.get("most_train", 40)),
        min(VAL_SHOTS + spare // 10, 8),
        rule.get("most_test", 60),
    ]

    def forced(key: str) -> bool:
        return any(picture.hash in first for picture in drawings[key])

    for key in sorted(drawings, key=lambda key: (not forced(key), order_of(key))):
        room = [limit - len(part) for limit, part in zip(limits, parts, strict=True)]
        into = 0 if room[0] > 0 else 1 if room[1] > 0 else 2
        if forced(key) and into:
            continue
        parts[into].extend(drawings[key][: max(room[into], 0)])
    return parts


def cut_set(
    pictures: Iterable[Picture], rule: dict[str, Any], family_of: dict[str, str], seen: set[bytes], first: set[bytes]
) -> Cut:
    parts: tuple[list[tuple[Picture, int]], ...] = ([], [], [])
    for label, group in enumerate(choose_pictures(pictures, rule, seen).values()):
        for part, chosen in zip(parts, split_class(group, rule, family_of, first), strict=True):
            part += [(picture, label) for picture in chosen]
    return Cut(tuple(rule["classes"]), *parts)


def cut_shift(pictures: Iterable[Picture], rule: dict[str, Any], source: dict[str, Any], seen: set[bytes]) -> Cut:
    """Test pictures only: the classes of another set, drawn by the icon sets of `rule`, if a class has at least `least`."""
    chosen = choose_pictures(pictures, {**source, "rule": "ending", "per_set": rule["per_set"]}, seen)
    names = [name for name, group in chosen.items() if len(group) >= rule["least"]]
    test = [(picture, label) for label, name in enumerate(names) for picture in chosen[name][: rule["most_test"]]]
    return Cut(tuple(names), [], [], test)
