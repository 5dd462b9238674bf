"""One protocol for every root key.

Failures are classes that a person acts on differently: those of `tenancy.root_key_errors.CustomerKeyError`, and
WrongContext for a ciphertext of another context, another key, or altered. Nothing else leaves an implementation, and no
failure says anything of what was wrapped or of the credentials. Nothing is tried again inside: the caller decides.
"""

from collections.abc import Sequence
from typing import Protocol

from tenancy.binding import Context
from tenancy.errors import OpenKcmError
from tenancy.root_keys import Credentials, Place


class RootKey(Protocol):
    def wrap(self, context: Context, inner: bytes) -> bytes:
        """Encrypt at most 4 KiB bound to `context`."""
        ...

    def unwrap(self, context: Context, wrapped: bytes) -> bytes:
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


class RootKeyShelf(Protocol):
    """Every root key that a process may use, by who holds it."""

    def platform(self, region: str) -> RootKey:
        """Return the platform's own of a region."""
        ...

    def held(self, tenant_id: str, root_key_id: str, place: Place, credentials: str) -> RootKey:
        """Return one that a customer holds; `credentials` is their ciphertext under the tenant's L2.

        Raises: RootKeyRefused, KeyUnavailable, WrongContext, VaultUnavailable; nothing is asked of the customer yet.
        """
        ...

    def candidate(self, tenant_id: str, place: Place, credentials: Credentials) -> RootKey:
        """Return one that is not on record, to be tried; raises RootKeyRefused."""
        ...

    def forget(self, tenant_id: str) -> None:
        """Drop what is kept ready of a tenant."""
        ...
