"""Fingerprints of keys on record and what each tenant leaves for the others to try; part of `interfaces`."""

from dataclasses import dataclass
from enum import StrEnum


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
