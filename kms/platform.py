"""The platform's root key, for tenants without a customer root key: a Transit key of the region.

The platform holds this key, so it does not protect against the platform. Its key hierarchy and operations are the same,
so a tenant can change to a customer root key later without re-encryption of data. This package does not import
`vault`: `PlatformKeys` is the interface that it needs, and the wiring of each process provides it.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from core import names as ids
from core.errors.keys import (
    CustomerKeyError,
    KeyUnavailable,
    RootKeyDenied,
    RootKeyDisabled,
    RootKeyUnreachable,
    WrongContext,
)
from core.errors.platform import VaultUnavailable
from core.keys.encryption_context import EncryptionContext, Purpose
from kms.self_test import transit_version
from openkcm.errors import OpenKcmError

_PROBE_BYTES = 32


class PlatformKeys(Protocol):
    """The required part of `vault.transit.root_keys.TransitRootKeys`."""

    def wrap(self, root_key: str, context: bytes, inner: bytes) -> bytes: ...

    def unwrap(self, root_key: str, context: bytes, wrapped: bytes) -> bytes: ...

    def wrap_all(self, root_key: str, items: Sequence[tuple[bytes, bytes]]) -> Sequence[bytes]: ...

    def unwrap_all(self, root_key: str, items: Sequence[tuple[bytes, bytes]]) -> Sequence[bytes]: ...


class PlatformRootKey:
    """An `interfaces.BatchRootKey` with the region's key; safe to share between threads if `root_keys` is."""

    def __init__(self, root_keys: PlatformKeys, region: str) -> None:
        self._keys = root_keys
        self._name = ids.root_key(region)

    def wrap(self, context: EncryptionContext, inner: bytes) -> bytes:
        """Encrypt, bound to `context`; one call."""
        with _root_key_errors():
            return self._keys.wrap(self._name, context.encode(), inner)

    def unwrap(self, context: EncryptionContext, wrapped: bytes) -> bytes:
        """Decrypt; one call."""
        with _root_key_errors():
            return self._keys.unwrap(self._name, context.encode(), wrapped)

    def wrap_all(self, items: Sequence[tuple[EncryptionContext, bytes]]) -> Sequence[bytes]:
        """Encrypt each item, bound to its context; one call."""
        with _root_key_errors():
            return self._keys.wrap_all(self._name, [(context.encode(), inner) for context, inner in items])

    def unwrap_all(self, items: Sequence[tuple[EncryptionContext, bytes]]) -> Sequence[bytes]:
        """Decrypt each item; one call."""
        with _root_key_errors():
            return self._keys.unwrap_all(self._name, [(context.encode(), wrapped) for context, wrapped in items])

    def version_of(self, wrapped: bytes) -> int | None:
        """Return the version in Transit's text format."""
        return transit_version(wrapped)

    def validate(self) -> Sequence[OpenKcmError]:
        """Test a round trip, and that decryption with another context fails.

        A process whose policy permits only one of both gets RootKeyDenied.
        """
        context, material = self._probe(), os.urandom(_PROBE_BYTES)
        try:
            wrapped = self.wrap(context, material)
            if self.unwrap(context, wrapped) != material:
                return (WrongContext(),)
        except (CustomerKeyError, WrongContext) as problem:
            return (problem,)
        try:
            self.unwrap(context._replace(object_id="elsewhere"), wrapped)
        except WrongContext:
            return ()
        except CustomerKeyError as problem:
            return (problem,)
        return (WrongContext("the root key decrypts a ciphertext with another context"),)

    def _probe(self) -> EncryptionContext:
        return EncryptionContext(ids.CANARY_TENANT_ID, ids.l2_key(ids.CANARY_TENANT_ID), "", Purpose.VERIFY, "root-key")


@contextmanager
def _root_key_errors() -> Iterator[None]:
    """Convert the key server's errors to CustomerKeyError; an unknown error counts as a denial."""
    try:
        yield
    except WrongContext:
        raise
    except VaultUnavailable as failed:
        raise RootKeyUnreachable from failed
    except KeyUnavailable as failed:
        raise RootKeyDisabled from failed
    except OpenKcmError as failed:
        raise RootKeyDenied from failed
