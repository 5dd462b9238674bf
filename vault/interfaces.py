"""What the rest of the controller may ask of OpenBao or Vault. Imports no hvac.

Every `ensure_` is get-or-create by name, safe to run twice and from two processes at once, and compares what exists
with what was asked for (Transit answers 200 with the *old* key whatever was asked), raising ConflictingResource.
All raise VaultUnavailable when the server does not answer and VaultRefused when a policy says no.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from core.errors.keys import WrongContext
from core.isolation import CheckResult


class Capability(StrEnum):
    """What OpenBao has and Vault's community edition has not."""

    SOFT_DELETE = "soft-delete"
    INLINE_AUTH = "inline authentication"


@dataclass(frozen=True, slots=True)
class TransitKey:
    """A key by name; `version` is its newest one, `oldest` the first that still opens anything."""

    name: str
    version: int
    oldest: int = 1


@dataclass(frozen=True, slots=True)
class Authority:
    """A tenant's CA certificate. `serial` is lower-case hex without separators, `chain_pem` ends in the root.

    `key_version` is the version of the tenant's key that it is about, which alone signs for it.
    """

    serial: str
    certificate_pem: str
    chain_pem: str
    not_after: datetime
    fingerprint: str
    key_version: int


@dataclass(frozen=True, slots=True)
class PkiRoot:
    """The certificate that every authority hangs from; no other ends later."""

    serial: str
    begins: datetime
    ends: datetime


@dataclass(frozen=True, slots=True)
class Leaf:
    serial: str
    certificate_pem: str
    not_after: datetime


@dataclass(frozen=True, slots=True)
class RevocationList:
    """What a revocation list (RFC 5280, section 5) is to say; `revoked` are serials with the moment of each."""

    number: int
    this_update: datetime
    next_update: datetime
    revoked: Sequence[tuple[str, datetime]]


REWRAP_BATCH = 100
"""Ciphertexts in one call: the server's listener takes 1,000 strings of JSON by default, and each item has four."""


def ciphertext_version(ciphertext: str) -> int:
    """Return the version of the Transit key that a ciphertext lies under, which it says in the clear."""
    scheme, version, rest = (*ciphertext.split(":", 2), "", "")[:3]
    if scheme != "vault" or not version.startswith("v") or not version[1:].isdecimal() or not rest:
        raise WrongContext
    return int(version[1:])


class TenantKeyKind(StrEnum):
    """The keys that a tenant has at the key server."""

    TENANT = "tenant"
    AUTHORITY = "authority"
    PAYLOAD = "payload"


@dataclass(frozen=True, slots=True)
class DoomedKey:
    """What is known of a key before it is destroyed; `fingerprint` is a SHA-256, hex."""

    name: str
    versions: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class ForgedLeaf:
    """What a certificate is to say that its tenant's authority would never have signed by itself.

    `serial` is one that somebody else has on record, lower-case hex; None for a fresh one.
    """

    tenant_id: str
    dns_of: str
    service: str
    serial: str | None = None


@dataclass(frozen=True, slots=True)
class KeyTarget:
    """A tenant's key as it is on record: `oldest` to `newest` are the versions that open anything.

    While a rotation has not come to its end (`rotating`) the key server may be a step ahead of the records.
    """

    tenant_id: str
    oldest: int
    newest: int
    rotating: bool


@dataclass(frozen=True, slots=True)
class KeyFindings:
    """What attacks on a key found; `probe` is what the tenant leaves for others, None where it could make none."""

    results: Sequence[CheckResult]
    probe: str | None
