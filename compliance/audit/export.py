"""Handing out an audit stream, for the dashboard's download and the command alike. Each piece is a short transaction.

A stream can hold millions of records, so nothing here reads it at once, and a reader that is slow or gone holds no
transaction open. Imports no psycopg: what it needs of the database comes through the interfaces.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from core.audit import AuditFilter
from database.audit import StreamBounds
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from openkcm.contract.audit_events import StoredRecord
from openkcm.verification.audit_export import Checkpoint, ExportHeader, export_lines

PIECE = 5_000
"""Records handed out or verified between two looks at whether to go on; a few megabytes."""


@dataclass(frozen=True, slots=True)
class Export:
    """An export that was begun: from here on the stream may grow, and the file ends where it ended."""

    header: ExportHeader
    chosen: AuditFilter
    among: range

    def lines(self, database: Database, handed_out: Callable[[int], None]) -> Iterator[str]:
        """Yield the file, some lines at a time; `handed_out` is told how many records there were, before its end."""
        return export_lines(self.header, self._pieces(database), handed_out)

    def rendered(
        self, database: Database, handed_out: Callable[[int], None], line: Callable[[StoredRecord], str]
    ) -> Iterator[str]:
        """Yield each record as `line` tells it; nothing of this can be verified."""
        records = 0
        for piece in self._pieces(database):
            records += len(piece)
            yield "".join(line(stored) for stored, _ in piece)
        handed_out(records)

    def _pieces(self, database: Database) -> Iterator[Sequence[tuple[StoredRecord, bytes | None]]]:
        among = self.among
        while among:
            window, among = among[:PIECE], among[PIECE:]
            with database.tenant_tx(self.header.tenant_id) as tx:
                found = tx.audit.found(self.chosen, window, PIECE, newest_first=False)
            yield [(one.stored, one.previous) for one in found]


def begin_export(
    tx: TenantTransaction, chosen: AuditFilter, at: datetime, fingerprint_of: Callable[[str], str]
) -> Export:
    """Begin an export in the caller's transaction; `fingerprint_of` is a key's by its name, empty if unknown."""
    ends, among = tx.audit.ends(), tx.audit.numbers(chosen)
    header = ExportHeader(
        tenant_id=tx.tenant_id,
        exported_at=at,
        last_seq=0 if ends.last is None else ends.last.seq,
        selection=chosen.words(),
        signed_head=_signed(ends, fingerprint_of),
    )
    return Export(header, chosen, among)


def _signed(ends: StreamBounds, fingerprint_of: Callable[[str], str]) -> Checkpoint | None:
    head = ends.signed
    if head is None:
        return None
    return Checkpoint(
        seq=head.seq,
        chain_hash=head.chain_hash.hex(),
        signature=head.signature,
        key=head.key,
        fingerprint=fingerprint_of(head.key),
    )
