"""The grace period of an offboarding: start, reminder, restoration and end.

Restoration and destruction both lock the tenant's row, so that the first wins and the other is rejected. The commit
notifies the crypto service, which drops the tenant's keys from memory.
"""

from datetime import datetime, timedelta

from temporalio import activity

from activities.approvals import require_approval
from activities.lock_records import LockRecorder
from activities.notifications import NotificationOutbox
from activities.runtime.audit_trail import Clock, append_audit_event, executed_at, is_executed
from activities.runtime.step_progress import send_heartbeats
from core.errors.tenants import (
    EventSuperseded,
    InvalidTransition,
    OffboardingAlreadyScheduled,
    OperationRepeated,
    TenantUnknown,
)
from core.messages.base import StepInput
from core.messages.tenants import (
    DestructionStartedResult,
    LeaveInput,
    LeaveReason,
    OffboardingResult,
    RestoreInput,
    StatusChangeResult,
)
from core.notifications import NotificationKind
from core.tenants.approvals import Action, Argument
from core.tenants.lifecycle import State, Transition, transitions_from
from core.tenants.locks import DENIED
from core.tenants.provisioning import EventKind
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.offboarding import OffboardingRow
from openkcm.contract.audit_events import AuditName
from openkcm.contract.names import RESERVED_PREFIX
from openkcm.errors import IllegalTenantId


