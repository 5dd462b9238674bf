"""Formatting of values in a report, and safe rendering of external text: visible, bounded, in one writing direction.

An attacker may choose the names in a report. Invisible characters (controls, overrides of the writing direction,
private use) are therefore shown by their code point, `⟨U+202E⟩`. In a PDF characters that are missing in its fonts are
too: it embeds only the fonts of the typesetter, not those of the machine.
"""

import re
import unicodedata
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from compliance.reports.render.document import Cell, Tone

LONGEST = 400
"""Characters after which a text is truncated with a note; the signed document contains all of it."""

_MOST_MARKS = 2
_JOINERS = "\u200c\u200d"
"""Invisible characters that are allowed, because Persian and Hindi need them."""
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
"""Ranges of characters that the embedded fonts contain: test_formatting.py draws all of them."""


def visible(text: str) -> str:
    """Return a text on one line with all characters visible."""
    kept, marks = [], 0
    for character in " ".join(unicodedata.normalize("NFC", text).split()):
        marks = marks + 1 if unicodedata.category(character) in {"Mn", "Me"} else 0
        kept.append(character if _shows(character) and marks <= _MOST_MARKS else code_point(character))
    return _cut(kept)


def drawable(text: str) -> str:
    """Return a visible text with only characters of the PDF's fonts, and with line break opportunities."""
    drawn = _cut([character if _is_drawn(character) else code_point(character) for character in text])
    return " ".join(_broken(word) for word in drawn.split(" "))


def _cut(signs: list[str]) -> str:
    """Return the text truncated to `LONGEST`; each item of `signs` is one character or its code point."""
    length = 0
    for place, sign in enumerate(signs):
        length += len(sign)
        if length > LONGEST:
            return f"{''.join(signs[:place])}… ({len(signs) - place:,} characters more)"
    return "".join(signs)


def code_point(character: str) -> str:
    """Return a character as its code point."""
    return f"⟨U+{ord(character):04X}⟩"


def as_data(value: Any, *, drawn: bool = False) -> Any:
    """Return a document as JSON data with visible texts, and with drawable texts for a PDF."""
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
    """Return the word with break opportunities after punctuation, and inside of long runs."""
    jointed = _JOINT.sub(_ZERO_WIDTH_SPACE, word) if len(word) > _SHORT else word
    return _ENDLESS.sub(_in_pieces, jointed)


def _in_pieces(found: re.Match[str]) -> str:
    run = found.group()
    return _ZERO_WIDTH_SPACE.join(run[at : at + _PIECE] for at in range(0, len(run), _PIECE))


DASH = "\N{EN DASH}"
NONE = Cell(DASH, tone="none")
SHOWN = 300
"""Maximum rows of a table; the signed document contains all rows, and the table states how many are omitted."""
LISTED = 120
"""Maximum records of a list; the audit export contains all records."""
NEWEST = "the newest; the audit export has all"

_TONES: dict[str, Tone] = {
    "in order": "good",
    "attention": "warn",
    "missing": "none",
    "held": "good",
    "breached": "warn",
    "not-checked": "none",
}
_WORDS = {"in order": "In order", "attention": "Attention", "missing": "Missing", "not-checked": "Not checked"}
_OUTCOMES: dict[str, Tone] = {"success": "plain", "refused": "warn", "failure": "warn", "intended": "none"}


def at(time: datetime) -> str:
    """Return a time to the second: `2026-11-25 12:00:07`. All times in a report are UTC."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def day(time: datetime) -> str:
    """Return the day of a time: `25 November 2026`."""
    utc = time.astimezone(UTC)
    return f"{utc.day} {utc:%B %Y}"


def iso(time: datetime | None) -> Cell:
    """Return the day of a time in ISO 8601 format, for tables."""
    return NONE if time is None else Cell(f"{time.astimezone(UTC):%Y-%m-%d}")


def count(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun: `1 service`, `1,250 services`."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def number(value: int) -> Cell:
    """Return a number; zero has the tone of a missing value."""
    return Cell(f"{value:,}") if value else Cell("0", tone="none")


def seconds(value: float | None) -> Cell:
    """Return a measured duration."""
    return NONE if value is None else Cell(f"{value:,.1f} s")


def status(value: Literal["in order", "attention", "missing"]) -> Cell:
    """Return the status of a subject."""
    return Cell(_WORDS.get(value, value), tone=_TONES.get(value, "plain"))


def checked(outcome: str) -> Cell:
    """Return the outcome of an isolation check."""
    return Cell(_WORDS.get(outcome, outcome.capitalize()), tone=_TONES.get(outcome, "plain"))


def outcome(value: str) -> Cell:
    """Return the outcome of an operation."""
    return Cell(value.capitalize(), tone=_OUTCOMES.get(value, "plain"))


def code(text: str, note: str = "") -> Cell:
    """Return a name or a hash, or a dash for an empty text."""
    return Cell(text, note, code=True) if text else NONE


def digest(text: str, note: str = "") -> Cell:
    """Return a hash that readers compare and copy."""
    return Cell(text, note, code=True, digest=True)


def plain(text: str, note: str = "") -> Cell:
    """Return a text, or a dash for an empty text."""
    return Cell(text, note) if text else NONE


def more(shown: int, total: int, where: str) -> str:
    """Return the note below a truncated table, empty if the table shows all rows."""
    return f"{shown:,} of {total:,} are shown; {where}." if shown < total else ""
