"""Activities of the audit stream: daily reconciliation and signed checkpoints.

Reconciliation compares the last day of the key server's audit log with the audit streams (docs/reconciliation.md). It
runs only where this process can read that log, which belongs to another server; otherwise the command does it
elsewhere. Each discrepancy is recorded, counted and logged, and recorded only once however often it is found.

A checkpoint makes a truncated stream visible. The hash chain reveals an edit, an insertion or a deletion in the middle,
but no missing end. The signature covers length and hash; it is stored beside the stream and logged, so that a copy
exists outside PostgreSQL. The public part of the platform's audit key is recorded before its first signature is used.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

import structlog
from temporalio import activity

from activities.runtime.audit_trail import Clock
from activities.runtime.concurrency import MAX_LISTED, within_budget
from activities.runtime.metrics import Metrics
from compliance.reconciliation.ledger import RecordedStream, ServerLog, reconcile_all
from compliance.reconciliation.model import CHECKING, LATE, Discrepancy, Severity
from core import names as ids
from core.errors.platform import DatabaseRefused, DatabaseUnavailable
from core.messages.base import StepInput
from core.messages.compliance import SignHeadsResult
from database.audit import SignedCheckpoint
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries, UnsignedStream
from openkcm.contract.audit_events import AuditEvent, AuditName, Outcome, head_message
from openkcm.errors import OpenKcmError
from vault.transit.audit_signer import TransitAuditSigner

_PERIOD = timedelta(hours=25)
"""A day and the delay of the schedule; a discrepancy in the overlap of two runs is recorded once."""
_MAX_RECORDED = 100
"""Discrepancies recorded one by one; of more, only the total is recorded."""
_HEARTBEAT_BYTES = 4_000_000
_MAX_LENGTH = 500

ReadLog = Callable[[datetime, Callable[[int], None]], ServerLog]
"""Reads the log from a time onwards and reports the number of bytes read."""
ReadStream = Callable[[str, datetime], RecordedStream]
"""Reads the records of a tenant's stream that are compared with the log."""

log = structlog.get_logger()


