"""The tenant's keys by name (MTCI M1); the keys themselves never leave Vault.

Fingerprints of keys on record and what each tenant leaves for the others to try; part of `interfaces`.

Fingerprints of keys, written through a function that tells nothing of anybody else's, and probes of the trial.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from psycopg import Connection
from psycopg.rows import TupleRow

from core.errors.platform import ConflictingResource
from core.keys.root_keys import Place
from core.keys.rotation import KeyState

_KEY = "select name, kind, version, created_at, oldest, rotated_at from okcm.key"


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key held by Vault, by name; `kind` is L2, CA or payload. `oldest` is the first version that opens anything."""

    name: str
    kind: str
    version: int
    created_at: datetime
    oldest: int
    rotated_at: datetime


@dataclass(frozen=True, slots=True)
class Keys:
    connection: Connection[TupleRow]
    tenant_id: str

    def record(self, name: str, kind: str, version: int) -> None:
        """Record a key once; the same name again must be the same kind and version or it raises."""
        recorded = self.connection.execute(
            "insert into okcm.key (tenant_id, name, kind, version) values (%s, %s, %s, %s) on conflict do nothing",
            [self.tenant_id, name, kind, version],
        )
        if recorded.rowcount == 1:
            return
        kept = self.connection.execute("select kind, version from okcm.key where name = %s", [name]).fetchone()
        if kept != (kind, version):
            raise ConflictingResource("key", name, f"on record is {kept}, not {(kind, version)}")

    def get(self, name: str) -> KeyRow | None:
        row = self.connection.execute(f"{_KEY} where name = %s", [name]).fetchone()
        return None if row is None else KeyRow(*row)

    def all(self) -> Sequence[KeyRow]:
        return [KeyRow(*row) for row in self.connection.execute(f"{_KEY} order by name")]


class Fingerprinted(StrEnum):
    """What came of putting a key's fingerprint on record."""

    RECORDED = "recorded"
    """It is new, and nobody else can have it from now on."""
    KNOWN = "known"
    """It is the one on record."""
    CHANGED = "changed"
    """Another one is on record for this version of the key."""
    TAKEN = "taken"
    """It is on record for another key."""


@dataclass(frozen=True, slots=True)
class KeyProbeRow:
    """A ciphertext under the newest version of the tenant key, in the context that all tenants share.

    `tried` is the tenant whose probe was the last that this tenant's key was tried on.
    """

    l2_key: str
    version: int
    ciphertext: str
    tried: str = ""


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """Fingerprints and probes of one tenant's keys (worker). Nobody reads a fingerprint, not even its own."""

    connection: Connection[TupleRow]
    tenant_id: str

    def record(self, key: str, version: int, fingerprint: str) -> Fingerprinted:
        """Put the fingerprint of a version of a key on record, once and for good (SHA-256, hex)."""
        row = self.connection.execute(
            "select okcm.record_fingerprint(%s, %s, %s)", [key, version, fingerprint]
        ).fetchone()
        return Fingerprinted(row[0] if row else "")

    def probe(self) -> KeyProbeRow | None:
        """Return what the tenant left for others."""
        row = self.connection.execute("select l2_key, version, ciphertext, tried from okcm.key_probe").fetchone()
        return None if row is None else KeyProbeRow(*row)

    def leave(self, probe: KeyProbeRow) -> None:
        """Replace it."""
        self.connection.execute(
            "insert into okcm.key_probe (tenant_id, l2_key, version, ciphertext, tried) values (%s, %s, %s, %s, %s)"
            " on conflict (tenant_id) do update set l2_key = excluded.l2_key, version = excluded.version,"
            " ciphertext = excluded.ciphertext, tried = excluded.tried, left_at = excluded.left_at",
            [self.tenant_id, probe.l2_key, probe.version, probe.ciphertext, probe.tried],
        )


@dataclass(frozen=True, slots=True)
class EncryptedRootKeyRow:
    """What it takes to use a root key: where it is, and its credentials under the tenant's L2."""

    root_key_id: str
    place: Place
    credentials: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class VersionUseRow:
    """A version of a service key and how many managed objects are sealed under it."""

    service: str
    version: int
    objects: int


@dataclass(frozen=True, slots=True)
class ServiceKeyRow:
    """An L3: `wrapped` is L1.wrap(L2.encrypt(L3)), bound to the context of `service` and `version`."""

    service: str
    version: int
    l2_key: str
    root_key_mode: str
    root_key: str
    wrapped: bytes
    root_key_id: str | None = None
    """Which of the customer's keys it is; None: the platform's."""
    state: KeyState = KeyState.ACTIVE
    l2_version: int = 1
    """The version of L2 that the wrap lies under."""


@dataclass(frozen=True, slots=True)
class KeyVersionRow:
    """An L3 by name, without what is wrapped."""

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
    """When the crypto service last opened it, to the minute."""
    emptied_at: datetime | None = None
    """When no managed object was left under it; from then on none may be."""
