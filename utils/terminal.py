"""Output on a terminal, or into a file, whose encoding lacks characters: those that programs print are spelled in ASCII."""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata

SPELLED = {
    "±": "+-",
    "–": "-",
    "−": "-",
    "×": "x",
    "·": "*",
    "≤": "<=",
    "≥": ">=",
    "…": "...",
    "→": "->",
    "←": "<-",
    "∇": "grad ",
    "√": "sqrt ",
    "½": "1/2",
    "∞": "inf",
    "λ": "lambda",
}


def encode_anything() -> None:
    """Makes printing to stdout and stderr safe: no character that their encoding lacks ends a program."""
    codecs.register_error("spell", _spell)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="spell")


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(spelled, error.object[error.start : error.end])), error.end


def spelled(character: str) -> str:
    """The character in ASCII: "sigma" for σ, "2" for ₂, "^2" for ². Letters of names are escaped, to stay distinct."""
    if character in SPELLED:
        return SPELLED[character]
    script, _, letter = unicodedata.name(character, "").partition(" LETTER ")
    if script in ("GREEK SMALL", "GREEK CAPITAL") and letter.isalpha():
        return letter.lower() if script == "GREEK SMALL" else letter.capitalize()
    plain, kind = unicodedata.normalize("NFKD", character), unicodedata.decomposition(character).partition(" ")[0]
    if plain.isascii() and kind in ("<super>", "<sub>"):
        return plain if kind == "<sub>" else f"^{plain}"
    return character.encode("ascii", "backslashreplace").decode()
