from datetime import datetime, timedelta

import psycopg
import pytest

from core.errors.keys import KeyVersionRetired
from core.errors.platform import DatabaseRefused
from core.errors.services import ServiceConflict, ServiceUnknown
from core.keys.rotation import OPENING, KeyState
from core.names import l2_key
from core.services import ServiceState
from core.tenants.lifecycle import State, Transition
from database.connection.database import Database
from database.services.repository import HeldCertificateRow
from openkcm.contract.services import ServiceKind
from tests.database.builders import (
    NOW,
    a_connected_service,
    a_leaf,
    a_provisioned_tenant,
    a_request,
    a_route,
    a_service_key,
)
from tests.database.fixtures import Field
from tests.database.templates import filled_template


def fill(field: Field) -> None:
    """Create two tenants, each with a service of the same name; their certificates differ."""
    for tenant, serial in (("acme", "aa01"), ("beta", "bb01")):
        a_provisioned_tenant(field.open("worker"), tenant)
        a_connected_service(field, tenant, serial=serial)


template = filled_template(fill)


@pytest.fixture
def connected(field: Field) -> Field:
    return field


def test_service_request_is_stored_once_and_found_by_its_id(field: Field, worker: Database) -> None:
    a_provisioned_tenant(worker, "gamma")
    with field.open("operator").tenant_tx("gamma") as tx:
        tx.services.request(a_request())
        tx.services.request(a_request()._replace(service="another"))
    with worker.tenant_tx("gamma") as tx:
        assert tx.services.requested("request-1") == a_request()
        with pytest.raises(ServiceUnknown):
            tx.services.requested("request-2")


def test_connected_service_keeps_its_kind(worker: Database) -> None:
    a_provisioned_tenant(worker, "gamma")
    with worker.tenant_tx("gamma") as tx:
        first = tx.services.connect("orders", ServiceKind.MONGODB)
        assert (first.state, first.connected_at) == (ServiceState.CONNECTING, None)
        tx.services.connected("orders")
        service = tx.services.get("orders")
        tx.services.connected("orders")
        assert tx.services.connect("orders", ServiceKind.MONGODB) == service
        with pytest.raises(ServiceConflict):
            tx.services.connect("orders", ServiceKind.POSTGRESQL)
        assert tx.services.all() == [service]
    assert (service.state, service.kind) == (ServiceState.CONNECTED, ServiceKind.MONGODB)
    assert service.connected_at is not None


def test_unknown_service_cannot_be_connected_or_disconnected(worker: Database) -> None:
    a_provisioned_tenant(worker, "gamma")
    with worker.tenant_tx("gamma") as tx:
        for attempt in (tx.services.connected, tx.services.disconnect):
            with pytest.raises(ServiceUnknown):
                attempt("orders")
        assert (tx.services.get("orders"), tx.services.all(), tx.services.leaf("orders")) == (None, [], None)
        assert (tx.services.key("orders"), tx.services.generation("orders")) == (None, 0)


def test_disconnect_revokes_every_certificate_and_keeps_the_key(connected: Field, worker: Database) -> None:
    with worker.tenant_tx("acme") as tx:
        tx.services.record_leaf(a_leaf("aa02", generation=2))
        assert tx.services.disconnect("orders")
        assert not tx.services.disconnect("orders")
        gone = tx.services.get("orders")
        assert tx.services.leaf("orders") is None
        assert tx.services.generation("orders") == 2
        assert tx.services.key("orders") == a_service_key("acme")
        callers = [tx.services.caller(serial) for serial in ("aa01", "aa02")]
    assert (gone.state, gone.certificate_not_after) == (ServiceState.DISCONNECTED, None)
    assert gone.disconnected_at is not None
    assert all(caller is not None and caller.revoked_at is not None for caller in callers)
    with connected.open("crypto").tenant_tx("beta") as tx:
        untouched = tx.services.caller("bb01")
        assert (untouched.service_state, untouched.revoked_at) == (ServiceState.CONNECTED, None)


@pytest.mark.usefixtures("connected")
def test_repeated_disconnect_revokes_a_late_certificate(worker: Database) -> None:
    with worker.tenant_tx("acme") as tx:
        tx.services.disconnect("orders")
        tx.services.record_leaf(a_leaf("aa02", generation=2))
        assert not tx.services.disconnect("orders")
        assert tx.services.leaf("orders") is None


@pytest.mark.usefixtures("connected")
def test_reconnected_service_needs_a_new_certificate(worker: Database) -> None:
    with worker.tenant_tx("acme") as tx:
        tx.services.disconnect("orders")
        back = tx.services.connect("orders", ServiceKind.MONGODB)
        assert (back.state, back.disconnected_at) == (ServiceState.CONNECTING, None)
        fresh = tx.services.record_leaf(a_leaf("aa02", generation=2))
        tx.services.connected("orders")
        assert tx.services.leaf("orders") == fresh
        old = tx.services.caller("aa01")
    assert old.revoked_at is not None


