"""The tenant's keys by name (MTCI M1), their fingerprints, and a ciphertext for the isolation checks of other tenants.

The key material never leaves OpenBao. A SQL function records fingerprints and returns nothing about other tenants'
keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from core.errors.platform import ConflictingResource
from core.keys.root_keys import Place
from core.keys.rotation import KeyState
from database.repository import Repository

_KEY = "select name, kind, version, created_at, oldest, rotated_at from okcm.key"


class KeyRow(NamedTuple):
    """A key in OpenBao, by name; `kind` is L2, CA or payload. `oldest` is the first version that still decrypts."""

    name: str
    kind: str
    version: int
    created_at: datetime
    oldest: int
    rotated_at: datetime


class Keys(Repository):
    def record(self, name: str, kind: str, version: int) -> None:
        """Record a key once; raise ConflictingResource if the name is recorded with another kind or version."""
        recorded = self.connection.execute(
            "insert into okcm.key (tenant_id, name, kind, version) values (%s, %s, %s, %s) on conflict do nothing",
            [self.tenant_id, name, kind, version],
        )
        if recorded.rowcount == 1:
            return
        kept = self.connection.execute("select kind, version from okcm.key where name = %s", [name]).fetchone()
        if kept != (kind, version):
            raise ConflictingResource("key", name, f"recorded as {kept}, not {(kind, version)}")

    def get(self, name: str) -> KeyRow | None:
        row = self.connection.execute(f"{_KEY} where name = %s", [name]).fetchone()
        return None if row is None else KeyRow(*row)

    def all(self) -> Sequence[KeyRow]:
        return [KeyRow(*row) for row in self.connection.execute(f"{_KEY} order by name")]


class Fingerprinted(StrEnum):
    """The result of recording the fingerprint of a key."""

    RECORDED = "recorded"
    """The fingerprint is new and is now reserved for this key."""
    KNOWN = "known"
    """The same fingerprint is recorded for this version of the key."""
    CHANGED = "changed"
    """Another fingerprint is recorded for this version of the key."""
    TAKEN = "taken"
    """The fingerprint is recorded for another key."""


class KeyProbeRow(NamedTuple):
    """A ciphertext of the newest version of the tenant key, in the encryption context that all tenants share.

    `tried` is the last tenant whose ciphertext was tried with this tenant's key.
    """

    l2_key: str
    version: int
    ciphertext: str
    tried: str = ""


class Fingerprints(Repository):
    """Fingerprints and test ciphertexts of one tenant's keys (worker). No role can read a fingerprint."""

    def record(self, key: str, version: int, fingerprint: str) -> Fingerprinted:
        """Record the fingerprint (SHA-256, hex) of a version of a key, permanently."""
        row = self.connection.execute(
            "select okcm.record_fingerprint(%s, %s, %s)", [key, version, fingerprint]
        ).fetchone()
        return Fingerprinted(row[0] if row else "")

    def probe(self) -> KeyProbeRow | None:
        """Return the ciphertext of this tenant that other tenants' keys must fail to decrypt."""
        row = self.connection.execute("select l2_key, version, ciphertext, tried from okcm.key_probe").fetchone()
        return None if row is None else KeyProbeRow(*row)

    def leave(self, probe: KeyProbeRow) -> None:
        """Replace the ciphertext of this tenant."""
        self.connection.execute(
            "insert into okcm.key_probe (tenant_id, l2_key, version, ciphertext, tried) values (%s, %s, %s, %s, %s)"
            " on conflict (tenant_id) do update set l2_key = excluded.l2_key, version = excluded.version,"
            " ciphertext = excluded.ciphertext, tried = excluded.tried, left_at = excluded.left_at",
            [self.tenant_id, probe.l2_key, probe.version, probe.ciphertext, probe.tried],
        )


@dataclass(frozen=True, slots=True)
class EncryptedRootKeyRow:
    """The reference to a root key, and its credentials encrypted by the tenant's L2."""

    root_key_id: str
    place: Place
    credentials: str = field(repr=False)


class VersionUseRow(NamedTuple):
    """A version of a service key and the number of managed objects that it encrypts."""

    service: str
    version: int
    objects: int


class ServiceKeyRow(NamedTuple):
    """An L3 key: `wrapped` is L1.wrap(L2.encrypt(L3)), bound to the context of `service` and `version`."""

    service: str
    version: int
    l2_key: str
    root_key_mode: str
    root_key: str
    wrapped: bytes
    root_key_id: str | None = None
    """The customer's root key; None is the platform's root key."""
    state: KeyState = KeyState.ACTIVE
    l2_version: int = 1
    """The version of L2 that encrypted it."""


class KeyVersionRow(NamedTuple):
    """An L3 key by name, without its wrap."""

    service: str
    version: int
    l2_key: str
    root_key_mode: str
    root_key: str
    created_at: datetime
    state: KeyState = KeyState.ACTIVE
    l2_version: int = 1
    activated_at: datetime | None = None
    deactivated_at: datetime | None = None
    destroyed_at: datetime | None = None
    last_opened_at: datetime | None = None
    """When the crypto service last unwrapped it, to the minute."""
    emptied_at: datetime | None = None
    """When it no longer encrypted any managed object; afterwards it may encrypt none."""
