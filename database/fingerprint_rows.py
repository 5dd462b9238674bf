"""Fingerprints of keys on record and what each tenant leaves for the others to try; part of `interfaces`."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from tenancy.boundaries import CheckResult


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


class Fingerprints(Protocol):
    """Fingerprints and probes of one tenant's keys (worker). Nobody reads a fingerprint, not even its own."""

    def record(self, key: str, version: int, fingerprint: str) -> Fingerprinted:
        """Put the fingerprint of a version of a key on record, once and for good (SHA-256, hex)."""
        ...

    def probe(self) -> KeyProbeRow | None:
        """Return what the tenant left for others."""
        ...

    def leave(self, probe: KeyProbeRow) -> None:
        """Replace it."""
        ...


class DescentProbe(Protocol):
    """Attacks on the descent of a tenant's rows from its own L2 (MTCI A2, E2, M1)."""

    def attack(self, tenant_id: str, foreign_l2: str) -> Sequence[CheckResult]:
        """Look at all of them, and try to write some that descend from `foreign_l2`; nothing stays of that."""
        ...
