"""The list of protected fields that a service receives: store, mode and field."""

from dataclasses import dataclass
from enum import StrEnum

OBEYED_SECONDS = 30
"""How soon a program that runs does what a changed list says, unless it was started with another figure."""


class Store(StrEnum):
    """What keeps the data."""

    POSTGRESQL = "postgresql"
    MONGODB = "mongodb"


class Mode(StrEnum):
    RANDOMISED = "randomised"
    DETERMINISTIC = "deterministic"
    """Equal values of the field can be searched for, and be seen to be equal by whoever sees the data."""


class Backfill(StrEnum):
    """How the encryption of values from before the protection stands at one place."""

    RUNNING = "running"
    WAITING = "waiting"
    """For the database or the crypto service; it goes on by itself."""
    FINISHED = "finished"
    """All were read back, and none is plain."""
    STOPPED = "stopped"
    """It ended before that; started again, it goes on."""
    UNDOING = "undoing"
    UNDONE = "undone"
    """Decrypted, to leave."""


@dataclass(frozen=True, slots=True)
class ProtectedField:
    """`place` is schema.table or database.collection, `field` the column or the dotted path in a document.

    `plain_allowed`: values from before the protection may still be plain, and are read as they are.
    """

    store: Store
    place: str
    field: str
    mode: Mode
    plain_allowed: bool = False

    @property
    def name(self) -> str:
        """What it is called where one text must say it."""
        return f"{self.store}:{self.place}.{self.field}"
