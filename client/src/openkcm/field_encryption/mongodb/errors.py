"""Errors of the encryption in pymongo: subclasses of the driver's errors, with OpenKCM's code and hint.

An application that handles `pymongo.errors.PyMongoError` also handles these. pymongo never retries them automatically,
and never treats them as the loss of a server.
"""

from pymongo import errors

from openkcm.errors import OpenKcmError
from openkcm.field_encryption import errors as vocabulary
from openkcm.field_encryption.key_cache import KeyUnwrapError

_GUIDE = "see docs/mongodb.md#supported-operations for the requests on protected fields"


class _WithHint(OpenKcmError):
    def __init__(self, message: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self._error_labels: set[str] = set()  # set by the driver's constructor, which is not called

    def __str__(self) -> str:
        return f"{self.message} ({self.code}); {self.hint}"


class StatementRefused(_WithHint, vocabulary.StatementRefused, errors.InvalidOperation):
    """Nothing was sent."""

    hint = _GUIDE


class ProtectionUnusable(_WithHint, vocabulary.ProtectionUnusable, errors.ConfigurationError):
    """The fields cannot be protected in their present form."""

    hint = _GUIDE


class ProtectionUnknown(_WithHint, vocabulary.ProtectionUnknown, errors.PyMongoError):
    """The list of protected fields is not available; nothing was sent."""


class ValueRefused(_WithHint, vocabulary.ProtectedValueRefused, errors.PyMongoError):
    """A stored value cannot be decrypted in its document."""

    hint = "restore the document from a backup, and find the program that wrote it"


class PlainValueFound(_WithHint, vocabulary.PlainValueFound, errors.PyMongoError):
    """A stored value is not encrypted."""

    hint = "encrypt the earlier documents, and allow plain values meanwhile"


class KeysUnavailable(_WithHint, vocabulary.ColumnKeyUnavailable, errors.PyMongoError):
    """The crypto service does not unwrap the key."""


def unavailable(failed: KeyUnwrapError) -> KeysUnavailable:
    """Return the application's error; its text contains the crypto service's code."""
    return KeysUnavailable(
        f"the key of a protected field cannot be unwrapped: {failed.detail} ({failed.code})", failed.hint or None
    )
