"""One protocol for every root key.

Failures are classes that a person acts on differently: those of `core.errors.keys.CustomerKeyError`, and
WrongContext for a ciphertext of another context, another key, or altered. Nothing else leaves an implementation, and no
failure says anything of what was wrapped or of the credentials. Nothing is tried again inside: the caller decides.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from core.keys.encryption_context import EncryptionContext
from openkcm.errors import OpenKcmError


class RootKey(Protocol):
    def wrap(self, context: EncryptionContext, inner: bytes) -> bytes:
        """Encrypt at most 4 KiB bound to `context`."""
        ...

    def unwrap(self, context: EncryptionContext, wrapped: bytes) -> bytes:
        """Decrypt; raises WrongContext when key or context differ from wrapping."""
        ...

    def version_of(self, wrapped: bytes) -> int | None:
        """Return the version of the key that a wrap of its lies under; None where its holder numbers none.

        No call is made. AWS KMS keeps every material of a key behind the same name and opens with whichever it needs; a
        key in a token is one key, and another is another name.
        """
        ...

    def validate(self) -> Sequence[OpenKcmError]:
        """Try everything a tenant will need and return what is wrong; empty when all works."""
        ...


@runtime_checkable
class BatchRootKey(RootKey, Protocol):
    """A root key whose server takes many in one call, at most a hundred; customers' own take one."""

    def wrap_all(self, items: Sequence[tuple[EncryptionContext, bytes]]) -> Sequence[bytes]:
        """Encrypt each bound to its context."""
        ...

    def unwrap_all(self, items: Sequence[tuple[EncryptionContext, bytes]]) -> Sequence[bytes]:
        """Decrypt each; raises WrongContext when one does not open."""
        ...
