"""What the rest of the controller may ask of OpenBao or Vault. Imports no hvac.

Every `ensure_` is get-or-create by name, safe to run twice and from two processes at once, and compares what exists
with what was asked for (Transit answers 200 with the *old* key whatever was asked), raising ConflictingResource.
All raise VaultUnavailable when the server does not answer and VaultRefused when a policy says no.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from tenancy.binding import Context
from tenancy.boundaries import CheckResult
from tenancy.errors import WrongContext


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


class TenantKeys(Protocol):
    """L2 tenant keys (MTCI U1, U2): aes256-gcm96, derived, never exportable, upsert off."""

    def ensure(self, tenant_id: str) -> TransitKey:
        """Return the tenant's key, made if missing, enabled if it was disabled."""
        ...

    def encrypt(self, context: Context, plaintext: bytes) -> str:
        """Encrypt under `context.l2_key`, bound to the whole context by key derivation (survives rewrap)."""
        ...

    def decrypt(self, context: Context, ciphertext: str) -> bytes:
        """Raises WrongContext when key or context differ from encryption, KeyUnavailable when there is no key."""
        ...

    def new_wrapped_key(self, context: Context) -> str:
        """Return 256 random bits encrypted under `context.l2_key`; they were never outside of Vault."""
        ...

    def disable(self, tenant_id: str) -> None:
        """Make the key refuse everything, reversibly, at once. A key that does not exist is already disabled."""
        ...

    def newest(self, tenant_id: str) -> TransitKey:
        """Return the key as it is, with its newest version; raises KeyUnavailable when there is none."""
        ...

    def rotate(self, tenant_id: str, expected_version: int) -> TransitKey:
        """Make the next version if the newest is still `expected_version`; return the key with its newest version.

        Two that do so at the same moment can make two versions, which does no harm.
        """
        ...

    def rewrap(self, items: Sequence[tuple[Context, str]]) -> Sequence[str]:
        """Return ciphertexts of one tenant under the newest version, each seen to open; at most `REWRAP_BATCH`.

        The plaintexts never leave Vault. Raises WrongContext when one does not open, KeyUnavailable.
        """
        ...

    def retire(self, tenant_id: str, oldest: int) -> None:
        """Let no version before `oldest` encrypt or decrypt. A key that is further already stays so.

        An administrator of the server can undo it until it is trimmed.
        """
        ...

    def trim(self, tenant_id: str, oldest: int) -> None:
        """Delete the versions before `oldest`, which are retired, for good; no backup of the database opens again."""
        ...


class KeyFingerprints(Protocol):
    """What tells two tenant keys apart without opening either (MTCI U2)."""

    def of(self, tenant_id: str, version: int) -> str:
        """Return the fingerprint of a version of the tenant's key, SHA-256 in hex, the same for good.

        The same for a key that lies under two names or was restored from a backup, and for nothing else. Raises
        KeyUnavailable for a version that is retired, and for a key that is missing or disabled.
        """
        ...


class RootKeys(Protocol):
    """The platform's own root keys (L1), one Transit key for each region, derived, never exportable."""

    def ensure(self, region: str) -> TransitKey:
        """Return the region's key, made if missing (worker)."""
        ...

    def wrap(self, root_key: str, context: bytes, inner: bytes) -> bytes:
        """Encrypt `inner` bound to `context` (worker and crypto service)."""
        ...

    def unwrap(self, root_key: str, context: bytes, wrapped: bytes) -> bytes:
        """Decrypt (worker and crypto service); raises WrongContext, KeyUnavailable."""
        ...

    def wrap_all(self, root_key: str, items: Sequence[tuple[bytes, bytes]]) -> Sequence[bytes]:
        """Encrypt at most `REWRAP_BATCH` of context and bytes in one call (worker)."""
        ...

    def unwrap_all(self, root_key: str, items: Sequence[tuple[bytes, bytes]]) -> Sequence[bytes]:
        """Decrypt at most `REWRAP_BATCH` of context and wrap in one call (worker); raises when one does not open."""
        ...


class ServerCertificates(Protocol):
    """Certificates for our own TLS servers, from the PKI root by a role that signs server names only."""

    def sign(self, csr_pem: str, names: Sequence[str], lifetime: timedelta) -> tuple[str, str]:
        """Return certificate and root as PEM; `names` are DNS names and IP addresses."""
        ...


