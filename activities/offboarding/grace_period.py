"""The grace of a tenant that leaves: its beginning, its reminders, its undoing and its end; rows of PostgreSQL only.

Who restores and who begins to destroy both lock the tenant's row, so that one of them comes first and the other is
refused. The crypto service hears of the state by the commit itself: it drops what it has open.
"""

from datetime import datetime, timedelta

from temporalio import activity

from activities.approvals import require_approval
from activities.audit_trail import Clock, append_audit_event
from activities.notifications import NotificationOutbox
from core.errors.tenants import OffboardingAlreadyScheduled, TenantUnknown
from core.messages.base import StepInput
from core.messages.tenants import (
    DestructionStartedResult,
    LeaveInput,
    LeaveReason,
    OffboardingResult,
    StatusChangeResult,
)
from core.notifications import NotificationKind
from core.tenants.approvals import Action, Argument
from core.tenants.lifecycle import State
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.offboarding import OffboardingRow
from openkcm.contract.audit_events import AuditName
from openkcm.contract.names import RESERVED_PREFIX
from openkcm.errors import IllegalTenantId


class GracePeriodActivities:
    def __init__(self, database: Database, announcer: NotificationOutbox, usual: timedelta, clock: Clock) -> None:
        """Take the grace of those who ask for none in particular."""
        self._database = database
        self._announcer = announcer
        self._usual = usual
        self._clock = clock

    @activity.defn(name="begin-leaving")
    def begin_leaving(self, step: LeaveInput) -> OffboardingResult:
        """Step 1: nothing of the tenant works from this commit on, nothing is destroyed, and all of it can come back.

        Asked again it goes on as it was begun, whatever it has come to; who asks for another end is refused.
        """
        # The platform's own tenants are what all others are attacked against: none would become ready without them.
        if step.tenant_id.startswith(RESERVED_PREFIX):
            raise IllegalTenantId("the platform's own tenants do not leave", "choose a customer's tenant")
        grace = self._grace(step)
        with self._database.tenant_tx(step.tenant_id) as tx:
            before = tx.tenants.lock()
            row = tx.leaving.begin(self._usual if grace is None else grace)
            since, until = _span(row)
            if before.state is State.LEAVING:
                if grace is not None and until - since != grace:
                    raise OffboardingAlreadyScheduled(
                        f"the tenant is leaving already, until {until:%Y-%m-%d %H:%M} UTC"
                    )
                return OffboardingResult(state=State.LEAVING, since=since, until=until)
            if not self._asked_by_marketplace(tx, step):
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
            told = self._announcer.store(tx, step, before, NotificationKind.LEAVING, until)
        return OffboardingResult(
            state=State.LEAVING, since=since, until=until, told=NotificationKind.LEAVING if told else None
        )

    @activity.defn(name="remind-of-leaving")
    def remind_of_leaving(self, step: StepInput) -> None:
        """Store the reminder that the grace is nearly over; one who is back is not told."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            row, leaving = tx.tenants.lock(), tx.leaving.get()
            if row.state is State.LEAVING and leaving is not None:
                self._announcer.store(tx, step, row, NotificationKind.LEAVING_REMINDER, leaving.until)

    @activity.defn(name="restore-tenant")
    def restore_tenant(self, step: StepInput) -> StatusChangeResult:
        """Restore the tenant's former state and locks; raises DestructionStarted when it is too late."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            before = tx.tenants.lock()
            state = tx.leaving.restore()
            if before.state is not State.LEAVING:
                return StatusChangeResult(state=state)
            append_audit_event(tx, step, AuditName.RESTORED, step.tenant_id, after=state)
            told = self._announcer.store(tx, step, before, NotificationKind.RESTORED)
        return StatusChangeResult(state=state, told=NotificationKind.RESTORED if told else None)

    @activity.defn(name="begin-destruction")
    def begin_destruction(self, step: StepInput) -> DestructionStartedResult:
        """Step 3: pass the point of no return, on record before anything goes, unless the tenant was restored."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            begun = tx.leaving.begin_destruction(self._clock())
            if begun:
                append_audit_event(tx, step, AuditName.DESTRUCTION_BEGUN, step.tenant_id, "intended")
        return DestructionStartedResult(begun=begun)

    @staticmethod
    def _asked_by_marketplace(tx: TenantTransaction, step: LeaveInput) -> bool:
        """Whether the signed event is on record: whoever else says that it was the marketplace is not believed.

        A customer may end the service at their platform without a second person here, and has the grace to undo it.
        """
        usual = not step.now and step.grace_seconds is None
        return usual and step.reason is LeaveReason.MARKETPLACE and tx.leaving.asked_by_marketplace()

    def _grace(self, step: LeaveInput) -> timedelta | None:
        """Return what is asked for; None for whatever is usual, or under way."""
        if step.now:
            return timedelta()
        return None if step.grace_seconds is None else timedelta(seconds=step.grace_seconds)


def _argument(step: LeaveInput) -> Argument:
    """Return what two people agree on: how soon the keys are gone, where it is not the usual grace."""
    sooner = {} if step.grace_seconds is None else {"grace_seconds": step.grace_seconds}
    return {"now": step.now, **sooner}


def _span(row: OffboardingRow) -> tuple[datetime, datetime]:
    if row.since is None or row.until is None:
        raise TenantUnknown
    return row.since, row.until
