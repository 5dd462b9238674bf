"""Tenant status (suspension and locks), key policy and the state of a new tenant workflow.

All are rows of PostgreSQL. Only the second copy of a lock is at the key server (activities/lock_records.py).

The commit notifies the crypto service of a new state: it drops the tenant's keys from memory and checks its
connections.
"""

from temporalio import activity

from activities.approvals import pending_approvals, require_approval
from activities.lock_records import LockRecorder
from activities.notifications import NotificationOutbox
from activities.runtime.audit_trail import Clock, append_audit_event, is_executed
from core import names as ids
from core.errors.compliance import BreachNotCleared
from core.errors.tenants import OperationLost, OperationRepeated, TenantUnknown
from core.keys.root_keys import RootKeyMode
from core.messages.base import StepInput
from core.messages.tenants import (
    PolicyInput,
    StatusChange,
    StatusChangeInput,
    StatusChangeResult,
    StoredTenant,
    TenantWorkflowState,
)
from core.notifications import NotificationKind
from core.tenants.approvals import Action
from core.tenants.lifecycle import DECRYPTS, State, Transition
from core.tenants.locks import HEALTHY, LockReason, requires_lock
from core.tenants.policy import parse_policy
from core.tenants.provisioning import EventKind
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.root_keys import CustomerRootKeyRow
from database.tenants import TenantRow
from openkcm.contract.audit_events import AuditName

_NAMES = {
    StatusChange.SUSPEND: AuditName.TENANT_SUSPENDED,
    StatusChange.RESUME: AuditName.TENANT_RESUMED,
    StatusChange.LOCK: AuditName.TENANT_LOCKED,
    StatusChange.UNLOCK: AuditName.TENANT_UNLOCKED,
    StatusChange.CLEAR_BREACH: AuditName.BREACH_CLEARED,
}


_OPERATIONS = 1_000_000
"""Operation numbers of one tenant workflow; it runs a few thousand operations a year."""


class StoredTenantActivities:
    def __init__(self, database: Database) -> None:
        self._database = database

    @activity.defn(name="load-tenant")
    def load_tenant(self, step: StepInput) -> StoredTenant:
        """Return the state with which a new tenant workflow starts; its operation numbers were never used.

        Raises TenantUnknown. Rotations and root key changes of the lost workflow end as failed: no other process would
        end them, and a late attempt of theirs then changes nothing. The next CA rotation continues an unfinished one.
        Provisioning starts again and finds what exists.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            row, leaving = tx.tenants.lock(), tx.leaving.get()
            if leaving is None or leaving.destroying_at is not None or row.state is State.OFFBOARDED:
                return StoredTenant()
            number = tx.tenants.count_workflow_start() * _OPERATIONS
            _end_unfinished(tx, number)
            return StoredTenant(
                memory=TenantWorkflowState(
                    state=row.state,
                    provision=row.state in {State.REQUESTED, State.PROVISIONING},
                    provisions=number,
                    changes=number,
                    rotations=number,
                    rolls=number,
                    operations=number,
                    waiting=pending_approvals(tx),
                    approved=tuple(one.approval_id for one in tx.approvals.unexecuted()),
                    pending_events=_pending_events(tx, row.state),
                ),
                root_key_mode=RootKeyMode(row.root_key_mode),
            )

    @activity.defn(name="read-tenant-state")
    def read_tenant_state(self, step: StepInput) -> StatusChangeResult:
        """Return the tenant's state; raises TenantUnknown."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            row = tx.tenants.get()
        if row is None:
            raise TenantUnknown
        return StatusChangeResult(state=row.state)


def _end_unfinished(tx: TenantTransaction, before: int) -> None:
    """End the rotations and root key changes before a number, as their workflows do after a failure."""
    for number in tx.rotations.running(before):
        tx.rotations.end(number, OperationLost.code)
        _record_loss(tx, f"rotate-{number}", AuditName.KEYS_ROTATED, ids.l2_key(tx.tenant_id))
    for number in tx.root_keys.running(before):
        change = tx.root_keys.change(number)
        tx.root_keys.abandon(number, OperationLost.code)
        if change is not None:
            _record_loss(tx, f"root-key-{number}", AuditName.ROOT_KEY_CHANGED, change.to_name)


def _record_loss(tx: TenantTransaction, operation_id: str, name: AuditName, subject: str) -> None:
    step = StepInput(tenant_id=tx.tenant_id, operation_id=operation_id)
    append_audit_event(tx, step, name, subject, "failure", code=OperationLost.code, at="load-tenant")


