"""What one may do with a tenant's audit stream; part of `interfaces`, where everybody else finds it."""

from dataclasses import dataclass
from datetime import datetime

from database.rows import SignedHead
from openkcm.contract.audit_events import StoredRecord


@dataclass(frozen=True, slots=True)
class FoundRecord:
    """A record and the chain hash of the one before it: `GENESIS` before the first, None where it is missing."""

    stored: StoredRecord
    previous: bytes | None


@dataclass(frozen=True, slots=True)
class StreamEnds:
    """The last record; the newest signed head, when it was signed, and the record that now lies at its number."""

    last: StoredRecord | None
    signed: SignedHead | None
    signed_at: datetime | None
    at_signed: StoredRecord | None
