"""Parses the name of an icon into what is drawn and how.

An icon set names the manner by a declared suffix or prefix ("camera-bold-duotone") or by any word ("outline-camera"). Numbers
only distinguish variants of one drawing.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

MANNER_WORDS = frozenset(
    {"outline", "outlined", "filled", "fill", "solid", "line", "linear", "bold", "thin", "light", "duotone", "broken", "regular"}
    | {"sharp", "rounded", "round", "twotone", "baseline", "two-tone", "remix", "duo", "flat", "block", "print", "pop", "pencil"}
    | {"poly", "stroke", "dark", "branded", "24px", "wordmark", "variant", "alt", "alternate", "mirrored", "negative"}
)
MEANINGLESS = re.compile(r"\d+|\d+px|o")
SKIN_TONES = frozenset({"skin", "tone", "medium", "light", "dark"})


class IconName(NamedTuple):
    """`subject`: what is drawn, in words; `manner`: how it is drawn, in words, or ""."""

    subject: str
    manner: str


def affixes(document: dict[str, Any], kind: str) -> list[str]:
    """The affixes of `kind` ("suffixes" or "prefixes") that an Iconify set declares for its manners, longest first."""
    return sorted((word for word in document.get(kind) or {} if word), key=lambda word: (-len(word), word))


def parse_name(name: str, suffixes: list[str], prefixes: list[str]) -> IconName:
    """Parses the name of an icon in a set with these affixes. A name that consists of manner words is its own subject."""
    manners = []
    for suffix in suffixes:
        if name.endswith(f"-{suffix}"):
            name = name[: -len(suffix) - 1]
            manners.append(suffix)
            break
    for prefix in prefixes:
        if name.startswith(f"{prefix}-"):
            name = name[len(prefix) + 1 :]
            manners.append(prefix)
            break
    words = [word for word in re.split(r"[-_]+", name) if word]
    subject = [word for word in words if word not in MANNER_WORDS and not MEANINGLESS.fullmatch(word)] or words
    manners += [word for word in words if word in MANNER_WORDS and word not in subject]
    return IconName(" ".join(subject), " ".join(manners).replace("-", " "))


def without_skin_tone(subject: str) -> str:
    """The subject without the skin tone, for emoji that are drawn once per skin tone."""
    return " ".join(word for word in subject.split() if word not in SKIN_TONES) or subject