class ReconcileActivities:
    def __init__(
        self,
        database: Database,
        read_log: ReadLog | None,
        read_stream: ReadStream,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        """`read_log` is None where this process cannot read the log."""
        self._database = database
        self._read_log = read_log
        self._read_stream = read_stream
        self._clock = clock
        self._metrics = metrics

    @activity.defn(name="reconcile-audit")
    def reconcile_audit(self) -> None:
        """Reconcile the platform and each tenant that the log names; one tenant's discrepancies stop no other.

        The period ends before the present, so that each running operation has its record.

        Raises:
            DatabaseRefused, DatabaseUnavailable: a tenant is not reconciled, after all others are.
        """
        if self._read_log is None:
            return
        until = self._clock() - CHECKING
        since = until - _PERIOD
        read = self._read_log(since - LATE, _ByteHeartbeat())
        tenants = sorted({tenant_id for tenant_id in read.events if tenant_id} | set(ids.PLATFORM_TENANTS))
        streams: dict[str, RecordedStream] = {}
        failure: OpenKcmError | None = None
        for tenant_id in tenants:
            try:
                streams[tenant_id] = self._read_stream(tenant_id, since)
            except OpenKcmError as failed:
                log.warning("audit stream not read", tenant_id=tenant_id, code=failed.code)
                failure = failed
            activity.heartbeat(tenant_id)
        reconciled = reconcile_all(read, streams, since, until, every=len(streams) == len(tenants))
        for tenant_id, stream in streams.items():
            found = list(reconciled.tenants[tenant_id])
            if tenant_id == ids.CANARY_TENANT_ID:
                found += reconciled.platform
            counts = {"requests": str(len(read.events.get(tenant_id, ()))), "records": str(len(stream.records))}
            try:
                self._record(tenant_id, [one for one in found if one.severity is not Severity.NOTICE], until, counts)
            except OpenKcmError as failed:
                log.warning("reconciliation not recorded", tenant_id=tenant_id, code=failed.code)
                failure = failed
            activity.heartbeat(tenant_id)
        if failure is not None:
            raise failure

    def _record(self, tenant_id: str, found: Sequence[Discrepancy], until: datetime, counts: dict[str, str]) -> None:
        self._metrics.count_audit_differences(one.kind for one in found)
        for one in found[:_MAX_RECORDED]:
            log.error("audit logs differ", tenant_id=tenant_id, kind=one.kind, what=one.what, reference=one.reference)
        counts |= {"until": until.isoformat(timespec="seconds"), "differences": str(len(found))}
        with self._database.tenant_tx(tenant_id) as tx:
            if tx.tenants.get() is None:
                log.error("key server log names an unknown tenant", tenant_id=tenant_id, differences=len(found))
                return
            tx.audit.append_all([_difference(one) for one in _once(found[:_MAX_RECORDED])])
            outcome: Outcome = "failure" if found else "success"
            day = f"double-entry/{until:%Y-%m-%d}"
            tx.audit.append(_event(day, AuditName.AUDIT_RECONCILED, tenant_id, outcome, counts))


class _ByteHeartbeat:
    """A heartbeat after every few megabytes of the log."""

    def __init__(self) -> None:
        self._read = self._reported = 0

    def __call__(self, number: int) -> None:
        self._read += number
        if self._read - self._reported > _HEARTBEAT_BYTES:
            self._reported = self._read
            activity.heartbeat(self._read)


def _once(found: Iterable[Discrepancy]) -> Iterable[Discrepancy]:
    return {_id(one): one for one in found}.values()


def _id(one: Discrepancy) -> str:
    """Return an event id that is equal each time the discrepancy is found."""
    return f"double-entry/{one.kind}/{hashlib.sha256(f'{one.reference} {one.what}'.encode()).hexdigest()[:32]}"


def _difference(one: Discrepancy) -> AuditEvent:
    details = {
        "severity": one.severity.value,
        "what": one.what.replace("\0", "\N{REPLACEMENT CHARACTER}")[:_MAX_LENGTH],
        "at": "" if one.at is None else one.at.isoformat(),
        "lacks": one.lacks,
        "who": one.who[:_MAX_LENGTH],
        "reference": one.reference[:_MAX_LENGTH],
    }
    return _event(_id(one), AuditName.AUDIT_DIFFERENCE, one.kind, "failure", details)


def _event(event_id: str, name: AuditName, subject: str, outcome: Outcome, details: dict[str, str]) -> AuditEvent:
    return AuditEvent(
        event_id=event_id,
        name=name,
        actor_kind="system",
        actor="worker",
        subject=subject,
        outcome=outcome,
        correlation_id=activity.info().workflow_id or "",
        details={key: value for key, value in details.items() if value},
    )


_BATCH = 100
"""Checkpoints that the key server signs in one request."""


class CheckpointSigner:
    """A `vault.transit.keys.AuditSigner` that records public keys; the key server rotates the key without notice."""

    def __init__(self, platform: PlatformQueries, signer: TransitAuditSigner) -> None:
        self._platform = platform
        self._signer = signer
        self._known: frozenset[str] = frozenset()

    def sign_all(self, messages: Sequence[bytes]) -> Sequence[tuple[str, str]]:
        """Return signature and `key:version` of each message, after those keys are recorded."""
        signed = self._signer.sign_all(messages)
        if not self._known.issuperset(key for _, key in signed):
            keys = self._signer.public_keys()
            self._platform.record_audit_keys(keys)
            self._known = frozenset(keys)
        return signed


class AuditCheckpointActivities:
    def __init__(self, database: Database, platform: PlatformQueries, signer: CheckpointSigner) -> None:
        self._database = database
        self._platform = platform
        self._signer = signer

    @activity.defn(name="sign-audit-checkpoints")
    def sign_audit_heads(self) -> SignHeadsResult:
        """Sign the checkpoints of all streams with new records, the one with the oldest signature first.

        Raises:
            DatabaseRefused, DatabaseUnavailable: the checkpoint of a stream is not saved, after all others are; refused
                when the stream does not contain the record that its end names.
        """
        streams = self._platform.unsigned_streams(MAX_LISTED)
        batches = [streams[first : first + _BATCH] for first in range(0, len(streams), _BATCH)]
        signed = 0
        failure: OpenKcmError | None = None
        for batch in within_budget("audit-checkpoints", batches):
            messages = [head_message(one.tenant_id, one.seq, one.chain_hash) for one in batch]
            for stream, (signature, key) in zip(batch, self._signer.sign_all(messages), strict=True):
                try:
                    self._save(stream, signature, key)
                except DatabaseRefused as failed:
                    log.exception("audit checkpoint rejected", tenant_id=stream.tenant_id, seq=stream.seq)
                    failure = failed
                except DatabaseUnavailable as failed:
                    log.warning("audit checkpoint not saved", tenant_id=stream.tenant_id, code=failed.code)
                    failure = failure or failed
                else:
                    signed += 1
                activity.heartbeat(signed)
        if failure is not None:
            raise failure
        return SignHeadsResult(signed=signed)

    @activity.defn(name="sign-audit-checkpoint")
    def sign_audit_head(self, step: StepInput) -> None:
        """Sign the checkpoint of one tenant's stream now, for a document that refers to its newest record."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            head = tx.audit.head()
        if head is None:
            return
        [(signature, key)] = self._signer.sign_all([head_message(step.tenant_id, head.seq, head.chain_hash)])
        self._save(UnsignedStream(step.tenant_id, head.seq, head.chain_hash), signature, key)

    def _save(self, stream: UnsignedStream, signature: str, key: str) -> None:
        with self._database.tenant_tx(stream.tenant_id) as tx:
            tx.audit.save_signed_head(SignedCheckpoint(stream.seq, stream.chain_hash, signature, key))
        log.info(
            "audit checkpoint signed",
            tenant_id=stream.tenant_id,
            seq=stream.seq,
            hash=stream.chain_hash.hex(),
            head=signature,
        )
