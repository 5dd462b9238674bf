"""Retention: deletion of expired rows, and archive files for old records of audit streams.

Both activities list the due tenants, the one with the oldest attempt first, and stop at the end of their time; the next
run continues. A failure of one tenant stops no other.

An archive file is written, verified, signed and recorded, and only then are its records deleted, in this order:

1. Write a draft. Its bytes follow from the records, so a repetition after a crash writes the same file.
2. Verify it as an auditor does, with the public keys of the key server: a record that was changed in the database does
   not become evidence. Then the file gets its name.
3. Sign the archive statement, which names the file's SHA-256, and record it with its audit event in one transaction.
4. Delete the records, in pieces. Before that, the file is read again and compared with the statement, and the
   signature of the statement is verified: a statement that the worker did not sign deletes nothing.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import structlog
from temporalio import activity

from activities.audit import CheckpointSigner
from activities.runtime.audit_trail import Clock, append_audit_event
from activities.runtime.concurrency import MAX_LISTED, run_for_each_tenant
from activities.runtime.metrics import Metrics
from compliance.audit.archive import PIECE, ArchiveFile, archive_lines
from compliance.audit.export import archive_statement, checkpoint, require_archive_signature
from core.errors.compliance import AuditArchiveRefused
from core.messages.base import StepInput
from core.retention import archive_cutoff
from core.scheduled import ScheduledTask
from database.audit import ArchivedPart, DueArchive
from database.connection.database import Database
from database.platform.retention import RetentionQueries
from openkcm.contract.audit_events import AuditName, archive_message
from openkcm.errors import OpenKcmError
from openkcm.verification.audit_export import ExportHeader
from openkcm.verification.public_keys import PublicKeys

_ROWS = 1_000
"""Rows in one transaction: well below a second."""
_PIECES = 100
"""Transactions for one table of a tenant in one run, so that one tenant does not take the time of all others."""
ARCHIVED_AT_ONCE = 200_000
"""Records of one file, about 100 MB, unless two checkpoints are farther apart; a tenant gets one file in each run."""

_NEVER = datetime.min.replace(tzinfo=UTC)

log = structlog.get_logger()


class RowRetentionActivities:
    def __init__(
        self, database: Database, queries: RetentionQueries, days: Mapping[str, int], metrics: Metrics
    ) -> None:
        """`days` has the retention of each table, in the order of the deletion."""
        self._database = database
        self._queries = queries
        self._days = days
        self._metrics = metrics

    @activity.defn(name="delete-expired-rows")
    def delete_expired_rows(self) -> None:
        """Delete the rows of all tenants that are older than the retention of their table."""
        tables: dict[str, list[str]] = defaultdict(list)
        attempts: dict[str, datetime] = {}
        for table, days in self._days.items():
            for tenant_id, attempted_at in self._queries.tenants_with_expired_rows(table, days, MAX_LISTED):
                tables[tenant_id].append(table)
                attempts[tenant_id] = attempted_at or _NEVER
            activity.heartbeat(table)
        due = sorted(tables, key=attempts.__getitem__)
        run_for_each_tenant(
            self._database,
            ScheduledTask.ROW_RETENTION,
            due,
            lambda tenant_id: self._delete(tenant_id, tables[tenant_id]),
        )

    def _delete(self, tenant_id: str, tables: Sequence[str]) -> None:
        """Delete expired rows of a tenant; a table that fails stops no other table."""
        failures: list[OpenKcmError] = []
        for table in tables:
            try:
                self._delete_from(table, tenant_id)
            except OpenKcmError as failed:
                log.warning("expired rows not deleted", tenant_id=tenant_id, table=table, code=failed.code)
                failures.append(failed)
        if failures:
            self._metrics.count_retention_failure("rows")
            raise failures[0]

    def _delete_from(self, table: str, tenant_id: str) -> None:
        for _ in range(_PIECES):
            deleted = self._queries.delete_expired_rows(tenant_id, table, self._days[table], _ROWS)
            self._metrics.count_expired_rows(table, deleted)
            activity.heartbeat(table)
            if deleted < _ROWS:
                return


@dataclass(frozen=True, slots=True)
class ArchivePolicy:
    """When records are archived, and the folder of the files."""

    days: int
    folder: Path
    at_once: int = ARCHIVED_AT_ONCE


class ArchiveKeys(NamedTuple):
    """Signs archive statements; `trusted` returns the public keys that the key server has, not the database."""

    signer: CheckpointSigner
    trusted: Callable[[], Mapping[str, str]]


class AuditArchiveActivities:
    def __init__(  # noqa: PLR0913, PLR0917 - its dependencies
        self,
        database: Database,
        queries: RetentionQueries,
        keys: ArchiveKeys,
        policy: ArchivePolicy,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._database = database
        self._queries = queries
        self._keys = keys
        self._policy = policy
        self._clock = clock
        self._metrics = metrics

    @activity.defn(name="archive-audit-streams")
    def archive_streams(self) -> None:
        """Archive one part of each stream with records that are older than the retention, and delete it."""
        cutoff = archive_cutoff(self._clock(), self._policy.days)
        due = self._queries.archivable_streams(cutoff, MAX_LISTED)
        if not due:
            return
        keys = PublicKeys(self._keys.trusted())
        run_for_each_tenant(
            self._database, ScheduledTask.AUDIT_ARCHIVE, due, lambda tenant_id: self._archive(tenant_id, cutoff, keys)
        )

    def _archive(self, tenant_id: str, cutoff: datetime, keys: PublicKeys) -> None:
        try:
            part = self._read(tenant_id)
            if part is not None:
                self._delete(tenant_id, part, keys)
            self._archive_next(tenant_id, cutoff, part, keys)
        except Exception:
            self._metrics.count_retention_failure("archive")
            raise

    def _read(self, tenant_id: str) -> ArchivedPart | None:
        with self._database.tenant_tx(tenant_id) as tx:
            return tx.audit.archived()

    def _archive_next(self, tenant_id: str, cutoff: datetime, before: ArchivedPart | None, keys: PublicKeys) -> None:
        after = 0 if before is None else before.seq
        with self._database.tenant_tx(tenant_id) as tx:
            due = tx.audit.due_archive(after, cutoff, self._policy.at_once)
        if due is None:
            return
        file = ArchiveFile.within(self._policy.folder, tenant_id, after + 1, due.end.seq)
        sha256 = self._write(file, due, before, keys)
        message = archive_message(tenant_id, due.end.seq, due.end.chain_hash, sha256)
        [(signature, key)] = self._keys.signer.sign_all([message])
        part = ArchivedPart(after + 1, due.end.seq, due.end.chain_hash, sha256, signature, key)
        with self._database.tenant_tx(tenant_id) as tx:
            tx.audit.record_archive(part)
            step = StepInput(tenant_id=tenant_id, operation_id=f"audit-archive-{part.seq}")
            details = {"first": str(part.first), "last": str(part.seq), "sha256": sha256.hex()}
            append_audit_event(tx, step, AuditName.AUDIT_ARCHIVED, file.path.name, "success", **details)
        self._delete(tenant_id, part, keys)

    def _write(self, file: ArchiveFile, due: DueArchive, before: ArchivedPart | None, keys: PublicKeys) -> bytes:
        """Write and verify a file; return its SHA-256."""
        header = ExportHeader(
            tenant_id=file.tenant_id,
            exported_at=due.signed_at,
            last_seq=file.last,
            signed_head=checkpoint(due.end, keys.fingerprint),
            archived=None if before is None else archive_statement(before, keys.fingerprint),
        )
        file.write(
            archive_lines(self._database, header, file.first, activity.heartbeat),
            lambda draft: file.verify(draft, keys.check, activity.heartbeat),
        )
        sha256 = file.digest(activity.heartbeat)
        if sha256 is None:
            raise AuditArchiveRefused(f"{file.path} is missing")
        return sha256

    def _delete(self, tenant_id: str, part: ArchivedPart, keys: PublicKeys) -> None:
        """Delete archived records, if any are left, while their file exists as it was signed."""
        with self._database.tenant_tx(tenant_id) as tx:
            left = next((one for one in tx.audit.records(0, 1) if one.seq <= part.seq), None)
            before, due = tx.audit.archived_before(part), tx.audit.due_archive(part.seq - 1, self._clock(), 1)
        if left is None:
            return
        require_archive_signature(tenant_id, part, keys)
        file = ArchiveFile.within(self._policy.folder, tenant_id, part.first, part.seq)
        if file.digest(activity.heartbeat) != part.sha256:
            if left.seq != part.first or due is None or due.end.seq != part.seq:
                raise AuditArchiveRefused(f"{file.path} is missing or differs from its statement")
            if self._write(file, due, before, keys) != part.sha256:
                raise AuditArchiveRefused(f"{file.path} cannot be written again as it was signed")
        while True:
            with self._database.tenant_tx(tenant_id) as tx:
                deleted = tx.audit.delete_archived(PIECE)
            self._metrics.count_archived_records(deleted)
            activity.heartbeat(deleted)
            if deleted < PIECE:
                break
        log.info("audit records archived", tenant_id=tenant_id, first=part.first, last=part.seq, file=str(file.path))
