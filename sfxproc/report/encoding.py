"""Output for terminals and logs that are not UTF-8: what they lack is written in plain letters.

σ becomes sigma, ½ 1/2, Å A, – -, and a byte of a file name that is no text \\xff. Nothing that is
printed can then end a job.
"""

from __future__ import annotations

import codecs
import sys
import unicodedata
from typing import TextIO

HANDLER = "sfxproc.plain"
PLAIN = {
    "–": "-",
    "—": "-",
    "−": "-",
    "─": "-",
    "━": "-",
    "│": "|",
    "…": "...",
    "×": "x",
    "·": "*",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "→": "->",
    "≥": ">=",
    "≤": "<=",
    "≈": "~",
    "√": "sqrt",
    "⟨": "<",
    "⟩": ">",
    "°": " deg",
    "±": "+-",
    "ß": "ss",
    "Σ": "sum",
}
SURROGATES = 0xDC80  # first of those that stand for bytes that are no text


def plain(character: str) -> str:
    """The character in ASCII letters; a question mark where there is no way to write it so."""
    if character in PLAIN:
        return PLAIN[character]
    if SURROGATES <= ord(character) < SURROGATES + 0x80:
        return f"\\x{ord(character) - 0xDC00:02x}"
    name = unicodedata.name(character, "")
    if name.startswith("GREEK"):
        letter = name.split()[4 if "FINAL" in name else 3 if " LETTER " in name else -1].lower()
        return letter.capitalize() if "CAPITAL" in name else letter
    parts = unicodedata.normalize("NFKD", character).replace("⁄", "/")
    return "".join(c for c in (PLAIN.get(p, p) for p in parts) if c.isascii()) or "?"


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(plain(c) for c in error.object[error.start : error.end]), error.end


def tolerate(*streams: TextIO) -> None:
    """Have streams, by default standard output and error, write what their encoding lacks in plain
    letters instead of raising UnicodeEncodeError."""
    codecs.register_error(HANDLER, _replace)
    for stream in streams or (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=HANDLER)
