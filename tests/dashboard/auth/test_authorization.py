import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.errors.platform import DatabaseUnavailable
from core.errors.tenants import AccessDenied, SessionEnded
from core.tenants.lifecycle import State, Transition
from core.tenants.roles import OPERATORS
from dashboard.auth.authorization import NOT_SIGNED_IN, OTHER_TENANTS_USER, SessionAuthorizer
from dashboard.auth.routes import MARKETPLACE, OPERATIONS, Route, of_tenant
from database.connection.database import Database
from openkcm.contract.audit_events import AuditName, verify_chain
from tests.dashboard.people import ACME, BETA, Clock, a_guard, claims_of
from tests.database.builders import a_provisioned_tenant
from tests.database.fixtures import Field

HOME = of_tenant(ACME)


@pytest.fixture
def dashboard(field: Field) -> Database:
    worker = field.open("worker")
    for tenant in (ACME, BETA):
        a_provisioned_tenant(worker, tenant)
    return field.open("dashboard")


@pytest.fixture
def guard(dashboard: Database, clock: Clock) -> SessionAuthorizer:
    return a_guard(dashboard, clock)


def stream(database: Database, tenant_id: str) -> list[dict[str, Any]]:
    """Return the records of the dashboard in a stream, after verifying its chain."""
    with database.tenant_tx(tenant_id) as tx:
        records = tx.audit.records()
    verify_chain(records)
    found = [json.loads(record.record) for record in records]
    return [record for record in found if record["name"].startswith("dashboard.")]


def test_a_sign_in_is_recorded_once_for_many_requests(
    guard: SessionAuthorizer, dashboard: Database, clock: Clock
) -> None:
    claims = claims_of(clock)
    first = guard.admit(claims, HOME, {}, "192.0.2.7")
    clock.advance(minutes=20)
    assert guard.admit(claims, HOME, {}, "192.0.2.7").session_id == first.session_id
    [record] = stream(dashboard, ACME)
    assert (record["name"], record["actor"], record["source"]) == (AuditName.SIGNED_IN, "ada", "192.0.2.7")
    assert record["upstream_event_type"] == "userLoginSuccess"


@pytest.mark.parametrize(
    ("changed", "place", "query"),
    [
        ({}, of_tenant(BETA), {}),
        ({}, OPERATIONS, {}),
        ({}, MARKETPLACE, {}),
        ({}, HOME, {"tenant": BETA}),
        ({"openkcm_tenant": BETA}, HOME, {}),
        ({"openkcm_tenant": None}, HOME, {}),
        ({"openkcm_roles": ["operator"], "openkcm_tenant": None}, HOME, {}),
    ],
)
def test_access_to_another_route_is_denied_and_recorded(
    guard: SessionAuthorizer, clock: Clock, changed: dict[str, Any], place: Route, query: dict[str, str]
) -> None:
    with pytest.raises(AccessDenied):
        guard.admit(claims_of(clock, **changed), place, query, "192.0.2.7")
    own = changed.get("openkcm_tenant", ACME) or OPERATORS
    [record] = stream(guard.database, own)
    assert (record["name"], record["outcome"], record["subject"]) == (AuditName.ACCESS_REFUSED, "refused", place.root)


def test_attempts_on_another_tenant_are_recorded_once_a_minute_and_without_the_person(
    guard: SessionAuthorizer, dashboard: Database, clock: Clock
) -> None:
    for minute in range(2):
        for tenant_id in (BETA, BETA, "gamma-corp-1"):
            with pytest.raises(AccessDenied):
                guard.admit(claims_of(clock), of_tenant(tenant_id), {}, "192.0.2.7")
        assert len([one for one in stream(dashboard, ACME) if one["subject"] == of_tenant(BETA).root]) == minute + 1
        clock.advance(minutes=1)
    [first, _] = stream(dashboard, BETA)
    assert first["actor"] == OTHER_TENANTS_USER
    assert not {"ada", ACME} & set(json.dumps(first).split('"'))
    assert stream(dashboard, "gamma-corp-1") == []


def test_a_forged_and_an_expired_sign_on_have_separate_records(
    guard: SessionAuthorizer, dashboard: Database, clock: Clock
) -> None:
    assert isinstance(guard.refuse_forged(HOME, "192.0.2.7"), SessionEnded)
    for tenant_id in (ACME, OPERATORS):
        [record] = stream(dashboard, tenant_id)
        assert (record["actor"], record["source"]) == (NOT_SIGNED_IN, "192.0.2.7")
    with pytest.raises(SessionEnded):
        guard.admit(claims_of(clock, exp=1), HOME, {}, "192.0.2.1")
    assert len({record["details"]["reason"] for record in stream(dashboard, OPERATORS)}) == 2


