"""What an application may meet besides the errors of its database: its driver's errors, with our code and hint.

An application that handles `psycopg.Error`, or SQLAlchemy's wrappers of it, handles these.
"""

import psycopg

from openkcm.errors import OpenKcmError
from openkcm.field_encryption import errors as vocabulary
from openkcm.field_encryption.key_cache import KeyUnwrapError


class _Explained(OpenKcmError):
    def __str__(self) -> str:
        return f"{self.message} ({self.code}); {self.hint}"


class StatementRefused(_Explained, vocabulary.StatementRefused, psycopg.NotSupportedError):
    """Nothing was sent."""


class ProtectionUnusable(_Explained, vocabulary.ProtectionUnusable, psycopg.ProgrammingError):
    """The columns cannot be protected as they are."""


class ProtectionUnknown(_Explained, vocabulary.ProtectionUnknown, psycopg.OperationalError):
    """The crypto service does not say which columns are protected, and nothing was sent."""


class ValueRefused(_Explained, vocabulary.ProtectedValueRefused, psycopg.DataError):
    """What is stored does not open in its place."""


class PlainValueFound(_Explained, vocabulary.PlainValueFound, psycopg.DataError):
    """What is stored was never encrypted."""


class KeysUnavailable(_Explained, vocabulary.ColumnKeyUnavailable, psycopg.OperationalError):
    """The crypto service does not open the key."""


def unavailable(failed: KeyUnwrapError) -> KeysUnavailable:
    """Return the application's error, which keeps the crypto service's own code in its text."""
    return KeysUnavailable(
        f"the key of a protected column cannot be opened: {failed.detail} ({failed.code})", failed.hint or None
    )
