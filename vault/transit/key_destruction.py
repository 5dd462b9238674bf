"""Destroys the keys of a tenant that has left, in Transit, for good (policies/offboarding.hcl).

Which keys is said by tenant and kind, never by name: no mistake of a caller can make it a key of the platform's.
A key that Transit deletes is gone with all its versions, and no encrypt brings its name back, because upsert is off.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from cryptography.hazmat.primitives import serialization

from core import names as ids
from core.errors.keys import KeyUnavailable
from vault.auth.client import VaultClient, VaultRejected


class TenantKeyKind(StrEnum):
    """The keys that a tenant has at the key server."""

    TENANT = "tenant"
    AUTHORITY = "authority"
    PAYLOAD = "payload"


_NAMES: Mapping[TenantKeyKind, Callable[[str], str]] = MappingProxyType(
    {
        TenantKeyKind.TENANT: ids.l2_key,
        TenantKeyKind.AUTHORITY: ids.ca_key,
        TenantKeyKind.PAYLOAD: ids.payload_key,
    }
)


@dataclass(frozen=True, slots=True)
class KeyToDestroy:
    """What is known of a key before it is destroyed; `fingerprint` is a SHA-256, hex."""

    name: str
    versions: str
    fingerprint: str


class TransitDestroyer:
    """Destroys the keys of a tenant that has left, with an identity that can do nothing else."""

    def __init__(self, destroying: VaultClient, looking: VaultClient) -> None:
        """Take the identity `offboarding`, which can do nothing but destroy, and one that may look at keys."""
        self._destroying = destroying
        self._looking = looking

    def describe(self, kind: TenantKeyKind, tenant_id: str) -> KeyToDestroy | None:
        """Return what will be known of the key once it is gone; None when there is no such key."""
        name = _NAMES[kind](tenant_id)
        record = self._looking.read(f"transit/keys/{name}")
        if record is None:
            return None
        versions = record["keys"]
        numbers = sorted(map(int, versions))
        return KeyToDestroy(name, f"{numbers[0]}-{numbers[-1]}", _fingerprint(record))

    def destroy(self, kind: TenantKeyKind, tenant_id: str) -> None:
        """Destroy the key and see that it is gone; one that is gone already stays so.

        Raises:
            KeyUnavailable: it is there after it was destroyed; tried again.
        """
        path = f"transit/keys/{_NAMES[kind](tenant_id)}"
        if self._looking.read(path) is None:
            return
        try:
            self._destroying.write(f"{path}/config", {"deletion_allowed": True})
            self._destroying.delete(path)
        except VaultRejected:
            # Another attempt, taken for dead, may have been faster; anything else is found by looking.
            if self._looking.read(path) is not None:
                raise
        if self._looking.read(path) is not None:
            raise KeyUnavailable("the key is still there after it was destroyed")


def _fingerprint(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what can be known of a key: of the newest public key, or else of the server's own record.

    Of a symmetric key nobody has the material. Its name, type and the time at which each version was made are what the
    key server and its audit log say of it, and what anybody can compare who was shown the record before.
    """
    newest = record["keys"][str(record["latest_version"])]
    if isinstance(newest, Mapping) and newest.get("public_key"):
        public = serialization.load_pem_public_key(str(newest["public_key"]).encode())
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return hashlib.sha256(public.public_bytes(serialization.Encoding.DER, form)).hexdigest()
    said = {"name": record["name"], "type": record["type"], "created": dict(sorted(record["keys"].items()))}
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
