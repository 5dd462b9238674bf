"""The list of protected fields that a service receives: store, mode and field."""

from dataclasses import dataclass
from enum import StrEnum

OBEYED_SECONDS = 30
"""Default time after which a running program applies a changed list."""


class Store(StrEnum):
    """The kind of database."""

    POSTGRESQL = "postgresql"
    MONGODB = "mongodb"


class Mode(StrEnum):
    RANDOMISED = "randomised"
    DETERMINISTIC = "deterministic"
    """Equal values of the field can be searched for; equality is visible to anyone who reads the data."""


class Backfill(StrEnum):
    """State of the encryption of values that one table or collection stored before the protection."""

    RUNNING = "running"
    WAITING = "waiting"
    """For the database or the crypto service; it continues automatically."""
    FINISHED = "finished"
    """All values were read back, and none is plain."""
    STOPPED = "stopped"
    """It ended early; a new start resumes it."""
    UNDOING = "undoing"
    UNDONE = "undone"
    """All values were decrypted, before the protection ends."""


@dataclass(frozen=True, slots=True)
class ProtectedField:
    """`place` is schema.table or database.collection, `field` the column or the dotted path in a document.

    `plaintext_allowed`: values stored before the protection may be plain, and are returned unchanged.
    """

    store: Store
    place: str
    field: str
    mode: Mode
    plaintext_allowed: bool = False

    @property
    def name(self) -> str:
        """The unique name of the field within a service."""
        return f"{self.store}:{self.place}.{self.field}"
