"""A tenant's standing: suspended or not, locked or not and why; rows of PostgreSQL only.

The crypto service hears of a new state by the commit itself: it drops what it has open and looks at its connections.

Changing what a tenant asks of its keys; a row of PostgreSQL only.
"""

from temporalio import activity

from activities.approvals import require_approval
from activities.audit_trail import Clock, append_audit_event
from activities.notifications import NotificationOutbox
from core.errors.compliance import BreachNotCleared
from core.messages.base import StepInput
from core.messages.tenants import PolicyInput, StatusChange, StatusChangeInput, StatusChangeResult
from core.notifications import NotificationKind
from core.tenants.approvals import Action
from core.tenants.lifecycle import DECRYPTS, State, Transition
from core.tenants.locks import HEALTHY, LockReason, requires_lock
from core.tenants.policy import parse_policy
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


class TenantStatusActivities:
    def __init__(self, database: Database, announcer: NotificationOutbox, grace_seconds: float, clock: Clock) -> None:
        """Take for how long a root key may be out of reach before its tenant is locked."""
        self._database = database
        self._announcer = announcer
        self._grace_seconds = grace_seconds
        self._clock = clock

    @activity.defn(name="change-standing")
    def change_standing(self, step: StatusChangeInput) -> StatusChangeResult:
        """Do what somebody asked for; a tenant that stands so already stays so."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            row = tx.tenants.lock()
            if step.move is StatusChange.LOCK:
                require_approval(tx, step, Action.LOCK, {}, step.approval_id)
            state = _moved(tx, row, step.move)
            append_audit_event(
                tx,
                step,
                _NAMES[step.move],
                step.tenant_id,
                before=row.state,
                after=state,
                locked_by=", ".join(tx.tenants.lock().locks),
            )
            return self._result(tx, step, row, state)

    @activity.defn(name="follow-root-key")
    def follow_root_key(self, step: StepInput) -> StatusChangeResult:
        """Lock the tenant when its root key was taken away or out of reach for too long; unlock it when it is back.

        Nobody of ours decides that, so it waits for no second person (docs/approvals.md).

        A root key that has just stopped to answer is told of and locks nothing yet.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            row, key = tx.tenants.lock(), tx.root_keys.current()
            held, due = LockReason.ROOT_KEY in row.locks, self._closes(key)
            if due == held or row.state not in DECRYPTS | {State.LOCKED}:
                warned = key is not None and key.health != HEALTHY and not held
                told = warned and self._announcer.store(tx, step, row, NotificationKind.ROOT_KEY_WARNING)
                return StatusChangeResult(state=row.state, told=NotificationKind.ROOT_KEY_WARNING if told else None)
            state = (tx.tenants.hold if due else tx.tenants.release)(LockReason.ROOT_KEY)
            append_audit_event(
                tx,
                step,
                AuditName.TENANT_LOCKED if due else AuditName.TENANT_UNLOCKED,
                step.tenant_id,
                before=row.state,
                after=state,
                root_key="the platform's" if key is None else key.name,
                health=HEALTHY if key is None else key.health,
                health_since="" if key is None else key.health_since.isoformat(),
            )
            return self._result(tx, step, row, state)

    @activity.defn(name="follow-boundaries")
    def follow_boundaries(self, step: StepInput) -> StatusChangeResult:
        """Lock the tenant when its newest examination found a breach; nothing here ever takes that lock away.

        The platform closes what it cannot vouch for, so it waits for no second person of the customer's either.
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
            told = self._announcer.store(tx, step, row, NotificationKind.BREACHED)
            return StatusChangeResult(state=state, told=NotificationKind.BREACHED if told else None)

    def _closes(self, key: CustomerRootKeyRow | None) -> bool:
        if key is None:
            return False
        return requires_lock(key.health, (self._clock() - key.health_since).total_seconds(), self._grace_seconds)

    def _result(self, tx: TenantTransaction, step: StepInput, row: TenantRow, state: State) -> StatusChangeResult:
        kind = _news(row.state, state)
        told = kind is not None and self._announcer.store(tx, step, row, kind)
        return StatusChangeResult(state=state, told=kind if told else None)


def _moved(tx: TenantTransaction, row: TenantRow, move: StatusChange) -> State:
    match move:
        case StatusChange.LOCK:
            return tx.tenants.hold(LockReason.SWITCH)
        case StatusChange.UNLOCK:
            return row.state if row.state in DECRYPTS else tx.tenants.release(LockReason.SWITCH)
        case StatusChange.CLEAR_BREACH:
            return _cleared(tx, row)
        case _:
            return tx.tenants.move(Transition(move))


def _cleared(tx: TenantTransaction, row: TenantRow) -> State:
    """Release the lock of a breach; raises BreachNotCleared unless the newest examination found every wall standing.

    The breach locked by being the newest, so a newest one without any is later. What could not be attacked while the
    tenant is locked is the operator's to judge, who is shown it before asking for this.
    """
    if row.state in DECRYPTS or (row.state is State.LOCKED and LockReason.BREACH not in row.locks):
        return row.state
    newest = tx.boundaries.examination()
    if row.state is State.LOCKED and (newest is None or not newest.passed):
        raise BreachNotCleared
    return tx.tenants.release(LockReason.BREACH)


def _news(before: State, after: State) -> NotificationKind | None:
    """Return what is told of a move; nobody is written to for what they see on the page where they asked for it."""
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
        """Put another policy in force, by the rules of the one that was."""
        policy = parse_policy(step.tenant_key_days, step.service_key_days, step.four_eyes)
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.tenants.lock()
            before = tx.policy.get()
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
