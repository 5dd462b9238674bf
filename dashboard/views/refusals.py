"""How an error of ours is said to people: its message and its hint, as sentences."""

from dashboard.views.standing import sentence
from tenancy.errors import OpenKcmError


def said(refused: OpenKcmError) -> str:
    """Return message and hint. Only the first letters change: names and commands in them keep their case."""
    return " ".join(sentence(part) for part in (refused.message, refused.hint) if part)
