"""The hourly check for overdue renewals: each is recorded, counted, notified and retried."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

import structlog
from temporalio import activity

from activities.notifications import NotificationOutbox
from activities.runtime.audit_trail import Clock
from activities.runtime.concurrency import MAX_LISTED, run_for_each_tenant
from activities.runtime.metrics import Metrics
from core.certificates import ALARMING, ExpiringItem, ExpiryStage, stage
from core.messages.base import StepInput
from core.messages.services import ExpiryResult, UnrenewedService
from core.notifications import NotificationKind
from core.scheduled import ScheduledTask
from database.certificates import ExpiringRow
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from openkcm.contract.audit_events import AuditEvent, AuditName
from openkcm.errors import OpenKcmError
from vault.pki.authorities import PkiAuthorities

_MAX_RENEWED = 1000
"""Services signalled by one run; the workflow of each also retries every hour."""
_NAMES = {ExpiryStage.LATE: AuditName.EXPIRY_LATE, ExpiryStage.LAPSED: AuditName.EXPIRY_LAPSED}
_KINDS = {ExpiryStage.LATE: NotificationKind.EXPIRY_LATE, ExpiryStage.LAPSED: NotificationKind.EXPIRY_LAPSED}
_NOTIFIED = frozenset({ExpiringItem.CERTIFICATE, ExpiringItem.AUTHORITY})
"""The kinds that customers are notified of; a CRL is a matter of the platform's operators."""

log = structlog.get_logger()


class ExpiryActivities:
    def __init__(  # noqa: PLR0913, PLR0917 - one for each dependency
        self,
        database: Database,
        platform: PlatformQueries,
        authorities: PkiAuthorities,
        outbox: NotificationOutbox,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._database = database
        self._platform = platform
        self._authorities = authorities
        self._outbox = outbox
        self._clock = clock
        self._metrics = metrics

    @activity.defn(name="check-expiry")
    def check_expiry(self) -> ExpiryResult:
        """Alert on late and lapsed items; returns the services to retry.

        A run ends after `_MAX_RENEWED` services, and the next one begins with the other tenants.
        """
        now = self._clock()
        found = [(row, stage(row.begins, row.ends, now)) for row in self._platform.expiring(MAX_LISTED)]
        alarming = [(row, at) for row, at in found if at in ALARMING]
        self._metrics.count_not_renewed((row.kind, at) for row, at in alarming)
        by_tenant: defaultdict[str, list[tuple[ExpiringRow, ExpiryStage]]] = defaultdict(list)
        for row, at in alarming:
            by_tenant[row.tenant_id].append((row, at))
        turns: list[str] = []
        services: list[UnrenewedService] = []
        for tenant_id, of_tenant in by_tenant.items():
            turns.append(tenant_id)
            services += [
                UnrenewedService(tenant_id=tenant_id, region=row.region, service=row.name, generation=row.generation)
                for row, _ in of_tenant
                if row.kind is ExpiringItem.CERTIFICATE
            ]
            if len(services) >= _MAX_RENEWED:
                break
        run_for_each_tenant(
            self._database,
            ScheduledTask.EXPIRY,
            turns,
            lambda tenant_id: self._record(tenant_id, by_tenant[tenant_id]),
        )
        self._check_root(now)
        return ExpiryResult(services=tuple(services[:_MAX_RENEWED]))

    def _check_root(self, now: datetime) -> None:
        """Alert on the PKI root, which only an operator can renew; no tenant is notified."""
        try:
            root = self._authorities.root()
        except OpenKcmError as failed:
            log.warning("pki root not checked", code=failed.code)
            return
        at = stage(root.begins, root.ends, now)
        if at in ALARMING:
            self._metrics.count_not_renewed([(ExpiringItem.ROOT, at)])
            log.warning("pki root not renewed", serial=root.serial, ends=root.ends.isoformat(), stage=at)

    def _record(self, tenant_id: str, found: Sequence[tuple[ExpiringRow, ExpiryStage]]) -> None:
        """Record the new items and send the customer one notification for each stage."""
        with self._database.tenant_tx(tenant_id) as tx:
            tenant, head = tx.tenants.lock(), tx.audit.head()
            known = 0 if head is None else head.seq
            new = [(row, at) for row, at in found if tx.audit.append(_event(row, at)) > known]
            for row, at in new:
                log.warning("not renewed", tenant_id=tenant_id, kind=row.kind, name=row.name, stage=at)
            for at in ALARMING:
                first = next((row for row, now_at in new if now_at is at and row.kind in _NOTIFIED), None)
                if first is not None:
                    step = StepInput(tenant_id=tenant_id, operation_id=_operation(first, at))
                    self._outbox.store(tx, step, tenant, _KINDS[at])


def _operation(row: ExpiringRow, at: ExpiryStage) -> str:
    return f"expiry-{row.kind}-{row.serial}-{at}"


def _event(row: ExpiringRow, at: ExpiryStage) -> AuditEvent:
    return AuditEvent(
        event_id=_operation(row, at),
        name=_NAMES[at],
        actor_kind="system",
        actor="worker",
        subject=row.name,
        outcome="failure",
        correlation_id=activity.info().workflow_id or "",
        details={"kind": row.kind, "serial": row.serial, "ends": row.ends.isoformat()},
    )
