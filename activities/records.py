"""Steps 1 and 5 and the ways provisioning ends badly: rows of PostgreSQL only."""

from temporalio import activity

from activities.announcing import Announcer
from activities.journal import Clock, finish, record
from activities.metrics import Metrics
from core import names as ids
from core.errors.platform import ConflictingResource
from core.messages.base import FailureInput, StepInput
from core.messages.tenants import ActivateResult
from core.notifications import AnnouncementKind
from core.tenants.lifecycle import Move, State
from core.tenants.provisioning import Step, steps_of
from database.connection.database import Database
from database.provisioning import RouteRow
from openkcm.contract.audit_events import AuditName


class RecordActivities:
    def __init__(self, database: Database, announcer: Announcer, clock: Clock, metrics: Metrics) -> None:
        self._database = database
        self._announcer = announcer
        self._clock = clock
        self._metrics = metrics

    @activity.defn(name=Step.OPEN_RECORDS)
    def open_records(self, step: StepInput) -> None:
        """Open the tenant's records and write down what is about to be made, before anything is made.

        Whoever finds a key or an authority of this tenant later finds here that it was intended.
        """
        began = self._clock()
        with self._database.tenant_tx(step.tenant_id) as tx:
            row = tx.tenants.lock()
            retried = row.state is State.FAILED
            tx.tenants.move(Move.RETRY if retried else Move.PROVISION)
            if retried:
                record(tx, step, AuditName.PROVISION_RETRIED, step.tenant_id)
            tx.steps.plan(step.operation_id, steps_of(step.tenant_id))
            made = (ids.l2_key(step.tenant_id), ids.ca_key(step.tenant_id), ids.payload_key(step.tenant_id))
            record(tx, step, AuditName.PROVISION_INTENDED, step.tenant_id, "intended", keys=", ".join(made))
            finish(tx, step, Step.OPEN_RECORDS, began)

    @activity.defn(name=Step.ACTIVATE)
    def activate(self, step: StepInput) -> ActivateResult:
        """Open the tenant: its route, its state and the message that tells of it, all or none.

        Where no channel is set up there is nothing to send, and the step that would send it is done as well.
        """
        began = self._clock()
        with self._database.tenant_tx(step.tenant_id) as tx:
            row, authority = tx.tenants.lock(), tx.certificates.authority()
            if authority is None:
                raise ConflictingResource("authority", step.tenant_id, "it is not on record although its step is done")
            tx.routes.publish(RouteRow(ids.l2_key(step.tenant_id), authority.fingerprint, row.region))
            record(tx, step, AuditName.ROUTE_PUBLISHED, ids.l2_key(step.tenant_id), issuer=authority.fingerprint)
            tx.tenants.move(Move.ACTIVATE)
            record(tx, step, AuditName.TENANT_ACTIVATED, step.tenant_id)
            self._announcer.store(tx, step, row, AnnouncementKind.READY)
            finish(tx, step, Step.ACTIVATE, began)
            waiting = len(tx.outbox.unsent()) if self._announcer.channels else 0
            if not waiting:
                finish(tx, step, Step.ANNOUNCE, began)
        self._metrics.record_ready((self._clock() - row.requested_at).total_seconds())
        return ActivateResult(messages=waiting)

    @activity.defn(name="record-failure")
    def record_failure(self, failure: FailureInput) -> None:
        """Close what was opened: no route, state failed, the reason on record, the customer told."""
        with self._database.tenant_tx(failure.tenant_id) as tx:
            row = tx.tenants.lock()
            if tx.routes.withdraw():
                record(tx, failure, AuditName.ROUTE_WITHDRAWN, ids.l2_key(failure.tenant_id))
            tx.tenants.move(Move.FAIL)
            record(
                tx, failure, AuditName.TENANT_FAILED, failure.tenant_id, "failure", code=failure.code, at=failure.reason
            )
            self._announcer.store(tx, failure, row, AnnouncementKind.FAILED)

    @activity.defn(name="break-promise")
    def break_promise(self, step: StepInput) -> None:
        """Put the broken promise on record and tell the customer, unless the tenant is ready or failed meanwhile."""
        self._metrics.count_broken_promise()
        with self._database.tenant_tx(step.tenant_id) as tx:
            row = tx.tenants.lock()
            if tx.tenants.break_promise():
                record(tx, step, AuditName.PROMISE_BROKEN, step.tenant_id, "failure", state=row.state)
            if row.state in {State.REQUESTED, State.PROVISIONING}:
                self._announcer.store(tx, step, row, AnnouncementKind.LATE)
