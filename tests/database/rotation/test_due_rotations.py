"""Due and stalled rotations, as the schedule queries them for all tenants."""

from datetime import timedelta

from core.keys.rotation import RotationScope
from core.tenants.lifecycle import State, Transition
from core.tenants.policy import TenantPolicy
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from tests.database.builders import a_new_version, a_wanted_rotation, an_object
from tests.database.fixtures import Field
from tests.database.rotation.test_rotation import begin
from tests.database.templates import filled_template, two_services

NOTHING_DUE = TenantPolicy(tenant_key_days=730, service_key_days=365)

template = filled_template(two_services)


def age(field: Field, what: str, days: int) -> None:
    with field.administrator() as administrator:
        administrator.execute(f"update okcm.{what} = now() - make_interval(days => {days}) where tenant_id = 'acme'")


def test_keys_of_connected_services_are_due_after_their_cryptoperiod(tenants: Database, field: Field) -> None:
    age(field, "service_key set activated_at", 100)
    with tenants.tenant_tx("acme") as tx:
        assert not tx.rotations.due(NOTHING_DUE).services
        due = tx.rotations.due(TenantPolicy(service_key_days=90))
        assert (due.tenant_key, due.services, due.unfinished) == (False, True, False)
        tx.services.disconnect("users")
        tx.rotations.begin(2, a_wanted_rotation(services=RotationScope.DUE), 1)
        assert tx.rotations.unprepared(2, TenantPolicy(service_key_days=90)) == [("orders", 2)]
        assert tx.rotations.unprepared(2, TenantPolicy(service_key_days=365)) == []
        tx.services.disconnect("orders")
        assert not tx.rotations.due(TenantPolicy(service_key_days=90)).services
    age(field, "key set rotated_at", 400)
    with tenants.tenant_tx("acme") as tx:
        assert tx.rotations.due(TenantPolicy()).tenant_key
        assert not tx.rotations.due(NOTHING_DUE).tenant_key


def test_due_rotations_return_tenants_with_old_keys_or_unfinished_rotations(tenants: Database, field: Field) -> None:
    assert PlatformQueries(tenants).due_rotations(10) == []
    for what in ("service_key set activated_at", "key set rotated_at"):
        age(field, what, 400)
        assert PlatformQueries(tenants).due_rotations(10) == ["acme"]
        age(field, what, 0)
    with tenants.tenant_tx("acme") as tx:
        tx.policy.set(NOTHING_DUE)
    age(field, "service_key set activated_at", 100)
    assert PlatformQueries(tenants).due_rotations(10) == []
    begin(tenants, tenant_key=True)
    with tenants.tenant_tx("acme") as tx:
        tx.rotations.rotated(2, 2)
        assert tx.rotations.due(NOTHING_DUE).unfinished
    assert PlatformQueries(tenants).due_rotations(10) == ["acme"]
    with tenants.tenant_tx("acme") as tx:
        tx.tenants.move(Transition.LEAVE)
    assert PlatformQueries(tenants).due_rotations(10) == []


def test_due_rotations_rotate_the_order_and_respect_the_limit(tenants: Database, field: Field) -> None:
    with field.administrator() as administrator:
        administrator.execute("update okcm.key set rotated_at = now() - interval '400 days'")
    assert PlatformQueries(tenants).due_rotations(10) == ["acme", "beta"]
    begin(tenants)
    assert PlatformQueries(tenants).due_rotations(10) == ["beta", "acme"]
    assert PlatformQueries(tenants).due_rotations(1) == ["beta"]


def test_rotation_is_stuck_when_a_scheduled_one_failed_runs_too_long_or_is_overdue(
    tenants: Database, field: Field
) -> None:
    def stuck() -> list[tuple[str, str, int, str, int]]:
        rows = PlatformQueries(tenants).stuck_rotations(timedelta(hours=3), timedelta(days=1), 10)
        return [(row.tenant_id, row.why.value, row.number, row.problem, row.done) for row in rows]

    def end(number: int, problem: str | None = None) -> None:
        with tenants.tenant_tx("acme") as tx:
            tx.rotations.end(number, problem)

    assert stuck() == []
    age(field, "service_key set activated_at", 90)  # just became due
    begin(tenants, 2, scheduled=True)
    assert stuck() == []
    end(2, "root_key_disabled")
    assert stuck() == [("acme", "failed", 2, "root_key_disabled", 1)]
    begin(tenants, 3)  # requested by a person, who sees the failure
    end(3, "root_key_disabled")
    assert stuck() == []
    age(field, "service_key set activated_at", 92)
    assert stuck() == [("acme", "overdue", 3, "root_key_disabled", 1)]
    begin(tenants, 4)
    assert stuck() == []
    age(field, "rotation set started_at", 1)
    assert stuck() == [("acme", "unfinished", 4, "", 1)]
    with tenants.tenant_tx("acme") as tx:
        tx.tenants.move(Transition.LOCK)
    assert [row[1] for row in stuck()] == ["unfinished"]  # a lock does not stop a running rotation
    end(4, "tenant_not_operational")
    assert stuck() == []  # no rotation is possible until the tenant is unlocked
    with tenants.tenant_tx("acme") as tx:
        tx.tenants.move(Transition.UNLOCK, State.ACTIVE)
    begin(tenants, 5, scheduled=True)
    end(5, "root_key_disabled")
    age(field, "service_key set activated_at", 0)
    assert stuck() == []  # no key is due any more


def test_compromised_versions_are_due_once_they_encrypt_no_objects(tenants: Database, field: Field) -> None:
    a_new_version(tenants, "acme", compromised=True)
    with field.open("crypto").tenant_tx("acme") as tx:
        assert PlatformQueries(tenants).due_rotations(10) == []
        assert tx.objects.change(an_object("acme", "object-orders", key_version=2))
    assert PlatformQueries(tenants).due_rotations(10) == ["acme"]
    with tenants.tenant_tx("acme") as tx:
        assert tx.rotations.due(NOTHING_DUE).unfinished
