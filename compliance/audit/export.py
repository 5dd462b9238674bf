"""Export of an audit stream, for the download of the dashboard and for the command.

A stream can contain millions of records, so the export reads it in pieces, each in a short transaction. A slow or
disconnected reader therefore holds no transaction. Imports no psycopg: it uses the interfaces of the database package.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from core.audit import AuditFilter
from core.errors.compliance import ExportedRecordsArchived
from database.audit import ArchivedPart, SignedCheckpoint
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from openkcm.contract.audit_events import StoredRecord
from openkcm.errors import AuditBroken
from openkcm.verification.audit_export import (
    ArchiveStatement,
    Checkpoint,
    ExportHeader,
    check_archived,
    export_lines,
)
from openkcm.verification.public_keys import PublicKeys

PIECE = 5_000
"""Records in one transaction, a few megabytes; the caller can cancel between two pieces."""


@dataclass(frozen=True, slots=True)
class Export:
    """A started export; records that are appended later are not part of it."""

    header: ExportHeader
    chosen: AuditFilter
    among: range

    def lines(self, database: Database, handed_out: Callable[[int], None]) -> Iterator[str]:
        """Yield the file in chunks of lines; before the end, call `handed_out` with the number of records.

        Raises:
            ExportedRecordsArchived: the file is incomplete, because the archive was faster.
        """
        return export_lines(self.header, self._pieces(database), handed_out)

    def rendered(
        self, database: Database, handed_out: Callable[[int], None], line: Callable[[StoredRecord], str]
    ) -> Iterator[str]:
        """Yield each record in the format of `line`; this output cannot be verified."""
        records = 0
        for piece in self._pieces(database):
            records += len(piece)
            yield "".join(line(stored) for stored, _ in piece)
        handed_out(records)

    def _pieces(self, database: Database) -> Iterator[Sequence[tuple[StoredRecord, bytes | None]]]:
        among = self.among
        while among:
            window, among = among[:PIECE], among[PIECE:]
            with database.tenant_snapshot(self.header.tenant_id) as tx:
                archived, found = tx.audit.archived(), tx.audit.found(self.chosen, window, PIECE, newest_first=False)
            if archived is not None and archived.seq >= window.start:
                raise ExportedRecordsArchived
            yield [(one.stored, one.previous) for one in found]


def begin_export(
    tx: TenantTransaction, chosen: AuditFilter, at: datetime, fingerprint_of: Callable[[str], str]
) -> Export:
    """Start an export in the caller's snapshot; `fingerprint_of` maps a key name to its fingerprint, else empty."""
    ends, among = tx.audit.ends(), tx.audit.numbers(chosen)
    header = ExportHeader(
        tenant_id=tx.tenant_id,
        exported_at=at,
        last_seq=0 if ends.last is None else ends.last.seq,
        selection=chosen.words(),
        signed_head=None if ends.signed is None else checkpoint(ends.signed, fingerprint_of),
        archived=None if ends.archived is None else archive_statement(ends.archived, fingerprint_of),
    )
    return Export(header, chosen, among)


def checkpoint(head: SignedCheckpoint, fingerprint_of: Callable[[str], str]) -> Checkpoint:
    """Return a stored checkpoint in the form of a file."""
    return Checkpoint(
        seq=head.seq,
        chain_hash=head.chain_hash.hex(),
        signature=head.signature,
        key=head.key,
        fingerprint=fingerprint_of(head.key),
    )


def archive_statement(part: ArchivedPart, fingerprint_of: Callable[[str], str]) -> ArchiveStatement:
    """Return the statement about an archived part in the form of a file."""
    return ArchiveStatement(
        seq=part.seq,
        chain_hash=part.chain_hash.hex(),
        sha256=part.sha256.hex(),
        signature=part.signature,
        key=part.key,
        fingerprint=fingerprint_of(part.key),
    )


def require_archive_signature(tenant_id: str, part: ArchivedPart | None, keys: PublicKeys) -> None:
    """Require a valid signature of an archived part; None requires nothing.

    Without it, deleted records could be declared as archived.

    Raises:
        AuditBroken: the signature is missing, invalid or by another key.
    """
    if part is None:
        return
    checked = check_archived(tenant_id, archive_statement(part, keys.fingerprint), keys.check)
    if checked.problem is not None:
        raise AuditBroken(f"archive of the records to {part.seq}: {checked.problem}")
