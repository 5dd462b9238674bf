"""Archive files of audit streams: exports of old records, which are deleted from the database afterwards.

A file is a function of the records and their checkpoint, without the time of its creation. A repetition after a crash
therefore writes the same bytes, and a lost file can be written again until the deletion of its records begins.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from core.errors.compliance import AuditArchiveRefused
from database.connection.database import Database
from openkcm.contract.audit_events import StoredRecord
from openkcm.errors import os_reason
from openkcm.verification.audit_export import ExportHeader, export_lines, verify_export
from openkcm.verification.files import lines, opened
from openkcm.verification.results import SignatureCheck, SignatureState

PIECE = 5_000
"""Records in one transaction, and between two calls of `progressed`."""
_BLOCK = 1_000_000

Progressed = Callable[[], None]
"""Called after each piece of work of about a second at most."""


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """The file of the records `first` to `last` of a stream."""

    path: Path
    tenant_id: str
    first: int
    last: int

    @classmethod
    def within(cls, folder: Path, tenant_id: str, first: int, last: int) -> "ArchiveFile":
        return cls(folder / tenant_id / f"{first:012}-{last:012}.jsonl", tenant_id, first, last)

    def digest(self, progressed: Progressed) -> bytes | None:
        """Return the SHA-256 of the file; None if it does not exist.

        Raises:
            AuditArchiveRefused: it cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                found = hashlib.sha256()
                while block := file.read(_BLOCK):
                    found.update(block)
                    progressed()
                return found.digest()
        except FileNotFoundError:
            return None
        except OSError as failed:
            raise AuditArchiveRefused(f"{self.path} cannot be read: {os_reason(failed)}") from None

    def write(self, content: Iterable[str], verify: Callable[[Path], None]) -> None:
        """Write a draft, sync it to disk, `verify` it, and only then give it its name; raises AuditArchiveRefused."""
        draft = self.path.with_name(f".{self.path.name}.new")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                for chunk in content:
                    file.write(chunk.encode())
                file.flush()
                os.fsync(file.fileno())
            verify(draft)
            draft.replace(self.path)
            for folder in (self.path.parent, self.path.parent.parent):
                _sync(folder)
        except OSError as failed:
            raise AuditArchiveRefused(f"{self.path} cannot be written: {os_reason(failed)}") from None

    def verify(self, draft: Path, check: SignatureCheck, progressed: Progressed) -> None:
        """Require that a draft has exactly these records, chained to the statement before, and signed to the last one.

        `check` uses public keys that the database did not supply.

        Raises:
            AuditArchiveRefused: it is not such a file.
        """

        def visit(stored: StoredRecord) -> None:
            if stored.seq % PIECE == 0:
                progressed()

        with opened(draft) as file:
            result = verify_export(lines(file), check, visit)
        if result.problem is not None:
            raise AuditArchiveRefused(f"{self.path}: {result.problem}")
        found = (result.tenant_id, result.archived + 1, result.last, result.signed, result.signature)
        expected = (self.tenant_id, self.first, self.last, self.last, SignatureState.VERIFIED)
        if found != expected:
            raise AuditArchiveRefused(f"{self.path} does not contain exactly records {self.first} to {self.last}")


def _sync(folder: Path) -> None:
    opened_folder = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened_folder)
    finally:
        os.close(opened_folder)


def archive_lines(database: Database, header: ExportHeader, first: int, progressed: Progressed) -> Iterator[str]:
    """Yield the content of an archive file, from record `first` to the last one that the header names."""

    def pieces() -> Iterator[list[tuple[StoredRecord, None]]]:
        for after in range(first - 1, header.last_seq, PIECE):
            with database.tenant_tx(header.tenant_id) as tx:
                found = tx.audit.records(after, min(PIECE, header.last_seq - after))
            yield [(stored, None) for stored in found]
            progressed()

    return export_lines(header, pieces(), lambda _total: None)
