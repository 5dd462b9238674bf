"""Formats of times, durations, numbers and errors. Times are UTC and say so; the relative time is beside them."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import MappingProxyType
from typing import TypeVar

from dashboard.components.tenant_status import sentence
from openkcm.contract.services import ServiceKind
from openkcm.errors import OpenKcmError

_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:])")
_JUST_NOW = timedelta(seconds=5)
_MILLION = 1_000_000
_EXCERPT = 40


def count(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun: `1 service`, `1,250 services`."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def short(number: int) -> str:
    """Return a number that fits into a card: exact below a million, else in millions, `4.8 M`."""
    return f"{number:,}" if number < _MILLION else f"{number / _MILLION:,.1f} M"


def at(time: datetime) -> str:
    """Return a time to the minute: `25 Nov 2026, 12:00 UTC`."""
    utc = time.astimezone(UTC)
    return f"{utc.day} {utc:%b %Y, %H:%M} UTC"


def relative(time: datetime, now: datetime) -> str:
    """Return the distance from now, rounded in its largest unit: `3 minutes ago`, `in 90 days`, `just now`."""
    distance = abs(now - time)
    if distance < _JUST_NOW:
        return "just now"
    words = _rounded(distance)
    return f"{words} ago" if time < now else f"in {words}"


def moment(time: datetime | None, now: datetime, never: str = "never") -> str:
    """Return a time and its distance from now: `25 Nov 2026, 12:00 UTC (3 minutes ago)`."""
    return never if time is None else f"{at(time)} ({relative(time, now)})"


def span(seconds: float) -> str:
    """Return a duration, rounded by its size: `0.4 s`, `12 s`, `2 min 5 s`, `3 days`."""
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return _rounded(timedelta(seconds=whole))


def listed(words: list[str]) -> str:
    """Return words joined as in a sentence: `a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def plain(text: str) -> str:
    """Return external text, escaped so that Streamlit's Markdown shows it literally."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def code(name: str) -> str:
    """Return an external name as inline code, which is neither markup nor linked."""
    return f"`{' '.join(name.split()).replace('`', chr(39))}`"


def excerpt(value: str) -> str:
    """Return the first characters of a value from an address as inline code."""
    return code(value[:_EXCERPT])


def unknown_value(name: str, value: str) -> str:
    """Return the sentence about an address parameter whose value the page does not know."""
    return f"`{name}` is unknown: {excerpt(value)}."


def _rounded(distance: timedelta) -> str:
    """Return a distance in its largest unit, rounded to the nearest; 59.7 minutes are an hour.

    Rounded down, a deadline in 90 days would read 89 days as soon as it is set.
    """
    seconds = distance.total_seconds()
    for (unit, size), (_, smaller) in pairwise((*_UNITS, ("", 1))):
        if seconds >= size - smaller / 2:
            return count(max(int(seconds / size + 0.5), 1), unit)
    return count(0, "second")


Kind = TypeVar("Kind", bound=OpenKcmError)


def said(refused: OpenKcmError) -> str:
    """Return message and hint as sentences. Only the first letters change: names and commands keep their case."""
    return " ".join(sentence(part) for part in (refused.message, refused.hint) if part)


def family(kind: type[Kind]) -> Iterator[type[Kind]]:
    """Return all subclasses of an error."""
    for below in kind.__subclasses__():
        yield below
        yield from family(below)


def in_words(code: str, known: type[OpenKcmError] | None) -> tuple[str, str]:
    """Return message and hint of an error code as sentences; an unknown code is named."""
    if known is None:
        return f"Failed with {code}.", "The audit stream has the details."
    return sentence(known.message), sentence(known.hint)


KIND_NAMES: Mapping[ServiceKind, str] = MappingProxyType(
    {
        ServiceKind.MONGODB: "MongoDB cluster",
        ServiceKind.POSTGRESQL: "PostgreSQL instance",
        ServiceKind.MICROSERVICE: "Microservice",
    }
)
