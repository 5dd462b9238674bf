"""Whose keys are to be rotated, as the schedule asks for all tenants, and whose were not."""

from datetime import timedelta

from core.keys.rotation import RotationScope
from core.tenants.lifecycle import State, Transition
from core.tenants.policy import TenantPolicy
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from tests.database.builders import a_new_version, a_wanted_rotation, an_object
from tests.database.fixtures import Field
from tests.database.templates import filled_template, two_services
from tests.database.test_rotation import begin

NOTHING_DUE = TenantPolicy(tenant_key_days=730, service_key_days=365)

template = filled_template(two_services)


def age(field: Field, what: str, days: int) -> None:
    with field.administrator() as administrator:
        administrator.execute(f"update okcm.{what} = now() - make_interval(days => {days}) where tenant_id = 'acme'")


def test_what_is_due_is_what_is_older_than_the_tenant_wants_and_still_connected(
    tenants: Database, field: Field
) -> None:
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


def test_the_schedule_is_told_whose_keys_are_old_and_whose_rotation_was_not_finished(
    tenants: Database, field: Field
) -> None:
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


def test_the_schedule_asks_in_turn_and_for_no_more_than_it_wants(tenants: Database, field: Field) -> None:
    with field.administrator() as administrator:
        administrator.execute("update okcm.key set rotated_at = now() - interval '400 days'")
    assert PlatformQueries(tenants).due_rotations(10) == ["acme", "beta"]
    begin(tenants)
    assert PlatformQueries(tenants).due_rotations(10) == ["beta", "acme"]
    assert PlatformQueries(tenants).due_rotations(1) == ["beta"]


def test_a_rotation_is_stuck_when_it_failed_by_itself_runs_too_long_or_was_never_begun(
    tenants: Database, field: Field
) -> None:
    def stuck() -> list[tuple[str, str, int, str, int]]:
        rows = PlatformQueries(tenants).stuck_rotations(timedelta(hours=3), timedelta(days=1), 10)
        return [(row.tenant_id, row.why.value, row.number, row.problem, row.done) for row in rows]

    def end(number: int, problem: str | None = None) -> None:
        with tenants.tenant_tx("acme") as tx:
            tx.rotations.end(number, problem)

    assert stuck() == []
    age(field, "service_key set activated_at", 90)  # due, for a moment
    begin(tenants, 2, scheduled=True)
    assert stuck() == []
    end(2, "root_key_disabled")
    assert stuck() == [("acme", "failed", 2, "root_key_disabled", 1)]
    begin(tenants, 3)  # a person's, who hears of it
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
    assert [row[1] for row in stuck()] == ["unfinished"]  # a lock stops no rotation that runs
    end(4, "tenant_closed")
    assert stuck() == []  # until it is unlocked nothing can be rotated
    with tenants.tenant_tx("acme") as tx:
        tx.tenants.move(Transition.UNLOCK, State.ACTIVE)
    begin(tenants, 5, scheduled=True)
    end(5, "root_key_disabled")
    age(field, "service_key set activated_at", 0)
    assert stuck() == []  # nothing is due any more


def test_compromised_versions_are_due_once_nothing_is_sealed_under_them(tenants: Database, field: Field) -> None:
    a_new_version(tenants, "acme", compromised=True)
    with field.open("crypto").tenant_tx("acme") as tx:
        assert PlatformQueries(tenants).due_rotations(10) == []
        assert tx.objects.change(an_object("acme", "object-orders", key_version=2))
    assert PlatformQueries(tenants).due_rotations(10) == ["acme"]
    with tenants.tenant_tx("acme") as tx:
        assert tx.rotations.due(NOTHING_DUE).unfinished