class CertificateAuthorities(Protocol):
    def ensure(
        self, tenant_id: str, unknown_serials: Callable[[Sequence[str]], Sequence[str]], version: int = 1
    ) -> Authority:
        """Return the tenant's CA: a Transit key of its own, signed by the PKI root, constrained to the tenant's name.

        `version` is that of the key; asked for the one after the newest, it is made, which is how an authority is
        rolled. An older version goes on signing for its own authority.

        Signing cannot be repeated without leaving a second certificate behind, so a certificate that was signed but
        never recorded is looked for first: `unknown_serials` tells which of PKI's serials no tenant has on record.
        """
        ...

    def issue(self, authority: Authority, tenant_id: str, service: str, csr_pem: str, lifetime: timedelta) -> Leaf:
        """Issue a leaf (RFC 5280) for a CSR: only its public key is taken, the names come from the arguments.

        Raises: AuthorityLapsed, among others.
        """
        ...

    def prove(self, authority: Authority, tenant_id: str, trusted: Authority) -> None:
        """Have an authority issue a leaf that nobody keeps, and verify it up to the root of one that is trusted.

        Raises: ConflictingResource when it does not verify, or the authority may not sign revocation lists.
        """
        ...

    def revoke(self, authority: Authority, tenant_id: str, wanted: RevocationList) -> bytes:
        """Return the authority's revocation list, signed by its own version of the key, in DER."""
        ...

    def root(self) -> PkiRoot:
        """Return the root that signs authorities today; raises KeyUnavailable when there is none."""
        ...

    def disable(self, tenant_id: str) -> None:
        """Stop the CA from signing, reversibly."""
        ...


class PayloadKeys(Protocol):
    """The Transit keys that wrap the data keys of workflow payloads."""

    def ensure(self, tenant_id: str) -> TransitKey: ...

    def new_data_key(self, key_name: str) -> tuple[bytes, str]:
        """Return 32 random bytes and the same wrapped; raises KeyUnavailable when there is no such key."""
        ...

    def open_data_key(self, key_name: str, wrapped: str) -> bytes: ...


class AuditSigner(Protocol):
    def sign(self, message: bytes) -> tuple[str, str]:
        """Return the signature and `key:version` that made it."""
        ...

    def sign_all(self, messages: Sequence[bytes]) -> Sequence[tuple[str, str]]:
        """Return the same for each of several messages, in their order."""
        ...

    def public_keys(self) -> dict[str, str]:
        """Return `key:version` → PEM of every public key a head may be signed with."""
        ...


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


class Destroyer(Protocol):
    """Destroys the keys of a tenant that has left, with an identity that can do nothing else."""

    def describe(self, kind: TenantKeyKind, tenant_id: str) -> DoomedKey | None:
        """Return what will be known of the key once it is gone; None when there is no such key."""
        ...

    def destroy(self, kind: TenantKeyKind, tenant_id: str) -> None:
        """Destroy the key and see that it is gone; one that is gone already stays so."""
        ...


@dataclass(frozen=True, slots=True)
class ForgedLeaf:
    """What a certificate is to say that its tenant's authority would never have signed by itself.

    `serial` is one that somebody else has on record, lower-case hex; None for a fresh one.
    """

    tenant_id: str
    dns_of: str
    service: str
    serial: str | None = None


class Forger(Protocol):
    """A tenant's authority in the wrong hands: it signs what it is told to, and nothing of that is ever on record."""

    def forge(
        self, tenant_id: str, authority: Authority, key: ec.EllipticCurvePublicKey, wanted: Sequence[ForgedLeaf]
    ) -> Sequence[Leaf]:
        """Return one short-lived certificate for `key` of each that is wanted, signed by `tenant_id`'s authority."""
        ...


class BoundaryProbe(Protocol):
    """Attacks on keys and certificates across two tenants (MTCI U2, C2, C3, A1, A3)."""

    def attack_each_other(
        self, one: str, other: str, one_ca: Authority, other_ca: Authority
    ) -> tuple[Sequence[CheckResult], Sequence[CheckResult]]:
        """Let each attack the other with everything it has; returns what `one` and what `other` achieved.

        Its token on the other's key, the other's ciphertext under its own key and under a swapped context, a
        certificate of its CA for the other's names and issuer.
        """
        ...


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


class KeyProbe(Protocol):
    """Attacks on one tenant's key by everybody who could get at it (MTCI U1 to U5, E1, E2).

    Raises what is neither a refusal nor a breach.
    """

    def attack(self, target: KeyTarget, others: Sequence[str]) -> KeyFindings:
        """Attack the key alone, and have it tried on the probes of other tenants."""
        ...

    def attack_wrap(
        self, target: KeyTarget, context: Context, outer: bytes, inner: bytes | None
    ) -> Sequence[CheckResult]:
        """Attack a service key with one of its two keys each.

        `inner` is what its root key made of `outer`, None where it opened nothing. Raises ControlFailed for a service
        key that does not open at all.
        """
        ...

    def steal_wrap(self, target: KeyTarget, context: Context, inner: bytes, thief: str) -> CheckResult:
        """Have another tenant, which has a working key, open what lies under the root key."""
        ...
