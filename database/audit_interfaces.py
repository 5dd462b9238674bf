"""What one may do with a tenant's audit stream; part of `interfaces`, where everybody else finds it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from database.rows import SignedHead
from tenancy.audit import AuditEvent, StoredRecord
from tenancy.audit_search import AuditFilter


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


class AuditStream(Protocol):
    def append(self, event: AuditEvent) -> int:
        """Append to the tenant's stream and return the sequence number; an event id seen before adds nothing."""
        ...

    def append_command(self, event: AuditEvent) -> int:
        """Append what an operator's command did, as `append` does; the operator's role may append nothing else."""
        ...

    def append_all(self, events: Sequence[AuditEvent]) -> None:
        """Append each in order, as `append` does, in one round trip."""
        ...

    def records(self, after: int = 0, limit: int = 1000) -> Sequence[StoredRecord]: ...

    def head(self) -> StoredRecord | None: ...

    def save_signed_head(self, head: SignedHead) -> None: ...

    def signed_heads(self) -> Sequence[SignedHead]: ...

    def ends(self) -> StreamEnds: ...

    def numbers(self, chosen: AuditFilter) -> range:
        """Return the numbers of all records in the filter's time; times grow with numbers, so these are neighbours."""
        ...

    def found(self, chosen: AuditFilter, among: range, limit: int, *, newest_first: bool) -> Sequence[FoundRecord]:
        """Return the newest or the oldest records of `among` that the filter wants, its times aside, in that order.

        No index knows what is in a record, so the time this takes grows with the length of `among`: the caller MUST
        keep that short and ask again for what is beyond.
        """
        ...


class AuditKeys(Protocol):
    """The public keys by which heads and certificates are checked: the platform's, no tenant's."""

    def audit_keys(self) -> Mapping[str, str]:
        """Return `key:version` → PEM of every public key on record (operator, dashboard, worker, crypto)."""
        ...
