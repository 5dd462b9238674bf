"""Certificate authorities and all that ends: rows, and the part of `interfaces` about them. Imports no psycopg."""

from dataclasses import dataclass
from datetime import datetime

from core.certificates import Ending


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
