"""Irreversible destruction of an offboarded tenant's Transit keys (policies/offboarding.hcl).

The arguments are tenant and kind, never a name, so that no caller can destroy a key of the platform by mistake. Transit
deletes a key with all its versions, and no encrypt creates the name again, because upsert is disabled.
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
    """The kinds of a tenant's keys in the key server."""

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
    """The description of a key before its destruction; `fingerprint` is a SHA-256 in hex."""

    name: str
    versions: str
    fingerprint: str


class TransitDestroyer:
    """The destruction of an offboarded tenant's keys, with an identity that can do nothing else."""

    def __init__(self, destroying: VaultClient, reading: VaultClient) -> None:
        """`destroying` has the identity `offboarding`, which can only destroy; `reading` may read keys."""
        self._destroying = destroying
        self._reading = reading

    def describe(self, kind: TenantKeyKind, tenant_id: str) -> KeyToDestroy | None:
        """Return the description of a key; None when it does not exist."""
        name = _NAMES[kind](tenant_id)
        record = self._reading.read(f"transit/keys/{name}")
        if record is None:
            return None
        versions = record["keys"]
        numbers = sorted(map(int, versions))
        return KeyToDestroy(name, f"{numbers[0]}-{numbers[-1]}", _fingerprint(record))

    def destroy(self, kind: TenantKeyKind, tenant_id: str) -> None:
        """Destroy the key and verify that it no longer exists; without effect on a destroyed key.

        Raises:
            KeyUnavailable: the key still exists afterwards; retryable.
        """
        path = f"transit/keys/{_NAMES[kind](tenant_id)}"
        if self._reading.read(path) is None:
            return
        try:
            self._destroying.write(f"{path}/config", {"deletion_allowed": True})
            self._destroying.delete(path)
        except VaultRejected:
            # A timed-out attempt may have been faster; the check below detects any other failure.
            if self._reading.read(path) is not None:
                raise
        if self._reading.read(path) is not None:
            raise KeyUnavailable("the key still exists after its destruction")


def _fingerprint(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the newest public key, or of the server's record of a symmetric key.

    The material of a symmetric key is not available. Its name, type and the creation time of each version are in the
    key server and its audit log, so a verifier who has the record can compare them.
    """
    newest = record["keys"][str(record["latest_version"])]
    if isinstance(newest, Mapping) and newest.get("public_key"):
        public = serialization.load_pem_public_key(str(newest["public_key"]).encode())
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return hashlib.sha256(public.public_bytes(serialization.Encoding.DER, form)).hexdigest()
    described = {"name": record["name"], "type": record["type"], "created": dict(sorted(record["keys"].items()))}
    return hashlib.sha256(json.dumps(described, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