def _pending_events(tx: TenantTransaction, state: State) -> tuple[EventKind, ...]:
    """Return the marketplace's last event if the tenant's state does not follow from it."""
    if state is State.LEAVING:
        return (EventKind.SERVICE_ENABLED,) if tx.leaving.enabled_meanwhile() else ()
    return (EventKind.SERVICE_DISABLED,) if tx.leaving.last_word() is EventKind.SERVICE_DISABLED else ()


class TenantStatusActivities:
    def __init__(
        self,
        database: Database,
        outbox: NotificationOutbox,
        locks: LockRecorder,
        grace_seconds: float,
        clock: Clock,
    ) -> None:
        """`grace_seconds` is the time that a root key may be unreachable before its tenant is locked."""
        self._database = database
        self._outbox = outbox
        self._locks = locks
        self._grace_seconds = grace_seconds
        self._clock = clock

    @activity.defn(name="change-status")
    def change_standing(self, step: StatusChangeInput) -> StatusChangeResult:
        """Apply a requested status change; without effect when the tenant has that status already.

        Raises:
            OperationRepeated: it was applied before, and a later change revoked it. Only a lock is applied again: its
                caller must not need a second request.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            row = tx.tenants.lock()
            executed = is_executed(tx, step, _NAMES[step.move], step.tenant_id)
            if step.move is StatusChange.LOCK:
                require_approval(tx, step, Action.LOCK, {}, step.approval_id)
            state = _apply(tx, row, step.move)
            if executed and tx.tenants.lock() != row:
                if step.move is not StatusChange.LOCK:
                    raise OperationRepeated
                step = _recorded_again(tx, step)
            append_audit_event(
                tx,
                step,
                _NAMES[step.move],
                step.tenant_id,
                before=row.state,
                after=state,
                locked_by=", ".join(tx.tenants.lock().locks),
            )
            unlocks = step.move in {StatusChange.UNLOCK, StatusChange.CLEAR_BREACH}
            if unlocks and state in DECRYPTS:
                # Also where the row has no lock: an administrator decides that a lock from a later time is void.
                self._locks.remove(step.tenant_id)
            result = _result(tx, step, self._outbox, row, state)
        if state is State.LOCKED:
            self._locks.record_soon(step.tenant_id)
        return result

    @activity.defn(name="apply-root-key-health")
    def follow_root_key(self, step: StepInput) -> StatusChangeResult:
        """Lock the tenant when its root key is revoked or unreachable for too long; unlock it when the key works again.

        No operator decides this, so it needs no approval (docs/approvals.md). A root key that has just become
        unreachable causes a warning and no lock yet.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            row, key = tx.tenants.lock(), tx.root_keys.current()
            held, due = LockReason.ROOT_KEY in row.locks, self._requires_lock(key)
            if due == held or row.state not in DECRYPTS | {State.LOCKED}:
                warned = key is not None and key.health != HEALTHY and not held
                stored = warned and self._outbox.store(tx, step, row, NotificationKind.ROOT_KEY_WARNING)
                return StatusChangeResult(
                    state=row.state, notification=NotificationKind.ROOT_KEY_WARNING if stored else None
                )
            if due:
                state = tx.tenants.hold(LockReason.ROOT_KEY)
                _append_root_key_event(tx, step, AuditName.TENANT_LOCKED, row.state, state)
                result = _result(tx, step, self._outbox, row, state)
            else:
                result = release_root_key_lock(tx, step, self._outbox, self._locks)
        if result.state is State.LOCKED:
            self._locks.record_soon(step.tenant_id)
        return result

    @activity.defn(name="apply-isolation-result")
    def follow_boundaries(self, step: StepInput) -> StatusChangeResult:
        """Lock the tenant when its newest isolation assessment found a breach; this activity never unlocks it.

        The platform locks what it cannot guarantee, so it needs no approval of the customer.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            row, newest = tx.tenants.lock(), tx.boundaries.examination()
            breached = newest is not None and newest.breached > 0
            if not breached or LockReason.BREACH in row.locks or row.state not in DECRYPTS | {State.LOCKED}:
                return StatusChangeResult(state=row.state)
            state = tx.tenants.hold(LockReason.BREACH)
            append_audit_event(
                tx,
                step,
                AuditName.TENANT_LOCKED,
                step.tenant_id,
                before=row.state,
                after=state,
                locked_by=", ".join(tx.tenants.lock().locks),
            )
            stored = self._outbox.store(tx, step, row, NotificationKind.BREACHED)
        self._locks.record_soon(step.tenant_id)
        return StatusChangeResult(state=state, notification=NotificationKind.BREACHED if stored else None)

    def _requires_lock(self, key: CustomerRootKeyRow | None) -> bool:
        if key is None:
            return False
        return requires_lock(key.health, (self._clock() - key.health_since).total_seconds(), self._grace_seconds)


def release_root_key_lock(
    tx: TenantTransaction, step: StepInput, outbox: NotificationOutbox, locks: LockRecorder
) -> StatusChangeResult:
    """Remove the lock by the root key, and its record at the key server if the tenant's services may work again.

    The caller calls `record_soon` after the commit if the tenant is still locked.
    """
    row = tx.tenants.lock()
    state = tx.tenants.release(LockReason.ROOT_KEY)
    _append_root_key_event(tx, step, AuditName.TENANT_UNLOCKED, row.state, state)
    if state in DECRYPTS:
        locks.remove(step.tenant_id)
    return _result(tx, step, outbox, row, state)


def _append_root_key_event(
    tx: TenantTransaction, step: StepInput, name: AuditName, before: State, after: State
) -> None:
    key = tx.root_keys.current()
    append_audit_event(
        tx,
        step,
        name,
        step.tenant_id,
        before=before,
        after=after,
        root_key="the platform's" if key is None else key.name,
        health=HEALTHY if key is None else key.health,
        health_since="" if key is None else key.health_since.isoformat(),
    )


def _result(
    tx: TenantTransaction, step: StepInput, outbox: NotificationOutbox, row: TenantRow, state: State
) -> StatusChangeResult:
    kind = _notification_of(row.state, state)
    stored = kind is not None and outbox.store(tx, step, row, kind)
    return StatusChangeResult(state=state, notification=kind if stored else None)


def _recorded_again(tx: TenantTransaction, step: StatusChangeInput) -> StatusChangeInput:
    """Return the step with another operation id, because an event and a notification with its own id exist."""
    head = tx.audit.head()
    return step.model_copy(update={"operation_id": f"{step.operation_id}-after-{0 if head is None else head.seq}"})


def _apply(tx: TenantTransaction, row: TenantRow, move: StatusChange) -> State:
    match move:
        case StatusChange.LOCK:
            return tx.tenants.hold(LockReason.MANUAL)
        case StatusChange.UNLOCK:
            return row.state if row.state in DECRYPTS else tx.tenants.release(LockReason.MANUAL)
        case StatusChange.CLEAR_BREACH:
            return _clear_breach(tx, row)
        case _:
            return tx.tenants.move(Transition(move))


def _clear_breach(tx: TenantTransaction, row: TenantRow) -> State:
    """Release the lock of a breach; raises BreachNotCleared unless the newest assessment passed.

    The lock came from the newest assessment of its time, so a newest one that passed is later. The operator judges the
    checks that a locked tenant prevents; the command shows them before the request.
    """
    if row.state in DECRYPTS or (row.state is State.LOCKED and LockReason.BREACH not in row.locks):
        return row.state
    newest = tx.boundaries.examination()
    if row.state is State.LOCKED and (newest is None or not newest.passed):
        raise BreachNotCleared
    return tx.tenants.release(LockReason.BREACH)


def _notification_of(before: State, after: State) -> NotificationKind | None:
    """Return the notification of a status change; None where the requester sees the result on the page."""
    if before is after:
        return None
    if after is State.LOCKED:
        return NotificationKind.LOCKED
    return NotificationKind.UNLOCKED if before is State.LOCKED else None


class PolicyActivities:
    def __init__(self, database: Database) -> None:
        self._database = database

    @activity.defn(name="change-policy")
    def change_policy(self, step: PolicyInput) -> None:
        """Set the policy; the rules of the former policy decide whether this needs an approval.

        Raises:
            OperationRepeated: this policy was set before, and a later one replaced it.
        """
        policy = parse_policy(
            step.tenant_key_days,
            step.service_key_days,
            step.four_eyes,
            revoked_keys_readable=step.revoked_keys_readable,
            resources_recorded=step.resources_recorded,
        )
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.tenants.lock()
            before = tx.policy.get()
            if before != policy and is_executed(tx, step, AuditName.POLICY_CHANGED, step.tenant_id):
                raise OperationRepeated
            require_approval(tx, step, Action.CHANGE_POLICY, policy.as_argument(), step.approval_id)
            tx.policy.set(policy)
            append_audit_event(
                tx,
                step,
                AuditName.POLICY_CHANGED,
                step.tenant_id,
                before=before.in_words(),
                after=policy.in_words(),
            )
