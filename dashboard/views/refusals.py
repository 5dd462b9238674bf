"""How an error of ours is said to people: its message and its hint, as sentences."""

from tenancy.errors import OpenKcmError


def said(refused: OpenKcmError) -> str:
    """Return message and hint. Only the first letters change: names and commands in them keep their case."""
    return " ".join(f"{part[:1].upper()}{part[1:]}." for part in (refused.message, refused.hint) if part)
