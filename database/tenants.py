"""The tenant's row and its state (core/tenants/lifecycle.py), its key policy (core/tenants/policy.py), and sessions.

Sessions of the dashboard are stored so that signing out ends one in all processes at once.
"""

from datetime import datetime
from typing import Any, NamedTuple

from core.errors.tenants import TenantUnknown
from core.scheduled import ScheduledTask
from core.tenants.approvals import Action
from core.tenants.lifecycle import TRANSITIONS, State, Transition, transition
from core.tenants.locks import LockReason, LockState, add_lock, remove_lock
from core.tenants.policy import TenantPolicy
from core.tenants.provisioning import MarketplaceEvent
from database.postgres.deadline import PAUSE_SECONDS
from database.repository import Repository

COLUMNS = (
    "tenant_id, organization, region, state, root_key_mode, requested_at, ready_at, promise_broken_at, locks,"
    " unlocks_to"
)

# Row-level security alone selects the tenant's row. The id is in the query for the plan: the operator has a second
# policy, ORed to the first, and an OR alone cannot use the index.
_GET = f"select {COLUMNS} from okcm.tenant where tenant_id = %s"  # noqa: S608 - COLUMNS is the constant above
LOCK = f"""
    select {COLUMNS} from okcm.tenant, set_config('idle_in_transaction_session_timeout', %s, true)
    where tenant_id = %s for no key update of tenant
"""  # noqa: S608 - the same
_CREATE = (
    "insert into okcm.tenant (tenant_id, organization, region) values (%s, %s, %s)"  # noqa: S608 - the same
    f" on conflict do nothing returning {COLUMNS}"
)


class TenantRow(NamedTuple):
    tenant_id: str
    organization: str
    region: str
    state: State
    root_key_mode: str
    requested_at: datetime
    ready_at: datetime | None
    promise_broken_at: datetime | None
    locks: tuple[LockReason, ...] = ()
    unlocks_to: State | None = None


def tenant_row(row: tuple[Any, ...]) -> TenantRow:
    """Return the row of a query over `COLUMNS`."""
    tenant_id, organization, region, state, mode, requested_at, ready_at, broken_at, locks, unlocks_to = row
    return TenantRow(
        tenant_id,
        organization,
        region,
        State(state),
        mode,
        requested_at,
        ready_at,
        broken_at,
        tuple(map(LockReason, locks)),
        None if unlocks_to is None else State(unlocks_to),
    )


class Tenants(Repository):
    def get(self) -> TenantRow | None:
        found = self.connection.execute(_GET, [self.tenant_id]).fetchone()
        return None if found is None else tenant_row(found)

    def last_change(self) -> int | None:
        """Return the transaction that last changed state, locks or region; None before the first change.

        A crypto process has applied the change if its report says a later number (`ProcessReport.applied`).
        """
        row = self.connection.execute(
            "select monitoring_xid::text from okcm.tenant where tenant_id = %s", [self.tenant_id]
        ).fetchone()
        return None if row is None or row[0] is None else int(row[0])

    def lock(self, pause_seconds: int = PAUSE_SECONDS) -> TenantRow:
        """Return the row, locked against other `lock` calls until the transaction ends; raise TenantUnknown.

        The lock is NO KEY: FOR UPDATE would wait for every transaction that writes a row that refers to this one. The
        transaction ends as soon as the process pauses for `pause_seconds`.
        """
        found = self.connection.execute(LOCK, [f"{pause_seconds}s", self.tenant_id]).fetchone()
        if found is None:
            raise TenantUnknown
        return tenant_row(found)

    def request(self, event: MarketplaceEvent) -> TenantRow:
        """Create the row in state requested, or return the existing row unchanged."""
        created = self.connection.execute(
            _CREATE,
            [event.tenant_id, event.organization, event.region],
        ).fetchone()
        if created is not None:
            return tenant_row(created)
        existing = self.get()
        if existing is None:
            raise TenantUnknown
        return existing

    def move(self, move: Transition, back_to: State | None = None) -> State:
        """Lock the row, change the state by the transition table and return the new state; raise InvalidTransition.

        A tenant that is in the target state already is unchanged, so a repeated step changes nothing. The transition to
        active sets `ready_at` once.
        """
        state = self.lock().state
        if state in _target_states(move, back_to):
            return state
        after = transition(state, move, back_to)
        self.connection.execute(
            "update okcm.tenant set state = %s,"
            " ready_at = case when %s then coalesce(ready_at, clock_timestamp()) else ready_at end",
            [after, after is State.ACTIVE],
        )
        return after

    def hold(self, reason: LockReason) -> State:
        """Lock the tenant for a reason, or add a reason to its lock; raise InvalidTransition."""
        return self._store_locks(add_lock(self._lock_state(), reason))

    def release(self, reason: LockReason) -> State:
        """Remove a lock reason; without any left, restore the former state. Raise InvalidTransition if not locked."""
        return self._store_locks(remove_lock(self._lock_state(), reason))

    def count_workflow_start(self) -> int:
        """Count a tenant workflow that starts with the state of this row; return the number of earlier ones."""
        counted = self.connection.execute(
            "update okcm.tenant set workflow_starts = workflow_starts + 1 where tenant_id = %s"
            " returning workflow_starts - 1",
            [self.tenant_id],
        ).fetchone()
        if counted is None:
            raise TenantUnknown
        return int(counted[0])

    def record_attempt(self, task: ScheduledTask) -> None:
        """Record that a scheduled task is attempted now; its next run begins with the tenants without this attempt."""
        self.connection.execute(
            "update okcm.tenant set scheduled_attempts = scheduled_attempts"
            " || jsonb_build_object(%s::text, clock_timestamp()) where tenant_id = %s",
            [task, self.tenant_id],
        )

    def break_promise(self) -> bool:
        """Record that the tenant exceeded the provisioning SLO; return False if that is recorded already."""
        changed = self.connection.execute(
            "update okcm.tenant set promise_broken_at = clock_timestamp() where promise_broken_at is null"
        )
        return changed.rowcount == 1

    def _lock_state(self) -> LockState:
        row = self.lock()
        return LockState(row.state, frozenset(row.locks), row.unlocks_to)

    def _store_locks(self, locks: LockState) -> State:
        self.connection.execute(
            "update okcm.tenant set state = %s, locks = %s, unlocks_to = %s",
            [locks.state, sorted(locks.locks), locks.unlocks_to],
        )
        return locks.state


