"""Errors of the encryption in psycopg: subclasses of the driver's errors, with OpenKCM's code and hint.

An application that handles `psycopg.Error`, or SQLAlchemy's wrappers of it, also handles these.
"""

import psycopg

from openkcm.errors import OpenKcmError
from openkcm.field_encryption import errors as vocabulary
from openkcm.field_encryption.key_cache import KeyUnwrapError


class _WithHint(OpenKcmError):
    def __str__(self) -> str:
        return f"{self.message} ({self.code}); {self.hint}"


class StatementRefused(_WithHint, vocabulary.StatementRefused, psycopg.NotSupportedError):
    """Nothing was sent."""


class ProtectionUnusable(_WithHint, vocabulary.ProtectionUnusable, psycopg.ProgrammingError):
    """The columns cannot be protected in their present form."""


class ProtectionUnknown(_WithHint, vocabulary.ProtectionUnknown, psycopg.OperationalError):
    """The list of protected columns is not available; nothing was sent."""


class ValueRefused(_WithHint, vocabulary.ProtectedValueRefused, psycopg.DataError):
    """A stored value cannot be decrypted in its row."""


class PlainValueFound(_WithHint, vocabulary.PlainValueFound, psycopg.DataError):
    """A stored value is not encrypted."""


class KeysUnavailable(_WithHint, vocabulary.ColumnKeyUnavailable, psycopg.OperationalError):
    """The crypto service does not unwrap the key."""


def unavailable(failed: KeyUnwrapError) -> KeysUnavailable:
    """Return the application's error; its text contains the crypto service's code."""
    return KeysUnavailable(
        f"the key of a protected column cannot be unwrapped: {failed.detail} ({failed.code})", failed.hint or None
    )
