"""The hourly look for rotations that did not come to their end: counted, put on record, told (docs/rotation.md)."""

from datetime import timedelta

import structlog
from temporalio import activity

from activities.metrics import Metrics
from activities.notifications import NotificationOutbox
from core import names as ids
from core.keys.rotation import LONGEST
from core.messages.base import StepInput
from core.notifications import NotificationKind
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from database.rotation import StalledRotationRow
from openkcm.contract.audit_events import AuditEvent, AuditName
from openkcm.errors import OpenKcmError

_OVERDUE = timedelta(days=1)
"""How much older than its tenant wants a key becomes before people are told: by then it was looked for many times."""
_BATCH = 1000

log = structlog.get_logger()


class StalledRotationActivities:
    def __init__(
        self, database: Database, platform: PlatformQueries, announcer: NotificationOutbox, metrics: Metrics
    ) -> None:
        self._database = database
        self._platform = platform
        self._announcer = announcer
        self._metrics = metrics

    @activity.defn(name="check-rotations")
    def check_rotations(self) -> None:
        """Raise the alarm for rotations that failed by themselves, run for too long or were never begun.

        Its caller MUST ask before it has those who are due rotated once more: a failure counts until a next one runs.
        """
        stuck = self._platform.stuck_rotations(LONGEST, _OVERDUE, _BATCH)
        self._metrics.count_stuck_rotations(row.why for row in stuck)
        for row in stuck:
            try:
                self._tell(row)
            except OpenKcmError as failed:
                log.warning("stuck rotation not told", tenant_id=row.tenant_id, code=failed.code)
            activity.heartbeat(row.tenant_id)

    def _tell(self, row: StalledRotationRow) -> None:
        """Put on record what is not, and write to the customer once until a rotation comes to its end."""
        with self._database.tenant_tx(row.tenant_id) as tx:
            tenant, head = tx.tenants.lock(), tx.audit.head()
            if tx.audit.append(_event(row)) <= (0 if head is None else head.seq):
                return
            log.warning("rotation stuck", tenant_id=row.tenant_id, why=row.why, number=row.number, code=row.problem)
            step = StepInput(tenant_id=row.tenant_id, operation_id=_operation(row))
            self._announcer.store(tx, step, tenant, NotificationKind.ROTATION_STUCK)


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
