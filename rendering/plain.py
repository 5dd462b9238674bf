"""Text from outside, made harmless to read: nothing in it is invisible, changes direction, or is endless.

A name in a report was chosen by whoever has an interest in how the report reads. Characters that show nothing
(controls, overrides of the writing direction, private use) are therefore shown by their number, `⟨U+202E⟩`, and so is
in a PDF what its fonts do not have: it embeds those that come with the typesetter and takes none of the machine.
"""

import re
import unicodedata
from dataclasses import fields, is_dataclass
from typing import Any

from rendering.document import Cell

LONGEST = 400
"""Signs of one text, after which it is cut and says so; the signed document has it whole."""

_MOST_MARKS = 2
_JOINERS = "\u200c\u200d"
"""They show nothing, and Persian and Hindi are misspelt without them."""
_ZERO_WIDTH_SPACE = "\u200b"
_JOINT = re.compile(r"(?<=[-_./:@,=+])(?=\w)")
_ENDLESS = re.compile(r"[^\s\u200b]{25,}")
_PIECE, _SHORT = 8, 12

_DRAWN = (
    (0x20, 0x7E),
    (0xA1, 0xAC),
    (0xAE, 0x2FF),  # Latin
    (0x37A, 0x37F),
    (0x384, 0x38A),
    (0x38C, 0x38C),
    (0x38E, 0x3A1),
    (0x3A3, 0x482),  # Greek and Cyrillic
    (0x48A, 0x4FF),
    (0x531, 0x556),
    (0x561, 0x587),  # Armenian
    (0x5D0, 0x5EA),  # Hebrew
    (0x621, 0x63A),
    (0x641, 0x64A),
    (0x660, 0x669),  # Arabic
    (0x10D0, 0x10FA),  # Georgian
    (0x1E00, 0x1EFF),
    (0x2010, 0x2027),
    (0x2030, 0x2040),
    (0x20A0, 0x20C0),  # currencies
    (0x2116, 0x2116),
    (0x2122, 0x2122),
    (0x2190, 0x21FF),
    (0x2200, 0x22FF),
    (0x25A0, 0x25FF),
    (0x2713, 0x2714),
    (0x27E8, 0x27E9),
)
"""Blocks whose every character the embedded fonts have: tests/rendering/test_plain.py draws them all."""


def visible(text: str) -> str:
    """Return a text on one line with everything in it to be seen."""
    kept, marks = [], 0
    for character in " ".join(unicodedata.normalize("NFC", text).split()):
        marks = marks + 1 if unicodedata.category(character) in {"Mn", "Me"} else 0
        kept.append(character if _shows(character) and marks <= _MOST_MARKS else number(character))
    return _cut(kept)


def drawable(text: str) -> str:
    """Return a visible text as the PDF's fonts can draw it, and as lines can break in it."""
    drawn = _cut([character if _is_drawn(character) else number(character) for character in text])
    return " ".join(_broken(word) for word in drawn.split(" "))


def _cut(signs: list[str]) -> str:
    """Return what is shown of a text, of which each sign may have become several."""
    length = 0
    for place, sign in enumerate(signs):
        length += len(sign)
        if length > LONGEST:
            return f"{''.join(signs[:place])}… ({len(signs) - place:,} characters more)"
    return "".join(signs)


def number(character: str) -> str:
    """Return a character by its number."""
    return f"⟨U+{ord(character):04X}⟩"


def as_data(value: Any, *, drawn: bool = False) -> Any:
    """Return a document as what JSON has, each of its texts visible, and drawable where a PDF is made of it."""
    if isinstance(value, str):
        return drawable(visible(value)) if drawn else visible(value)
    drawn = drawn and not (isinstance(value, Cell) and value.digest)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_data(getattr(value, field.name), drawn=drawn) for field in fields(value)}
    if isinstance(value, tuple):
        return [as_data(one, drawn=drawn) for one in value]
    return value


def _shows(character: str) -> bool:
    category = unicodedata.category(character)
    return character == " " or character in _JOINERS or category[0] not in "CZ"


def _is_drawn(character: str) -> bool:
    code = ord(character)
    return any(first <= code <= last for first, last in _DRAWN)


def _broken(word: str) -> str:
    """Let names break at their joints, and what has none and is endless anywhere."""
    jointed = _JOINT.sub(_ZERO_WIDTH_SPACE, word) if len(word) > _SHORT else word
    return _ENDLESS.sub(_in_pieces, jointed)


def _in_pieces(found: re.Match[str]) -> str:
    run = found.group()
    return _ZERO_WIDTH_SPACE.join(run[at : at + _PIECE] for at in range(0, len(run), _PIECE))
