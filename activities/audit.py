"""Double entry by the clock: the last day of the key server's own log against our streams (docs/double-entry.md).

Only where this process can read that log, which is another server's: without it nothing is done, and the command does
it elsewhere. What differs is put on record, counted and logged; each difference once, however often it is found again.

Signing the heads of audit streams: what makes a truncated stream visible.

The chain shows an edit, an insertion or a deletion in the middle, but not a missing end. A signature over length and
hash does; it is kept beside the stream and also logged, so that a copy lies outside PostgreSQL.

Signing with the platform's audit key: the public key is on record before anything that it signed.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

import structlog
from temporalio import activity

from activities.audit_trail import Clock
from activities.metrics import Metrics
from compliance.reconciliation.ledger import ServerLog, reconcile_all
from compliance.reconciliation.model import CHECKING, LATE, AuditRecord, Discrepancy, Severity
from core import names as ids
from core.messages.base import StepInput
from core.messages.compliance import SignHeadsResult
from database.audit import SignedCheckpoint
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from openkcm.contract.audit_events import AuditEvent, AuditName, Outcome, head_message
from vault.transit.audit_signer import TransitAuditSigner

_LOOKED_BACK = timedelta(hours=25)
"""A day, and what the schedule may be late; what two looks have in common is on record once."""
_MOST = 100
"""Differences put on record one by one; beyond it their number says enough."""
_BEAT_BYTES = 4_000_000
_LONGEST = 500

ReadLog = Callable[[datetime, Callable[[int], None]], ServerLog]
"""Reads the log from a moment on and tells of the bytes that were read."""
ReadStream = Callable[[str, datetime], Sequence[AuditRecord]]
"""Reads what of a tenant's stream is held against it."""

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
        """`read_log` None: the log cannot be read here."""
        self._database = database
        self._read_log = read_log
        self._read_stream = read_stream
        self._clock = clock
        self._metrics = metrics

    @activity.defn(name="reconcile-audit")
    def reconcile_audit(self) -> None:
        """Judge each tenant that the log names in the last day, and the platform; one's trouble stops no other.

        Until a while ago: by then whatever was under way has its record.
        """
        if self._read_log is None:
            return
        until = self._clock() - CHECKING
        since = until - _LOOKED_BACK
        said = self._read_log(since - LATE, _Beat())
        tenants = sorted({tenant_id for tenant_id in said.events if tenant_id} | set(ids.PLATFORM_TENANTS))
        streams: dict[str, Sequence[AuditRecord]] = {}
        for tenant_id in tenants:
            streams[tenant_id] = self._read_stream(tenant_id, since)
            activity.heartbeat(tenant_id)
        closed = reconcile_all(said, streams, since, until)
        for tenant_id in tenants:
            found = list(closed.tenants[tenant_id])
            if tenant_id == ids.CANARY_TENANT_ID:
                found += closed.platform
            held = {"requests": str(len(said.events.get(tenant_id, ()))), "records": str(len(streams[tenant_id]))}
            self._tell(tenant_id, [one for one in found if one.severity is not Severity.NOTICE], until, held)
            activity.heartbeat(tenant_id)

    def _tell(self, tenant_id: str, found: Sequence[Discrepancy], until: datetime, held: dict[str, str]) -> None:
        self._metrics.count_audit_differences(one.kind for one in found)
        for one in found[:_MOST]:
            log.error("audit logs differ", tenant_id=tenant_id, kind=one.kind, what=one.what, reference=one.reference)
        held |= {"until": until.isoformat(timespec="seconds"), "differences": str(len(found))}
        with self._database.tenant_tx(tenant_id) as tx:
            if tx.tenants.get() is None:
                log.error("keys of a tenant that is not on record", tenant_id=tenant_id, differences=len(found))
                return
            tx.audit.append_all([_difference(one) for one in _once(found[:_MOST])])
            outcome: Outcome = "failure" if found else "success"
            day = f"double-entry/{until:%Y-%m-%d}"
            tx.audit.append(_event(day, AuditName.AUDIT_RECONCILED, tenant_id, outcome, held))


class _Beat:
    """A sign of life every few megabytes of the log."""

    def __init__(self) -> None:
        self._read = self._told = 0

    def __call__(self, number: int) -> None:
        self._read += number
        if self._read - self._told > _BEAT_BYTES:
            self._told = self._read
            activity.heartbeat(self._read)


def _once(found: Iterable[Discrepancy]) -> Iterable[Discrepancy]:
    return {_id(one): one for one in found}.values()


def _id(one: Discrepancy) -> str:
    """Return what is the same whenever it is found."""
    return f"double-entry/{one.kind}/{hashlib.sha256(f'{one.reference} {one.what}'.encode()).hexdigest()[:32]}"


def _difference(one: Discrepancy) -> AuditEvent:
    details = {
        "severity": one.severity.value,
        "what": one.what.replace("\0", "\N{REPLACEMENT CHARACTER}")[:_LONGEST],
        "at": "" if one.at is None else one.at.isoformat(),
        "lacks": one.lacks,
        "who": one.who[:_LONGEST],
        "reference": one.reference[:_LONGEST],
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


_BATCH = 200


class CheckpointSigner:
    """Signs as `vault.transit.keys.AuditSigner` does; the key server rotates the key without telling us."""

    def __init__(self, platform: PlatformQueries, signer: TransitAuditSigner) -> None:
        self._platform = platform
        self._signer = signer
        self._known: frozenset[str] = frozenset()

    def sign_all(self, messages: Sequence[bytes]) -> Sequence[tuple[str, str]]:
        """Return signature and `key:version` of each message, with those keys on record."""
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

    @activity.defn(name="sign-audit-heads")
    def sign_audit_heads(self) -> SignHeadsResult:
        """Sign the heads that moved, at most a batch of them; the next run takes the rest."""
        signed = 0
        for tenant_id in self._platform.moved_heads(_BATCH):
            self._sign(tenant_id)
            signed += 1
            activity.heartbeat(signed)
        return SignHeadsResult(signed=signed)

    @activity.defn(name="sign-audit-head")
    def sign_audit_head(self, step: StepInput) -> None:
        """Sign the head of one tenant's stream now, for something that names a record of it."""
        self._sign(step.tenant_id)

    def _sign(self, tenant_id: str) -> None:
        with self._database.tenant_tx(tenant_id) as tx:
            head = tx.audit.head()
        if head is None:
            return
        [(signature, key)] = self._signer.sign_all([head_message(tenant_id, head.seq, head.chain_hash)])
        with self._database.tenant_tx(tenant_id) as tx:
            tx.audit.save_signed_head(SignedCheckpoint(head.seq, head.chain_hash, signature, key))
        log.info("audit head signed", tenant_id=tenant_id, seq=head.seq, hash=head.chain_hash.hex(), head=signature)
