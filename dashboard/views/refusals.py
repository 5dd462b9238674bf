"""How an error of ours is said to people: its message and its hint, as sentences."""

from collections.abc import Iterator
from typing import TypeVar

from dashboard.views.standing import sentence
from openkcm.errors import OpenKcmError

Kind = TypeVar("Kind", bound=OpenKcmError)


def said(refused: OpenKcmError) -> str:
    """Return message and hint. Only the first letters change: names and commands in them keep their case."""
    return " ".join(sentence(part) for part in (refused.message, refused.hint) if part)


def family(kind: type[Kind]) -> Iterator[type[Kind]]:
    """Return every kind of error below another."""
    for below in kind.__subclasses__():
        yield below
        yield from family(below)


def in_words(code: str, known: type[OpenKcmError] | None) -> tuple[str, str]:
    """Return message and hint of a code as sentences; one that is not known is named."""
    if known is None:
        return f"It failed with {code}.", "The audit stream has the details."
    return sentence(known.message), sentence(known.hint)
