"""Certificate authorities and all that ends: rows, and the part of `interfaces` about them. Imports no psycopg."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from database.rows import AuthorityRow
from tenancy.expiry import Ending


@dataclass(frozen=True, slots=True)
class RevokedRow:
    serial: str
    revoked_at: datetime


@dataclass(frozen=True, slots=True)
class RevocationListRow:
    """The newest revocation list of the authority with this serial, in DER."""

    authority: str
    number: int
    der: bytes
    this_update: datetime
    next_update: datetime


@dataclass(frozen=True, slots=True)
class EndingRow:
    """Something that was not renewed in time. `serial` tells it from what it replaced and from what replaces it."""

    tenant_id: str
    region: str
    kind: Ending
    name: str
    serial: str
    generation: int
    begins: datetime
    ends: datetime


class Certificates(Protocol):
    def record_authority(self, authority: AuthorityRow) -> AuthorityRow:
        """Record an authority and return the one on record for its version of the key, which is the first recorded."""
        ...

    def authority(self) -> AuthorityRow | None:
        """Return the current one, which issues."""
        ...

    def issuer(self, serial: str) -> AuthorityRow | None:
        """Return any authority by its serial."""
        ...

    def authorities(self) -> Sequence[AuthorityRow]:
        """Return all there ever were, the newest first."""
        ...

    def activate(self, serial: str) -> None:
        """Let a prepared authority issue; the one before it is the former from then on."""
        ...

    def end(self, serial: str) -> bool:
        """End a prepared or former authority for good; False when it was neither."""
        ...

    def issued_until(self, serial: str) -> datetime | None:
        """Return when the last certificate of an authority expires, revoked ones included; None without any."""
        ...

    def unrenewed(self, limit: int) -> Sequence[str]:
        """Return connected services without a certificate of the current authority."""
        ...

    def revoked(self, serial: str) -> tuple[Sequence[RevokedRow], datetime]:
        """Return an authority's certificates that are revoked and not expired, and when this was read.

        Nothing that is revoked later is dated before that, if the tenant's row is locked (`Tenants.lock`).
        """
        ...

    def revocation_lists(self) -> Sequence[RevocationListRow]:
        """Return the newest list of each authority, the newest of all first."""
        ...

    def publish(self, listed: RevocationListRow) -> bool:
        """Replace an authority's list; False when the number is not beyond those of all lists of the tenant."""
        ...
