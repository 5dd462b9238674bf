"""How values of a report are said in it, the same in every section."""

from datetime import UTC, datetime
from typing import Literal

from rendering.document import Cell, Tone

DASH = "\N{EN DASH}"
NONE = Cell(DASH, tone="none")
SHOWN = 300
"""Rows of one table: what is more stands in the signed document, and the table says how many those are."""
LISTED = 120
"""Records of one list; the audit export has all of them."""
NEWEST = "the newest; the audit export has all"

_TONES: dict[str, Tone] = {
    "in order": "good",
    "attention": "warn",
    "missing": "none",
    "held": "good",
    "breached": "warn",
    "not-checked": "none",
}
_WORDS = {"in order": "In order", "attention": "Attention", "missing": "Not there", "not-checked": "Not checked"}
_OUTCOMES: dict[str, Tone] = {"success": "plain", "refused": "warn", "failure": "warn", "intended": "none"}


def at(time: datetime) -> str:
    """Return a time to the second: `2026-11-25 12:00:07`. Every time in a report is UTC, which its method says."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def day(time: datetime) -> str:
    """Return the day of a time: `25 November 2026`."""
    utc = time.astimezone(UTC)
    return f"{utc.day} {utc:%B %Y}"


def iso(time: datetime | None) -> Cell:
    """Return the day of a time as tables show it, which sorts."""
    return NONE if time is None else Cell(f"{time.astimezone(UTC):%Y-%m-%d}")


def count(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun: `1 service`, `1,250 services`."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def number(value: int) -> Cell:
    """Return a number; nothing reads as nothing."""
    return Cell(f"{value:,}") if value else Cell("0", tone="none")


def seconds(value: float | None) -> Cell:
    """Return a measured time."""
    return NONE if value is None else Cell(f"{value:,.1f} s")


def status(value: Literal["in order", "attention", "missing"]) -> Cell:
    """Return how something stands."""
    return Cell(_WORDS.get(value, value), tone=_TONES.get(value, "plain"))


def checked(outcome: str) -> Cell:
    """Return how a boundary check ended."""
    return Cell(_WORDS.get(outcome, outcome.capitalize()), tone=_TONES.get(outcome, "plain"))


def outcome(value: str) -> Cell:
    """Return how something that was done ended."""
    return Cell(value.capitalize(), tone=_OUTCOMES.get(value, "plain"))


def code(text: str, note: str = "") -> Cell:
    """Return a name or a hash, or a dash where there is none."""
    return Cell(text, note, code=True) if text else NONE


def digest(text: str, note: str = "") -> Cell:
    """Return a hash to be compared and copied."""
    return Cell(text, note, code=True, digest=True)


def plain(text: str, note: str = "") -> Cell:
    """Return a text, or a dash where there is none."""
    return Cell(text, note) if text else NONE


def more(shown: int, total: int, where: str) -> str:
    """Return what to say under a table that does not show everything; nothing where it does."""
    return f"{shown:,} of {total:,} are shown; {where}." if shown < total else ""
