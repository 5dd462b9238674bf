"""The second copy of a lock, at a real key server: an older database or an older key server unlocks no tenant."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel
from structlog.testing import capture_logs
from temporalio.testing import ActivityEnvironment

from activities.lock_records import LockRecords
from activities.notifications import NotificationOutbox
from activities.tenants import TenantStatusActivities
from core.errors.platform import VaultUnavailable
from core.errors.tenants import LockedAtKeyServer
from core.messages.tenants import LeaveInput, RestoreInput, StatusChange, StatusChangeInput
from core.tenants.lifecycle import State
from core.tenants.locks import LockReason, LockRecord
from tests.activities.provisioning import REGION
from tests.activities.services.connecting import SERVICE, Connection
from tests.concurrency import wait_until
from tests.database.fixtures import Field
from tests.kms.opening import Opener
from tests.vault.server import Server
from vault.auth.client import VaultSession
from vault.tenant_locks import TenantLocks


class Lockable:
    """A tenant with a service, and its lock at the key server."""

    def __init__(self, connection: Connection, field: Field, key_server: Server, opener: Opener) -> None:
        self.connection, self.tenant_id = connection, connection.tenant_id
        self.field, self.opener = field, opener
        self.locks = TenantLocks(key_server.session("operator"))
        self.written = TenantLocks(key_server.session("worker"))
        self._steps = 0

    def change(self, move: StatusChange) -> None:
        self.run("change-status", StatusChangeInput, move=move)

    def run(self, name: str, kind: type[BaseModel], **fields: Any) -> None:
        self._steps += 1
        step = {"tenant_id": self.tenant_id, "operation_id": f"{name}-{self._steps}"}
        self.connection.tenant.run_with(name, kind.model_validate(step | fields))

    def record_locks(self) -> None:
        self.connection.tenant.run_platform("record-locks")

    @property
    def recorded(self) -> LockRecord | None:
        return self.locks.get(self.tenant_id)

    @property
    def state(self) -> State:
        return self.connection.tenant_row.state

    def lock(self) -> None:
        self.change(StatusChange.LOCK)
        self.wait_recorded(State.LOCKED)

    def wait_recorded(self, state: State) -> None:
        wait_until(lambda: (found := self.recorded) is not None and found.state is state, lambda: str(self.recorded))

    def works(self) -> bool:
        """Return whether the crypto service unwraps the service's key."""
        try:
            return bool(self.opener.open(self.tenant_id, REGION, SERVICE, 1))
        except LockedAtKeyServer:
            return False


@pytest.fixture
def tenant_with_key(connection: Connection, field: Field, key_server: Server, opener: Opener) -> Lockable:
    connection.connect()
    return Lockable(connection, field, key_server, opener)


@pytest.fixture
def lockable(tenant_with_key: Lockable) -> Lockable:
    assert tenant_with_key.works()
    return tenant_with_key


def test_lock_and_unlock_change_the_copy(lockable: Lockable) -> None:
    lockable.lock()
    stored = lockable.recorded
    assert stored is not None
    assert stored.locks == {LockReason.MANUAL}
    assert lockable.tenant_id in lockable.locks.tenants()
    lockable.change(StatusChange.UNLOCK)
    assert lockable.recorded is None
    assert lockable.works()


def test_offboarding_and_restoration_change_the_copy(lockable: Lockable) -> None:
    lockable.lock()
    lockable.run("start-offboarding", LeaveInput)
    lockable.wait_recorded(State.LEAVING)
    lockable.run("restore-tenant", RestoreInput)
    lockable.wait_recorded(State.LOCKED)
    lockable.change(StatusChange.UNLOCK)
    lockable.run("start-offboarding", LeaveInput)
    lockable.wait_recorded(State.LEAVING)
    lockable.run("restore-tenant", RestoreInput)
    assert lockable.recorded is None


def test_older_database_unlocks_no_tenant(lockable: Lockable) -> None:
    backup = lockable.field.back_up()
    lockable.lock()
    lockable.field.restore(backup)
    assert lockable.state is State.ACTIVE
    assert not lockable.works()
    lockable.record_locks()
    assert not lockable.works(), "a scheduled run must not trust the older database"
    lockable.change(StatusChange.UNLOCK)  # the decision of an administrator
    assert lockable.works()


def test_older_database_revives_no_offboarding_tenant(lockable: Lockable) -> None:
    backup = lockable.field.back_up()
    lockable.run("start-offboarding", LeaveInput)
    lockable.wait_recorded(State.LEAVING)
    lockable.field.restore(backup)
    lockable.record_locks()
    assert lockable.state is State.ACTIVE
    assert not lockable.works()


def test_older_database_makes_no_copy_less_strict(lockable: Lockable) -> None:
    lockable.lock()
    backup = lockable.field.back_up()
    lockable.run("start-offboarding", LeaveInput)
    lockable.wait_recorded(State.LEAVING)
    lockable.field.restore(backup)
    assert lockable.state is State.LOCKED
    lockable.record_locks()
    stored = lockable.recorded
    assert stored is not None
    assert stored.state is State.LEAVING, "the comparison of the stores would no longer find the lost offboarding"


def test_run_opens_no_transaction_for_a_tenant_whose_copy_is_known(lockable: Lockable) -> None:
    lockable.lock()
    lockable.record_locks()
    row = "select from okcm.tenant where tenant_id = %s for update"
    with lockable.field.administrator() as held, held.transaction(), capture_logs() as logs:
        held.execute(row, [lockable.tenant_id])
        lockable.record_locks()
    assert [log for log in logs if log["log_level"] != "info"] == []


def test_older_key_server_gets_the_lock_again(lockable: Lockable) -> None:
    lockable.lock()
    lockable.written.remove(lockable.tenant_id)
    lockable.record_locks()
    assert lockable.recorded is not None


def test_older_key_server_keeps_no_tenant_locked(lockable: Lockable) -> None:
    lockable.lock()
    stored = lockable.recorded
    assert stored is not None
    lockable.change(StatusChange.UNLOCK)
    lockable.written.record(lockable.tenant_id, stored)
    assert not lockable.works()
    lockable.record_locks()
    assert lockable.recorded is None
    assert lockable.works()


def test_added_reason_changes_the_copy(lockable: Lockable) -> None:
    lockable.lock()
    lockable.record_locks()
    lockable.connection.read(lambda tx: tx.tenants.hold(LockReason.BREACH))
    lockable.record_locks()
    stored = lockable.recorded
    assert stored is not None
    assert stored.locks == {LockReason.MANUAL, LockReason.BREACH}


def test_lock_does_not_wait_for_the_key_server_and_an_unlock_does(lockable: Lockable, unused_port: int) -> None:
    nowhere = TenantLocks(VaultSession(f"http://127.0.0.1:{unused_port}", "worker", "no secret"))
    database = lockable.connection.database
    records = LockRecords(database, nowhere)
    status = TenantStatusActivities(database, NotificationOutbox((), ""), records, 60.0, lambda: datetime.now(UTC))

    def change(move: StatusChange) -> None:
        step = StatusChangeInput(tenant_id=lockable.tenant_id, operation_id=f"unreachable-{move}", move=move)
        ActivityEnvironment().run(status.change_standing, step)

    change(StatusChange.LOCK)
    assert lockable.state is State.LOCKED
    with pytest.raises(VaultUnavailable):
        change(StatusChange.UNLOCK)
    assert lockable.state is State.LOCKED
    lockable.record_locks()
    assert lockable.recorded is not None