def _target_states(move: Transition, back_to: State | None) -> frozenset[State]:
    ends = [ends for (_, listed), ends in TRANSITIONS.items() if listed is move]
    if back_to is not None:
        return frozenset({back_to} & {state for states in ends for state in states})
    return frozenset(states[0] for states in ends if len(states) == 1)


class Policies(Repository):
    def get(self) -> TenantPolicy:
        """Return the tenant's policy, with the defaults where it has not set a value."""
        row = self.connection.execute(
            "select tenant_key_days, service_key_days, four_eyes, revoked_keys_readable, resources_recorded"
            " from okcm.tenant_policy"
        ).fetchone()
        if row is None:
            return TenantPolicy()
        return TenantPolicy(
            tenant_key_days=row[0],
            service_key_days=row[1],
            four_eyes=frozenset(Action(name) for name in row[2]),
            revoked_keys_readable=row[3],
            resources_recorded=row[4],
        )

    def set(self, policy: TenantPolicy) -> None:
        self.connection.execute(
            "insert into okcm.tenant_policy"
            " (tenant_id, tenant_key_days, service_key_days, four_eyes, revoked_keys_readable, resources_recorded)"
            " values (%s, %s, %s, %s, %s, %s)"
            " on conflict (tenant_id) do update set tenant_key_days = excluded.tenant_key_days,"
            " service_key_days = excluded.service_key_days, four_eyes = excluded.four_eyes,"
            " revoked_keys_readable = excluded.revoked_keys_readable,"
            " resources_recorded = excluded.resources_recorded, changed_at = clock_timestamp()",
            [
                self.tenant_id,
                policy.tenant_key_days,
                policy.service_key_days,
                sorted(policy.four_eyes),
                policy.revoked_keys_readable,
                policy.resources_recorded,
            ],
        )


class SessionRow(NamedTuple):
    """A session of the dashboard. `subject` is the identity provider's id of the user; `ended_at` is the sign-out."""

    session_id: str
    subject: str
    expires_at: datetime
    last_seen_at: datetime
    ended_at: datetime | None


_BEGIN = """
insert into okcm.dashboard_session (tenant_id, session_id, subject, expires_at)
values (%s, %s, %s, %s) on conflict do nothing
"""


class Sessions(Repository):
    def begin(self, session_id: str, subject: str, expires_at: datetime) -> bool:
        """Record a session; return False if it exists."""
        return self.connection.execute(_BEGIN, [self.tenant_id, session_id, subject, expires_at]).rowcount == 1

    def get(self, session_id: str) -> SessionRow | None:
        found = self.connection.execute(
            "select session_id, subject, expires_at, last_seen_at, ended_at from okcm.dashboard_session"
            " where session_id = %s",
            [session_id],
        ).fetchone()
        return None if found is None else SessionRow(*found)

    def seen(self, session_id: str, at: datetime) -> None:
        """Move `last_seen_at` forward."""
        self.connection.execute(
            "update okcm.dashboard_session set last_seen_at = greatest(last_seen_at, %s) where session_id = %s",
            [at, session_id],
        )

    def end(self, session_id: str) -> bool:
        """End a session permanently; return False if it is unknown or has ended."""
        ended = self.connection.execute(
            "update okcm.dashboard_session set ended_at = clock_timestamp() where session_id = %s and ended_at is null",
            [session_id],
        )
        return ended.rowcount == 1
