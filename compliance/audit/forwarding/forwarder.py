"""Forwarding of a tenant's audit stream: at least once, in order, from the last acknowledged record.

1. Read the next records in a short transaction and verify the hash chain from the last acknowledged record, so that a
   modified stream is not forwarded.
2. Deliver them as one batch; the receiver acknowledges the whole batch or nothing.
3. Store the state. After a crash between 2 and 3 the batch is sent again with the same key.

If the database or the receiver is down, forwarding retries with backoff.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import structlog

from compliance.audit.export import require_archive_signature
from compliance.audit.forwarding.batches import LARGEST, Batch, ForwardedState, StateFile
from compliance.audit.forwarding.sinks import Receiver
from compliance.audit.operator_events import command_event
from core.errors.compliance import AuditRecordsArchived
from core.errors.tenants import TenantUnknown
from database.audit import ArchivedPart
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from openkcm.contract.audit_events import AuditName, Outcome, StoredRecord, verify_chain
from openkcm.errors import AuditBroken, OpenKcmError
from openkcm.verification.public_keys import PublicKeys

_PAUSE = 1.0
"""Polling interval for new records, seconds."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
BEHIND_SECONDS = 60.0
"""Seconds without an acknowledgement after which the forwarding counts as behind; an audit event records it once."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Progress:
    """Number of the last acknowledged record, and how many records are not acknowledged yet."""

    seq: int
    behind: int


@dataclass
class Forwarding:
    """Forwarding of one stream to one receiver. `progressed` is called after each acknowledged batch."""

    database: Database
    receiver: Receiver
    file: StateFile
    state: ForwardedState
    host: str
    stop: threading.Event
    progressed: Callable[[Progress], None]
    monotonic: Callable[[], float] = time.monotonic
    behind_seconds: float = BEHIND_SECONDS
    sent: int = 0
    _wait: float = _FIRST_WAIT
    _since: float = field(init=False, default=0.0)
    _behind: bool = field(init=False, default=False)

    def run(self, *, follow: bool) -> None:
        """Forward until `stop` is set; without `follow` up to the record that was last at the start.

        Raises:
            ForwardingRefused, AuditBroken, TenantUnknown, FileRefused: a retry cannot succeed.
            ReceiverUnavailable, DatabaseUnavailable: without `follow`, after a minute without an acknowledgement.
        """
        self._since = self.monotonic()
        self._record(AuditName.STREAM_BEGUN, "success")
        outcome: Outcome = "failure"
        try:
            self._run(follow=follow)
            outcome = "success"
        finally:
            self.receiver.close()
            with suppress(OpenKcmError):
                self._record(AuditName.STREAM_ENDED, outcome, records=str(self.sent))

    def _run(self, *, follow: bool) -> None:
        end: int | None = None
        while not self.stop.is_set():
            try:
                records, last = self._next()
                end = last if end is None else end
                if records:
                    self._deliver(records, last)
                self._went_well()
            except OpenKcmError as failed:
                self._went_wrong(failed, follow=follow)
                continue
            if not follow and self.state.seq >= end:
                return
            if not records:
                self.stop.wait(_PAUSE)

    def _next(self) -> tuple[Sequence[StoredRecord], int]:
        """Return the next records, verified against the last acknowledged one, and the number of the last record."""
        with self.database.tenant_snapshot(self.state.tenant_id) as tx:
            if tx.tenants.get() is None:
                raise TenantUnknown
            head, archived = tx.audit.head(), tx.audit.archived()
            records = tx.audit.records(self.state.seq, LARGEST)
        if archived is not None and self.state.seq < archived.seq:
            self._begin_after(archived)
            return self._next()
        last = 0 if head is None else head.seq
        if last < self.state.seq:
            raise AuditBroken(f"record {last + 1} is missing: the receiver has acknowledged {self.state.seq}")
        before = None
        if self.state.seq:
            before = StoredRecord(self.state.seq, "", bytes.fromhex(self.state.chain_hash))
        verify_chain(records, after=before)
        return records, last

    def _begin_after(self, archived: ArchivedPart) -> None:
        """Continue after the archived records; only a new forwarding may skip them, and only with a valid signature."""
        if self.state.seq:
            raise AuditRecordsArchived(self.state.seq + 1, archived.seq)
        keys = PublicKeys.from_database(PlatformQueries(self.database).audit_keys())
        require_archive_signature(self.state.tenant_id, archived, keys)
        self.state = replace(self.state, seq=archived.seq, chain_hash=archived.chain_hash.hex())

    def _deliver(self, records: Sequence[StoredRecord], last: int) -> None:
        self.receiver.deliver(Batch(self.state.tenant_id, self.state.form, records, self.host))
        newest = records[-1]
        self.state = replace(self.state, seq=newest.seq, chain_hash=newest.chain_hash.hex())
        self.file.write(self.state)
        self.sent += len(records)
        self.progressed(Progress(newest.seq, max(0, last - newest.seq)))

    def _went_well(self) -> None:
        self._since, self._wait, self._behind = self.monotonic(), _FIRST_WAIT, False

    def _went_wrong(self, failed: OpenKcmError, *, follow: bool) -> None:
        """Wait before the next attempt; raise if there is no further attempt."""
        if not failed.retryable:
            raise failed
        late = self.monotonic() - self._since >= self.behind_seconds
        if late and not follow:
            raise failed
        if late and not self._behind:
            with suppress(OpenKcmError):  # the database itself may be down; the next attempt records the event
                self._record(AuditName.STREAM_BEHIND, "failure", code=failed.code)
                self._behind = True
        log.warning(
            "audit forwarding retries", code=failed.code, tenant_id=self.state.tenant_id, acknowledged=self.state.seq
        )
        self.stop.wait(self._wait)
        self._wait = min(self._wait * 2, _LONGEST_WAIT)

    def _record(self, name: AuditName, outcome: Outcome, **details: str) -> None:
        common = {"to": self.state.to, "format": self.state.form, "acknowledged": str(self.state.seq)}
        event = command_event(name, "audit stream", outcome, **common, **details)
        with self.database.tenant_tx(self.state.tenant_id) as tx:
            if tx.tenants.get() is None:
                raise TenantUnknown
            tx.audit.append_command(event)
