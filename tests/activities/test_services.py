"""The steps of ConnectService over real servers: a key wrapped twice, one certificate each, and what a crash leaves."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from keystores.platform import PlatformRootKey
from tenancy import ids
from tenancy.binding import Context, Purpose
from tenancy.errors import CallerError, ServiceConflict, ServiceUnknown, TenantClosed, TenantUnknown, WrongContext
from tenancy.lifecycle import Move
from tenancy.messages import CertificatePlan, ConnectFailureInput
from tenancy.services import ServiceKind, ServiceState
from tests.activities.conftest import REGION, Provisioning
from tests.activities.connecting import KEY, SERVICE, Connection, after_effect, connection, csr_of, operator
from vault.root_keys import TransitRootKeys
from vault.tokens import TenantTokens
from vault.transit import TransitTenantKeys

__all__ = ["connection", "operator"]  # fixtures that pytest finds here by their names


def test_a_connected_service_has_a_key_a_certificate_and_four_records(connection) -> None:
    plan = connection.connect()
    row, leaf = connection.row, connection.leaf
    assert plan.generation == 1
    assert (row.kind, row.state, row.certificate_not_after) == (
        ServiceKind.MONGODB,
        ServiceState.CONNECTED,
        leaf.not_after,
    )
    [intent] = connection.audited("service.connect_intended", "intended")
    assert intent["subject"] == SERVICE
    assert connection.audited("key.service_key_created")
    [issued] = connection.audited("certificate.service_certificate_issued")
    assert issued["details"]["serial"] == leaf.serial
    assert connection.audited("service.connected")
    connection.tenant.assert_audited_once()


def test_the_certificate_is_for_the_asked_key_and_signed_by_the_tenants_authority_for_72_hours(connection) -> None:
    connection.connect()
    leaf = x509.load_pem_x509_certificate(connection.leaf.certificate_pem.encode())
    with connection.tenant.database.tenant_tx(connection.tenant.tenant_id) as tx:
        authority = x509.load_pem_x509_certificate(tx.certificates.authority().certificate_pem.encode())
    leaf.verify_directly_issued_by(authority)
    assert leaf.public_key() == KEY.public_key()
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        ids.service_spiffe(connection.tenant.tenant_id, SERVICE)
    ]
    left = leaf.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(hours=71, minutes=58) < left <= timedelta(hours=72)
    assert leaf.not_valid_before_utc == connection.leaf.not_before


def test_a_certificate_is_renewed_after_two_thirds_of_its_life(connection) -> None:
    plan = connection.record()
    connection.tenant.run_with("create-service-key", connection.step(plan))
    result = connection.tenant.run_with("issue-certificate", connection.step(plan))
    left = result.renew_at - datetime.now(UTC)
    assert timedelta(hours=47, minutes=58) < left <= timedelta(hours=48)


def test_the_service_key_opens_with_both_root_and_tenant_key_and_with_neither_alone(connection, key_server) -> None:
    connection.connect()
    tenant_id, key = connection.tenant.tenant_id, connection.key
    context = Context(tenant_id, ids.l2_key(tenant_id), SERVICE, Purpose.SERVICE_KEY, "1")
    assert (key.version, key.l2_key, key.root_key_mode, key.root_key) == (
        1,
        ids.l2_key(tenant_id),
        "platform",
        ids.root_key(REGION),
    )
    crypto = TransitRootKeys(key_server.session("crypto"))
    inner = PlatformRootKey(crypto, REGION).unwrap(context, key.wrapped).decode()
    vault = connection.tenant.parts.vault
    tenant_keys = TransitTenantKeys(vault, TenantTokens(vault, key_server.identity_pem))
    assert len(tenant_keys.decrypt(context, inner)) == 32
    with pytest.raises(WrongContext):
        tenant_keys.decrypt(context, key.wrapped.decode())


def test_every_step_run_twice_makes_nothing_twice(connection) -> None:
    for _ in range(2):
        plan = connection.record()
        for _ in range(2):
            connection.certify(plan)
    first = (connection.key.wrapped, connection.leaf.serial)
    connection.certify(connection.record())
    assert (connection.key.wrapped, connection.leaf.serial, connection.generation) == (*first, 1)
    connection.tenant.assert_audited_once()


def test_a_further_request_gets_a_further_certificate_and_the_first_stays(connection) -> None:
    connection.connect()
    first = connection.leaf
    other = ec.generate_private_key(ec.SECP256R1())
    connection.ask("request-2", csr_pem=csr_of(other))
    assert connection.connect("request-2").generation == 2
    newest = x509.load_pem_x509_certificate(connection.leaf.certificate_pem.encode())
    assert newest.public_key() == other.public_key()
    with connection.tenant.database.tenant_tx(connection.tenant.tenant_id) as tx:
        assert tx.services.caller(first.serial).revoked_at is None
    assert connection.key.version == 1


def test_a_renewal_certifies_the_key_of_the_newest_certificate(connection) -> None:
    connection.connect()
    plan = connection.plan_renewal()
    assert plan == CertificatePlan(request_id="request-1", generation=2)
    for _ in range(2):
        connection.tenant.run_with("issue-certificate", connection.step(plan))
    assert (connection.leaf.generation, connection.generation) == (2, 2)
    [_, renewal] = [
        r["outcome"] for r in connection.tenant.audited() if r["event_id"].startswith(f"service-{SERVICE}-2/")
    ]
    assert renewal == "success"


def test_disconnecting_revokes_every_certificate_and_keeps_the_key(connection) -> None:
    connection.connect()
    connection.tenant.run_with("issue-certificate", connection.step(connection.plan_renewal()))
    key = connection.key
    for _ in range(2):
        connection.disconnect()
    assert (connection.row.state, connection.leaf, connection.key) == (ServiceState.DISCONNECTED, None, key)
    assert len(connection.audited("service.disconnected")) == 1


def test_a_service_connected_again_has_its_key_and_a_new_certificate(connection) -> None:
    connection.connect()
    key = connection.key
    connection.disconnect()
    connection.ask("request-2")
    assert connection.connect("request-2").generation == 2
    assert connection.row.state is ServiceState.CONNECTED
    assert connection.key == key
    connection.disconnect("run-2")
    assert len(connection.audited("service.disconnected")) == 2


def test_what_a_disconnection_overtakes_is_not_recorded(connection) -> None:
    connection.connect()
    plan = connection.plan_renewal()
    connection.disconnect()
    for name in ("create-service-key", "issue-certificate", "mark-connected"):
        with pytest.raises(ServiceUnknown):
            connection.tenant.run_with(name, connection.step(plan))
    with pytest.raises(ServiceUnknown):
        connection.plan_renewal()
    assert (connection.generation, connection.leaf) == (1, None)


def test_a_certificate_signed_while_the_service_is_disconnected_is_not_recorded(connection) -> None:
    connection.connect()
    step = connection.step(connection.plan_renewal())
    with after_effect(connection.tenant, 2, connection.disconnect), pytest.raises(ServiceUnknown):
        connection.tenant.run_with("issue-certificate", step)
    assert (connection.generation, connection.leaf) == (1, None)


@pytest.mark.parametrize("move", [Move.SUSPEND, Move.LOCK])
def test_a_tenant_that_is_not_active_connects_nothing(connection, move) -> None:
    connection.move(move)
    before = connection.tenant.audited()
    with pytest.raises(TenantClosed):
        connection.record()
    assert connection.tenant.audited() == before
    with connection.tenant.database.tenant_tx(connection.tenant.tenant_id) as tx:
        assert tx.services.all() == []


def test_a_suspended_tenants_certificates_are_renewed_and_a_locked_ones_but_not_of_one_that_leaves(connection) -> None:
    connection.connect()
    for generation, move in ((2, Move.SUSPEND), (3, Move.LOCK)):
        connection.move(move)
        plan = connection.plan_renewal()
        assert plan.generation == generation
        connection.certify(plan)
        assert connection.leaf.generation == generation
    connection.move(Move.LEAVE)
    with pytest.raises(TenantClosed):
        connection.plan_renewal()
    connection.disconnect()
    assert connection.row.state is ServiceState.DISCONNECTED


def test_a_tenant_that_does_not_exist_connects_nothing(connection, parts) -> None:
    nobody = Connection(Provisioning(parts, "nobody-here"), connection.operator)
    with pytest.raises(TenantUnknown):
        nobody.record()


def test_another_kind_under_the_same_name_is_a_conflict(connection) -> None:
    connection.connect()
    connection.ask("request-2", kind=ServiceKind.POSTGRESQL)
    with pytest.raises(ServiceConflict):
        connection.record("request-2")
    assert connection.row.kind is ServiceKind.MONGODB


def test_a_request_for_another_service_or_none_at_all_is_refused(connection) -> None:
    connection.ask("request-2", service="billing-db")
    for request_id in ("request-2", "request-9"):
        with pytest.raises(ServiceUnknown):
            connection.record(request_id)


def test_a_request_whose_key_is_not_taken_opens_nothing_and_its_end_is_on_record(connection) -> None:
    weak = ec.generate_private_key(ec.SECP192R1())
    connection.ask("request-2", csr_pem=csr_of(weak))
    plan = connection.record("request-2")
    connection.tenant.run_with("create-service-key", connection.step(plan))
    with pytest.raises(CallerError) as refused:
        connection.tenant.run_with("issue-certificate", connection.step(plan))
    step = connection.step(plan)
    failure = ConnectFailureInput(
        tenant_id=step.tenant_id,
        operation_id=step.operation_id,
        service=SERVICE,
        code=refused.value.code,
        reason="issue-certificate",
    )
    for _ in range(2):
        connection.tenant.run_with("record-connect-failure", failure)
    [record] = connection.audited("service.connected", "failure")
    assert record["details"] == {"code": "csr_refused", "at": "issue-certificate"}
    assert (connection.row.state, connection.leaf) == (ServiceState.CONNECTING, None)