def test_an_expired_or_old_sign_on_is_refused(guard: SessionAuthorizer, clock: Clock) -> None:
    claims, old = claims_of(clock, exp=int(clock().timestamp()) + 600), claims_of(clock, nonce="old")
    sign_on = guard.admit(claims, HOME, {}, "")
    clock.advance(minutes=10)
    assert guard.has_ended(sign_on)
    for refused in (claims, old):
        with pytest.raises(SessionEnded):
            guard.admit(refused, HOME, {}, "")


def test_signing_out_ends_every_tab_and_stays_so(guard: SessionAuthorizer, dashboard: Database, clock: Clock) -> None:
    claims = claims_of(clock)
    sign_on = guard.admit(claims, HOME, {}, "")
    other = guard.admit(claims_of(clock, nonce="other"), HOME, {}, "")
    guard.end(sign_on, "")
    guard.end(sign_on, "")
    assert guard.has_ended(sign_on)
    assert not guard.has_ended(other)
    with pytest.raises(SessionEnded):
        guard.admit(claims, HOME, {}, "")
    names = [record["name"] for record in stream(dashboard, ACME)]
    assert names == [AuditName.SIGNED_IN, AuditName.SIGNED_IN, AuditName.SIGNED_OUT, AuditName.ACCESS_REFUSED]


def test_an_idle_session_ends(guard: SessionAuthorizer, clock: Clock) -> None:
    claims = claims_of(clock)
    guard.admit(claims, HOME, {}, "")
    clock.advance(minutes=29)
    sign_on = guard.admit(claims, HOME, {}, "")
    clock.advance(minutes=29)
    assert not guard.has_ended(sign_on)  # `has_ended` does not count as activity
    clock.advance(minutes=2)
    assert guard.has_ended(sign_on)
    with pytest.raises(SessionEnded):
        guard.admit(claims, HOME, {}, "")


def test_activity_in_a_fragment_keeps_the_session(guard: SessionAuthorizer, clock: Clock) -> None:
    sign_on = guard.admit(claims_of(clock), HOME, {}, "")
    for _ in range(2):
        clock.advance(minutes=29)
        assert guard.holds(sign_on, "")
    assert not guard.has_ended(sign_on)
    clock.advance(minutes=31)
    assert not guard.holds(sign_on, "")
    assert guard.has_ended(sign_on)


def test_a_fragment_stops_with_its_session_or_its_token(guard: SessionAuthorizer, clock: Clock) -> None:
    ended = guard.admit(claims_of(clock, nonce="ended"), HOME, {}, "")
    expired = guard.admit(claims_of(clock, nonce="expired", exp=int(clock().timestamp()) + 600), HOME, {}, "")
    guard.end(ended, "")
    assert not guard.holds(ended, "")
    clock.advance(minutes=10)
    assert not guard.holds(expired, "")


def test_without_a_database_no_fragment_is_shown_and_a_token_still_expires(field: Field, clock: Clock) -> None:
    guard = a_guard(field.open("dashboard"), clock)
    sign_on = guard.admit(claims_of(clock, exp=int(clock().timestamp()) + 600), HOME, {}, "")
    with field.server.offline(field.name):
        with pytest.raises(DatabaseUnavailable):
            guard.holds(sign_on, "")
        with pytest.raises(DatabaseUnavailable):
            guard.has_ended(sign_on)
        clock.advance(minutes=10)
        assert not guard.holds(sign_on, "")
        assert guard.has_ended(sign_on)


def test_users_of_an_offboarded_tenant_are_admitted_to_its_certificate(
    guard: SessionAuthorizer, field: Field, clock: Clock
) -> None:
    person, operator = (
        guard.admit(claims_of(clock), HOME, {}, ""),
        guard.admit(claims_of(clock, openkcm_roles=["operator"], openkcm_tenant=None), OPERATIONS, {}, ""),
    )
    worker = field.open("worker")
    assert operator.person.is_operator
    assert guard.tenant(person).state is State.PROVISIONING
    with worker.tenant_tx(ACME) as tx:
        tx.tenants.move(Transition.ACTIVATE)
        tx.leaving.begin(timedelta())
        tx.leaving.begin_destruction(datetime.now(UTC) + timedelta(seconds=1))
    assert guard.tenant(person).state is State.LEAVING
    with worker.tenant_tx(ACME) as tx:
        tx.leaving.end()
    assert guard.tenant(person).state is State.OFFBOARDED
    assert guard.tenant(operator) is None
    assert (
        guard.admit(claims_of(clock), HOME, {}, "").person == person.person
    )  # and they may still download the certificate
