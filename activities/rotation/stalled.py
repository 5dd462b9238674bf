"""The hourly check for stalled rotations: each is counted, recorded and notified (docs/rotation.md)."""

from datetime import timedelta

import structlog
from temporalio import activity

from activities.notifications import NotificationOutbox
from activities.runtime.concurrency import MAX_LISTED, run_for_each_tenant
from activities.runtime.metrics import Metrics
from core import names as ids
from core.keys.rotation import LONGEST
from core.messages.base import StepInput
from core.notifications import NotificationKind
from core.scheduled import ScheduledTask
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from database.rotation import StalledRotationRow
from openkcm.contract.audit_events import AuditEvent, AuditName

_OVERDUE = timedelta(days=1)
"""The time by which a key exceeds its cryptoperiod before anyone is notified; several hourly checks precede that."""

log = structlog.get_logger()


class StalledRotationActivities:
    def __init__(
        self, database: Database, platform: PlatformQueries, outbox: NotificationOutbox, metrics: Metrics
    ) -> None:
        self._database = database
        self._platform = platform
        self._outbox = outbox
        self._metrics = metrics

    @activity.defn(name="find-stalled-rotations")
    def check_rotations(self) -> None:
        """Alert on automatic rotations that failed, on rotations that run for too long and on overdue keys.

        The caller MUST run this before it starts due rotations again: a failure counts until the next rotation runs.
        """
        stuck = {row.tenant_id: row for row in self._platform.stuck_rotations(LONGEST, _OVERDUE, MAX_LISTED)}
        self._metrics.count_stuck_rotations(row.why for row in stuck.values())
        run_for_each_tenant(
            self._database,
            ScheduledTask.STALLED_ROTATIONS,
            tuple(stuck),
            lambda tenant_id: self._record(stuck[tenant_id]),
        )

    def _record(self, row: StalledRotationRow) -> None:
        """Record a new finding, and notify the customer once until a rotation completes."""
        with self._database.tenant_tx(row.tenant_id) as tx:
            tenant, head = tx.tenants.lock(), tx.audit.head()
            if tx.audit.append(_event(row)) <= (0 if head is None else head.seq):
                return
            log.warning("rotation stalled", tenant_id=row.tenant_id, why=row.why, number=row.number, code=row.problem)
            step = StepInput(tenant_id=row.tenant_id, operation_id=_operation(row))
            self._outbox.store(tx, step, tenant, NotificationKind.ROTATION_STUCK)


def _operation(row: StalledRotationRow) -> str:
    return f"rotation-stuck-{row.done}"


def _event(row: StalledRotationRow) -> AuditEvent:
    return AuditEvent(
        event_id=f"{_operation(row)}-{row.why}",
        name=AuditName.ROTATION_STUCK,
        actor_kind="system",
        actor="worker",
        subject=ids.l2_key(row.tenant_id),
        outcome="failure",
        correlation_id=activity.info().workflow_id or "",
        details={"why": row.why, "rotation": str(row.number), "code": row.problem},
    )
