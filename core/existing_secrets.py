"""What a setup does with the secrets that a server already accepts."""

from enum import StrEnum


class ExistingSecrets(StrEnum):
    """The secrets of a host and those that the server accepts, when they differ.

    A replacement without interruption takes two setups: ADD, then a restart of each process with its new secret, then
    REPLACE.
    """

    KEEP = "keep"
    """Reject the host, because running processes use the existing ones."""
    ADD = "add"
    """Accept the secrets of the host beside the existing ones. A role of PostgreSQL has one password, which remains."""
    REPLACE = "replace"
    """Accept only the secrets of the host."""