class GracePeriodActivities:
    def __init__(
        self, database: Database, outbox: NotificationOutbox, locks: LockRecorder, usual: timedelta, clock: Clock
    ) -> None:
        """`usual` is the grace period of requests that name none."""
        self._database = database
        self._outbox = outbox
        self._locks = locks
        self._usual = usual
        self._clock = clock

    @activity.defn(name="start-offboarding")
    def begin_leaving(self, step: LeaveInput) -> OffboardingResult:
        """Step 1: reject all operations of the tenant from this commit on; nothing is destroyed, all can be restored.

        A repeated request continues the offboarding in progress and changes only the audit stream; a request for
        another end is rejected. An event of the marketplace is rejected with EventSuperseded unless it is the
        marketplace's last word. A late attempt, after the tenant was restored, is rejected with OperationRepeated, also
        while a later offboarding runs.
        """
        # Isolation checks need the canary tenants: without them no tenant becomes active.
        if step.tenant_id.startswith(RESERVED_PREFIX):
            raise IllegalTenantId("a canary tenant cannot be offboarded", "choose a customer's tenant")
        grace = self._grace(step)
        with self._database.tenant_tx(step.tenant_id) as tx:
            before = tx.tenants.lock()
            requested_at = _requested_at(tx, step)
            if requested_at is not None and (
                before.state is not State.LEAVING or tx.leaving.is_restored_after(requested_at)
            ):
                raise OperationRepeated
            row = tx.leaving.begin(self._usual if grace is None else grace)
            since, until = _span(row)
            if before.state is State.LEAVING:
                if grace is not None and until - since != grace:
                    raise OffboardingAlreadyScheduled(
                        f"offboarding is already scheduled for {until:%Y-%m-%d %H:%M} UTC"
                    )
                if requested_at is None:
                    self._record_join(tx, step, until)
                return OffboardingResult(state=State.LEAVING, since=since, until=until)
            if self._needs_approval(tx, step):
                require_approval(tx, step, Action.OFFBOARD, _argument(step), step.approval_id)
            append_audit_event(
                tx,
                step,
                AuditName.LEAVING_BEGUN,
                step.tenant_id,
                before=before.state,
                until=until.isoformat(),
                asked_by=step.reason,
            )
            end = until if until > since else None
            stored = self._outbox.store(tx, step, before, NotificationKind.LEAVING, end)
        self._locks.record_soon(step.tenant_id)
        return OffboardingResult(
            state=State.LEAVING, since=since, until=until, notification=NotificationKind.LEAVING if stored else None
        )

    @activity.defn(name="remind-of-offboarding")
    def remind_of_leaving(self, step: StepInput) -> None:
        """Store the reminder that the grace period ends soon; a restored tenant is not notified."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            row, leaving = tx.tenants.lock(), tx.leaving.get()
            if row.state is State.LEAVING and leaving is not None:
                self._outbox.store(tx, step, row, NotificationKind.LEAVING_REMINDER, leaving.until)

    @activity.defn(name="restore-tenant")
    def restore_tenant(self, step: RestoreInput) -> StatusChangeResult:
        """Restore the tenant's former state and locks.

        Raises:
            DestructionStarted: after the point of no return.
            InvalidTransition: the tenant is not offboarding.
            EventSuperseded: the request is an event of the marketplace that is not its last word.
            OperationRepeated: the tenant was restored before, and a new offboarding has begun.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            before = tx.tenants.lock()
            executed = is_executed(tx, step, AuditName.RESTORED, step.tenant_id)
            if before.state is State.LEAVING and executed:
                raise OperationRepeated
            if step.reason is LeaveReason.MARKETPLACE:
                _require_last_word(tx, EventKind.SERVICE_ENABLED)
            state = tx.leaving.restore()
            if before.state is not State.LEAVING:
                if not executed:
                    raise InvalidTransition(before.state, Transition.RESTORE, transitions_from(before.state))
                return StatusChangeResult(state=state)
            append_audit_event(tx, step, AuditName.RESTORED, step.tenant_id, after=state)
            if state not in DENIED:
                self._locks.remove(step.tenant_id)
            stored = self._outbox.store(tx, step, before, NotificationKind.RESTORED)
        if state in DENIED:
            self._locks.record_soon(step.tenant_id)
        return StatusChangeResult(state=state, notification=NotificationKind.RESTORED if stored else None)

    @activity.defn(name="start-destruction")
    @send_heartbeats()
    def begin_destruction(self, step: StepInput) -> DestructionStartedResult:
        """Step 3: record the point of no return before any destruction, unless the tenant was restored.

        Raises:
            GracePeriodActive, RestorePending: nothing may be destroyed yet.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            begun = tx.leaving.begin_destruction(self._clock())
            if begun:
                append_audit_event(tx, step, AuditName.DESTRUCTION_BEGUN, step.tenant_id, "intended")
        return DestructionStartedResult(begun=begun)

    @staticmethod
    def _record_join(tx: TenantTransaction, step: LeaveInput, until: datetime) -> None:
        """Record a joined request: otherwise a late attempt would offboard the tenant again after a restore."""
        append_audit_event(
            tx, step, AuditName.LEAVING_JOINED, step.tenant_id, until=until.isoformat(), asked_by=step.reason
        )

    @staticmethod
    def _needs_approval(tx: TenantTransaction, step: LeaveInput) -> bool:
        """Return whether the policy applies; raises EventSuperseded for a revoked event of the marketplace.

        A customer may cancel at the marketplace without a second person, because the grace period can undo it. The
        caller's claim is not trusted: the signed event must be recorded.
        """
        if step.reason is not LeaveReason.MARKETPLACE:
            return True
        _require_last_word(tx, EventKind.SERVICE_DISABLED)
        return step.now or step.grace_seconds is not None

    def _grace(self, step: LeaveInput) -> timedelta | None:
        """Return the requested grace period; None for the usual one, or the one in progress."""
        if step.now:
            return timedelta()
        return None if step.grace_seconds is None else timedelta(seconds=step.grace_seconds)


def _requested_at(tx: TenantTransaction, step: LeaveInput) -> datetime | None:
    """Return when an earlier attempt of the step began or joined an offboarding; the caller holds the row lock."""
    begun = executed_at(tx, step, AuditName.LEAVING_BEGUN, step.tenant_id)
    return begun or executed_at(tx, step, AuditName.LEAVING_JOINED, step.tenant_id)


def _require_last_word(tx: TenantTransaction, kind: EventKind) -> None:
    """Raise EventSuperseded unless the marketplace's last event is of this kind; the caller holds the row lock."""
    if tx.leaving.last_word() is not kind:
        raise EventSuperseded


def _argument(step: LeaveInput) -> Argument:
    """Return the approved argument: a grace period other than the usual one."""
    sooner = {} if step.grace_seconds is None else {"grace_seconds": step.grace_seconds}
    return {"now": step.now, **sooner}


def _span(row: OffboardingRow) -> tuple[datetime, datetime]:
    if row.since is None or row.until is None:
        raise TenantUnknown
    return row.since, row.until