def test_first_certificate_of_a_generation_is_kept(worker: Database) -> None:
    a_provisioned_tenant(worker, "gamma")
    with worker.tenant_tx("gamma") as tx:
        tx.services.connect("orders", ServiceKind.MONGODB)
        first = tx.services.record_leaf(a_leaf("aa01", tenant_id="gamma"))
        assert tx.services.record_leaf(a_leaf("aa02", tenant_id="gamma")) == first == tx.services.leaf("orders")
        later = a_leaf("aa02", generation=2, tenant_id="gamma")._replace(not_after=NOW + timedelta(days=3))
        assert tx.services.record_leaf(later) == later == tx.services.leaf("orders")
        service = tx.services.get("orders")
    assert service.certificate_not_after == later.not_after


def test_first_key_of_a_version_is_kept_and_the_active_one_is_the_default(worker: Database) -> None:
    a_provisioned_tenant(worker, "gamma")
    with worker.tenant_tx("gamma") as tx:
        tx.services.connect("orders", ServiceKind.MONGODB)
        first = tx.services.record_key(a_service_key("gamma"))
        assert tx.services.record_key(first._replace(wrapped=b"another")) == first
        second = a_service_key("gamma", version=2)._replace(state=KeyState.DEACTIVATED, l2_version=3)
        assert tx.services.record_key(second) == second
        assert tx.services.key("orders") == first
        assert tx.services.key("orders", 2) == second
        assert tx.services.key("orders", 3) is None
        activated = [row.activated_at is not None for row in list(tx.services.keys())]
        assert activated == [True, True]


def test_second_active_key_is_rejected(connected: Field) -> None:
    with pytest.raises(DatabaseRefused), connected.open("worker").tenant_tx("acme") as tx:
        tx.services.record_key(a_service_key("acme", version=2))


@pytest.mark.parametrize("state", KeyState)
def test_key_state_determines_decryption_and_destroyed_version_raises_retired(
    connected: Field, state: KeyState
) -> None:
    with connected.open("worker").tenant_tx("acme") as tx:
        tx.services.record_key(a_service_key("acme", version=2)._replace(state=KeyState.PREPARED))
    with connected.open("worker").raw_tx("acme") as connection:
        if state is KeyState.ACTIVE:
            connection.execute("update okcm.service_key set state = 'deactivated' where version = 1")
        connection.execute(
            "update okcm.service_key set state = %s, wrapped = case when %s then null else wrapped end,"
            " activated_at = clock_timestamp() where version = 2",
            [state, state is KeyState.DESTROYED],
        )
    crypto = connected.open("crypto")
    with crypto.tenant_tx("acme") as tx:
        active = tx.services.key_and_root("orders")
        assert active is not None
        assert active[0].version == (2 if state is KeyState.ACTIVE else 1)
        assert (tx.services.key("orders", 2) is not None) is (state in OPENING)
        if state is not KeyState.DESTROYED:
            found = tx.services.key_and_root("orders", 2)
            assert (found and found[0].state) == (state if state in OPENING else None)
    if state is KeyState.DESTROYED:
        with pytest.raises(KeyVersionRetired), crypto.tenant_tx("acme") as tx:
            tx.services.key_and_root("orders", 2)


def test_use_of_a_key_version_is_recorded_once_per_minute(connected: Field) -> None:
    def note() -> datetime | None:
        with connected.open("crypto").tenant_tx("acme") as tx:
            tx.services.opened("orders", 1)
        with connected.open("dashboard").tenant_tx("acme") as tx:
            return next(iter(list(tx.services.keys()))).last_opened_at

    first = note()
    assert first is not None
    assert note() == first
    with connected.open("crypto").raw_tx("acme") as connection:
        connection.execute("update okcm.service_key set last_opened_at = last_opened_at - interval '61 seconds'")
    later = note()
    assert later is not None
    assert later > first


def test_dashboard_reads_key_versions_but_no_wraps(connected: Field) -> None:
    with connected.open("worker").tenant_tx("acme") as tx:
        tx.services.record_key(a_service_key("acme", version=2)._replace(state=KeyState.PREPARED))
    with connected.open("dashboard").tenant_tx("acme") as tx:
        first, second = tx.services.keys()
        assert (first.service, first.version, second.version) == ("orders", 1, 2)
        assert (first.state, second.state) == (KeyState.ACTIVE, KeyState.PREPARED)
        assert (second.l2_key, second.root_key_mode, second.root_key) == (
            l2_key("acme"),
            "platform",
            "root-eu-west-1",
        )
        assert second.created_at >= first.created_at
    with pytest.raises(DatabaseRefused, match="42501"), connected.open("dashboard").tenant_tx("acme") as tx:
        tx.services.key("orders")


