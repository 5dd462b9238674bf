"""The protocol of every root key.

An implementation raises only subclasses of `core.errors.keys.CustomerKeyError`, one for each remedy, and WrongContext
for a ciphertext of another context or another key, or an altered one. No error contains wrapped data or credentials.
Implementations do not retry; the caller decides.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from core.keys.encryption_context import EncryptionContext
from openkcm.errors import OpenKcmError


class RootKey(Protocol):
    """A root key that is ready for use."""

    def wrap(self, context: EncryptionContext, inner: bytes) -> bytes:
        """Encrypt at most 4 KiB, bound to `context`."""
        ...

    def unwrap(self, context: EncryptionContext, wrapped: bytes) -> bytes:
        """Decrypt; raises WrongContext when key or context differ from those of the encryption."""
        ...

    def version_of(self, wrapped: bytes) -> int | None:
        """Return the version of the key in a wrap; None where its provider has no version numbers.

        No call is made. AWS KMS selects among the key materials of one key itself, and a key in a PKCS #11 token has
        one version.
        """
        ...

    def validate(self) -> Sequence[OpenKcmError]:
        """Test everything that a tenant needs and return the problems; empty when all works."""
        ...


@runtime_checkable
class BatchRootKey(RootKey, Protocol):
    """A root key whose server accepts batches of at most a hundred; customers' root keys accept one item."""

    def wrap_all(self, items: Sequence[tuple[EncryptionContext, bytes]]) -> Sequence[bytes]:
        """Encrypt each item, bound to its context."""
        ...

    def unwrap_all(self, items: Sequence[tuple[EncryptionContext, bytes]]) -> Sequence[bytes]:
        """Decrypt each item; raises WrongContext when one fails."""
        ...
