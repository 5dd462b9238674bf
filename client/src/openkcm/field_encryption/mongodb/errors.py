"""What an application may meet besides the errors of its database: its driver's errors, with our code and hint.

An application that handles `pymongo.errors.PyMongoError` handles these. None of them is one that pymongo tries again
by itself, or for which it takes a server to be gone.
"""

from pymongo import errors

from openkcm.errors import OpenKcmError
from openkcm.field_encryption import errors as vocabulary
from openkcm.field_encryption.key_cache import KeyUnwrapError

_GUIDE = "see docs/mongodb.md#what-can-be-asked for the requests on protected fields"


class _Explained(OpenKcmError):
    def __init__(self, message: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self._error_labels: set[str] = set()  # of the driver's own constructor, which takes other arguments

    def __str__(self) -> str:
        return f"{self.message} ({self.code}); {self.hint}"


class StatementRefused(_Explained, vocabulary.StatementRefused, errors.InvalidOperation):
    """Nothing was sent."""

    hint = _GUIDE


class ProtectionUnusable(_Explained, vocabulary.ProtectionUnusable, errors.ConfigurationError):
    """The fields cannot be protected as they are."""

    hint = _GUIDE


class ProtectionUnknown(_Explained, vocabulary.ProtectionUnknown, errors.PyMongoError):
    """The crypto service does not say which fields are protected, and nothing was sent."""


class ValueRefused(_Explained, vocabulary.ProtectedValueRefused, errors.PyMongoError):
    """What is stored does not open in its place."""

    hint = "restore the document from a backup, or find out who wrote it"


class PlainValueFound(_Explained, vocabulary.PlainValueFound, errors.PyMongoError):
    """What is stored was never encrypted."""

    hint = "encrypt the documents from before the protection, and allow plain values while that runs"


class KeysUnavailable(_Explained, vocabulary.ColumnKeyUnavailable, errors.PyMongoError):
    """The crypto service does not open the key."""


def unavailable(failed: KeyUnwrapError) -> KeysUnavailable:
    """Return the application's error, which keeps the crypto service's own code in its text."""
    return KeysUnavailable(
        f"the key of a protected field cannot be opened: {failed.detail} ({failed.code})", failed.hint or None
    )