@pytest.mark.parametrize("changed", [{"l2_key": l2_key("beta")}, {"service": "unknown"}])
def test_service_key_without_key_and_service_of_its_tenant_is_rejected(
    worker: Database, changed: dict[str, str]
) -> None:
    a_provisioned_tenant(worker, "gamma")
    with pytest.raises(DatabaseRefused, match="23503"), worker.tenant_tx("gamma") as tx:  # noqa: PT012 - the whole block raises
        tx.services.connect("orders", ServiceKind.MONGODB)
        tx.services.record_key(a_service_key("gamma")._replace(**changed))


def test_caller_returns_all_data_of_its_certificate(connected: Field, worker: Database) -> None:
    crypto = connected.open("crypto")
    with crypto.tenant_tx("acme") as tx:
        caller = tx.services.caller("aa01")
        assert tx.services.caller("bb01") is tx.services.caller("ffff") is None  # of another tenant, and unknown
    assert (caller.service, caller.service_state) == ("orders", ServiceState.CONNECTED)
    assert (caller.tenant_state, caller.region) == (State.PROVISIONING, "eu-west-1")
    assert (caller.l2_key, caller.issuer_fingerprint) == (l2_key("acme"), a_route("acme").issuer_fingerprint)
    assert (caller.authority_pem, caller.not_after, caller.revoked_at) == ("certificate", a_leaf().not_after, None)
    for move in (Transition.ACTIVATE, Transition.SUSPEND, Transition.LOCK):
        with worker.tenant_tx("acme") as tx:
            state = tx.tenants.move(move)
        with crypto.tenant_tx("acme") as tx:
            assert tx.services.caller("aa01").tenant_state is state
    with worker.tenant_tx("acme") as tx:
        tx.routes.withdraw()
    with crypto.tenant_tx("acme") as tx:
        assert tx.services.caller("aa01") is None


def test_last_seen_time_never_decreases(connected: Field) -> None:
    crypto = connected.open("crypto")
    for at in (NOW, NOW + timedelta(minutes=1), NOW - timedelta(minutes=1)):
        with crypto.tenant_tx("acme") as tx:
            tx.services.seen(["orders", "unknown"], at)
    with crypto.tenant_tx("acme") as tx:
        service = tx.services.get("orders")
    with crypto.tenant_tx("beta") as tx:
        other = tx.services.get("orders")
    assert (service.last_seen_at, other.last_seen_at) == (NOW + timedelta(minutes=1), None)


def test_held_certificate_is_the_oldest_that_the_service_can_still_use(connected: Field, worker: Database) -> None:
    dashboard, crypto = connected.open("dashboard", max_size=1), connected.open("crypto", max_size=1)

    def held() -> HeldCertificateRow | None:
        with dashboard.tenant_tx("acme") as tx:
            return tx.services.held().get("orders")

    first = held()
    assert first == HeldCertificateRow(NOW + timedelta(hours=72), by_hand=False)
    with worker.tenant_tx("acme") as tx:
        tx.services.record_leaf(a_leaf("aa02", generation=2)._replace(not_after=NOW + timedelta(hours=120)))
    assert held() == first  # the platform has renewed it, and nothing has fetched the renewal
    with crypto.tenant_tx("acme") as tx:
        tx.services.seen(["orders"], NOW + timedelta(hours=80))
    assert held() == HeldCertificateRow(NOW + timedelta(hours=120), by_hand=False)
    with connected.open("operator", max_size=1).tenant_tx("acme") as tx:
        tx.services.request(a_request()._replace(request_id="request-9", certificate_days=90))
    with worker.tenant_tx("acme") as tx:
        tx.services.record_leaf(
            a_leaf("aa03", generation=3)._replace(request_id="request-9", not_after=NOW + timedelta(days=90))
        )
    assert held() == HeldCertificateRow(NOW + timedelta(hours=120), by_hand=True)
    with worker.tenant_tx("acme") as tx:
        tx.services.disconnect("orders")
    assert held() is None


def test_database_rejects_service_names_invalid_in_certificates(field: Field) -> None:
    insert = "insert into okcm.service (tenant_id, service, kind) values ('acme', %s, 'mongodb')"
    with field.administrator() as administrator:
        for service in ("", "Orders", "-orders", "a" * 41, "orders\n", "or ders"):
            with pytest.raises(psycopg.errors.CheckViolation):
                administrator.execute(insert, [service])
