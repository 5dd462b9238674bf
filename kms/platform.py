"""The platform's own root key, for tenants that bring none: a Transit key of the region.

It does not exclude the platform, which holds it; what it gives is the same envelope and the same switches, so that a
tenant can bring a key of its own later without touching any data. This package does not know Vault: `PlatformKeys` is
what it needs of it, and the wiring of each process joins the two.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
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
    """What of `vault.transit.keys.RootKeys` is needed here."""

    def wrap(self, root_key: str, context: bytes, inner: bytes) -> bytes: ...

    def unwrap(self, root_key: str, context: bytes, wrapped: bytes) -> bytes: ...

    def wrap_all(self, root_key: str, items: Sequence[tuple[bytes, bytes]]) -> Sequence[bytes]: ...

    def unwrap_all(self, root_key: str, items: Sequence[tuple[bytes, bytes]]) -> Sequence[bytes]: ...


class PlatformRootKey:
    """`interfaces.BatchRootKey` over the region's key. Safe to share between threads when `root_keys` is."""

    def __init__(self, root_keys: PlatformKeys, region: str) -> None:
        self._keys = root_keys
        self._name = ids.root_key(region)

    def wrap(self, context: EncryptionContext, inner: bytes) -> bytes:
        """Encrypt bound to `context`; one call."""
        with _root_key_errors():
            return self._keys.wrap(self._name, context.encode(), inner)

    def unwrap(self, context: EncryptionContext, wrapped: bytes) -> bytes:
        """Decrypt; one call."""
        with _root_key_errors():
            return self._keys.unwrap(self._name, context.encode(), wrapped)

    def wrap_all(self, items: Sequence[tuple[EncryptionContext, bytes]]) -> Sequence[bytes]:
        """Encrypt each bound to its context; one call."""
        with _root_key_errors():
            return self._keys.wrap_all(self._name, [(context.encode(), inner) for context, inner in items])

    def unwrap_all(self, items: Sequence[tuple[EncryptionContext, bytes]]) -> Sequence[bytes]:
        """Decrypt each; one call."""
        with _root_key_errors():
            return self._keys.unwrap_all(self._name, [(context.encode(), wrapped) for context, wrapped in items])

    def version_of(self, wrapped: bytes) -> int | None:
        """Return the version in Transit's own text form."""
        return transit_version(wrapped)

    def validate(self) -> Sequence[OpenKcmError]:
        """Try a round trip, and that another context is refused.

        For a process that may do both: where only wrapping is allowed, RootKeyDenied is the truth about this process.
        """
        context, material = self._probe(), os.urandom(_PROBE_BYTES)
        try:
            wrapped = self.wrap(context, material)
            if self.unwrap(context, wrapped) != material:
                return (WrongContext(),)
        except (CustomerKeyError, WrongContext) as problem:
            return (problem,)
        try:
            self.unwrap(replace(context, object_id="elsewhere"), wrapped)
        except WrongContext:
            return ()
        except CustomerKeyError as problem:
            return (problem,)
        return (WrongContext("the root key opens what belongs to another context"),)

    def _probe(self) -> EncryptionContext:
        return EncryptionContext(ids.CANARY_TENANT_ID, ids.l2_key(ids.CANARY_TENANT_ID), "", Purpose.VERIFY, "root-key")


@contextmanager
def _root_key_errors() -> Iterator[None]:
    """Turn the key server's failures into those a person acts on; what is not known closes the door as well."""
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
