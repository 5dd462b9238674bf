"""The steps of ConnectService on real servers: a key wrapped twice and one certificate for each request."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from core import names as ids
from core.errors.keys import WrongContext
from core.errors.services import ServiceAlreadyConnected, ServiceConflict, ServiceUnknown
from core.errors.tenants import OperationRepeated, TenantNotOperational, TenantUnknown
from core.keys.encryption_context import EncryptionContext, Purpose
from core.messages.services import CertificatePlan, ConnectFailureInput
from core.services import ServiceState
from core.tenants.lifecycle import Transition
from kms.platform import PlatformRootKey
from openkcm.contract.names import service_spiffe
from openkcm.contract.services import ServiceKind
from openkcm.errors import CallerError
from tests.activities.dying import after_effect
from tests.activities.provisioning import REGION, Provisioning
from tests.activities.services.connecting import CERTIFYING, KEY, SERVICE, Connection, csr_of
from tests.database.fixtures import Field
from vault.transit.root_keys import TransitRootKeys


def test_connect_creates_a_key_a_certificate_and_four_audit_records(connection) -> None:
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


def test_certificate_is_for_the_requested_key_and_valid_for_72_hours_and_renewed_after_48(connection) -> None:
    plan, began = connection.record(), datetime.now(UTC)
    connection.run("create-service-key", plan)
    renew_at = connection.run("issue-certificate", plan).renew_at
    leaf = x509.load_pem_x509_certificate(connection.leaf.certificate_pem.encode())
    authority = x509.load_pem_x509_certificate(
        connection.get(lambda tx: tx.certificates.authority()).certificate_pem.encode()
    )
    leaf.verify_directly_issued_by(authority)
    assert leaf.public_key() == KEY.public_key()
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [service_spiffe(connection.tenant_id, SERVICE)]
    # From the start of the test until now, because a loaded machine may be slow.
    now, life, renewal = datetime.now(UTC), timedelta(hours=72), timedelta(hours=48)
    second = timedelta(seconds=1)
    assert began + life - second <= leaf.not_valid_after_utc <= now + life
    assert began + renewal - second <= renew_at <= now + renewal
    assert leaf.not_valid_before_utc == connection.leaf.not_before


def test_certificate_of_an_appliance_has_the_chosen_lifetime_and_is_renewed_only_on_request(
    connection, field: Field
) -> None:
    connection.ask("request-2", certificate_days=300)
    plan, began = connection.record("request-2"), datetime.now(UTC)
    connection.run("create-service-key", plan)
    issued = connection.run("issue-certificate", plan)
    connection.run("mark-connected", plan)
    leaf, life = connection.leaf, timedelta(days=300)
    assert began + life - timedelta(seconds=1) <= leaf.not_after <= datetime.now(UTC) + life
    assert (issued.renew_at, issued.by_hand) == (leaf.not_after, True)
    waiting = connection.plan_renewal()
    assert waiting == CertificatePlan(request_id="request-2", generation=1, by_hand_until=leaf.not_after)
    plan = connection.plan_renewal(requested=True)
    assert plan == CertificatePlan(request_id="request-2", generation=2)
    connection.run("issue-certificate", plan)
    assert connection.leaf.generation == 2
    [intent] = connection.audited("service.connect_intended", "intended")
    assert intent["details"]["certificate_days"] == "300"
    with field.administrator() as administrator:  # kept while the certificate can be renewed
        query = "select used_at from okcm.service_request where tenant_id = %s and request_id = 'request-2'"
        ((used_at,),) = administrator.execute(query, [connection.tenant_id]).fetchall()
    assert used_at == connection.leaf.not_after


def test_service_key_needs_both_root_and_tenant_key_to_be_unwrapped(connection, key_server) -> None:
    connection.connect()
    tenant_id, key = connection.tenant_id, connection.key
    context = EncryptionContext(tenant_id, ids.l2_key(tenant_id), SERVICE, Purpose.SERVICE_KEY, "1")
    assert (key.version, key.l2_key, key.root_key_mode, key.root_key) == (
        1,
        ids.l2_key(tenant_id),
        "platform",
        ids.root_key(REGION),
    )
    crypto = TransitRootKeys(key_server.session("crypto"))
    inner = PlatformRootKey(crypto, REGION).unwrap(context, key.wrapped).decode()
    tenant_keys = connection.tenant.tenant_keys
    assert len(tenant_keys.decrypt(context, inner)) == 32
    with pytest.raises(WrongContext):
        tenant_keys.decrypt(context, key.wrapped.decode())


def test_steps_are_idempotent_and_another_request_gets_another_certificate(connection) -> None:
    for _ in range(2):
        plan = connection.record()
        for _ in range(2):
            connection.certify(plan)
    first, wrapped = connection.leaf, connection.key.wrapped
    connection.certify(connection.record())
    assert (connection.key.wrapped, connection.leaf.serial, connection.generation) == (wrapped, first.serial, 1)
    connection.tenant.assert_audited_once()
    other = ec.generate_private_key(ec.SECP256R1())
    connection.ask("request-2", csr_pem=csr_of(other))
    assert connection.connect("request-2").generation == 2
    newest = x509.load_pem_x509_certificate(connection.leaf.certificate_pem.encode())
    assert newest.public_key() == other.public_key()
    assert connection.read(lambda tx: tx.services.caller(first.serial)).revoked_at is None
    assert connection.key.version == 1


def test_connected_service_gets_a_certificate_for_another_key_only_if_the_request_says_so(connection) -> None:
    connection.connect()
    connection.ask("request-2", csr_pem=csr_of(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(ServiceAlreadyConnected):
        connection.record("request-2", another_key=False)
    assert connection.generation == 1
    connection.ask("request-3")
    assert connection.record("request-3", another_key=False).generation == 2
    assert connection.record(another_key=False).generation == 1
    connection.disconnect()
    connection.ask("request-4", csr_pem=csr_of(ec.generate_private_key(ec.SECP256R1())))
    assert connection.record("request-4", another_key=False).generation == 2


def test_renewal_certifies_the_key_of_the_newest_certificate(connection) -> None:
    connection.connect()
    plan = connection.plan_renewal()
    assert plan == CertificatePlan(request_id="request-1", generation=2)
    for _ in range(2):
        connection.run("issue-certificate", plan)
    assert (connection.leaf.generation, connection.generation) == (2, 2)
    [_, renewal] = [
        r["outcome"] for r in connection.tenant.records() if r["event_id"].startswith(f"service-{SERVICE}-2-")
    ]
    assert renewal == "success"


def test_renewal_for_an_offboarding_tenant_is_repeated_later_but_not_for_a_disconnected_service(connection) -> None:
    connection.connect()
    connection.read(lambda tx: tx.leaving.begin(timedelta(days=30)))
    with pytest.raises(TenantNotOperational):
        connection.plan_renewal()
    connection.disconnect()
    with pytest.raises(ServiceUnknown):  # ends the workflow of the service
        connection.plan_renewal()


def test_disconnect_revokes_every_certificate_and_a_reconnect_keeps_the_key(connection) -> None:
    connection.connect()
    connection.run("issue-certificate", connection.plan_renewal())
    key = connection.key
    for _ in range(2):
        connection.disconnect()
    assert (connection.row.state, connection.leaf, connection.key) == (ServiceState.DISCONNECTED, None, key)
    assert len(connection.audited("service.disconnected")) == 1
    connection.ask("request-2")
    assert connection.connect("request-2").generation == 3
    assert connection.row.state is ServiceState.CONNECTED
    assert connection.key == key
    connection.disconnect("run-2")
    assert len(connection.audited("service.disconnected")) == 2


def test_late_attempt_to_disconnect_does_not_revoke_the_certificates_of_a_reconnected_service(connection) -> None:
    connection.connect()
    connection.disconnect()
    connection.ask("request-2")
    connection.connect("request-2")
    with pytest.raises(OperationRepeated):
        connection.disconnect()
    assert connection.row.state is ServiceState.CONNECTED
    assert connection.leaf is not None


def test_step_overtaken_by_a_disconnect_records_nothing(connection) -> None:
    connection.connect()
    plan = connection.plan_renewal()
    with after_effect(connection.tenant, 2, connection.disconnect), pytest.raises(ServiceUnknown):
        connection.run("issue-certificate", plan)  # signed during the disconnection
    for name in CERTIFYING:
        with pytest.raises(ServiceUnknown):
            connection.run(name, plan)
    with pytest.raises(ServiceUnknown):
        connection.plan_renewal()
    assert (connection.generation, connection.leaf) == (1, None)


@pytest.mark.parametrize("move", [Transition.SUSPEND, Transition.LOCK])
def test_inactive_tenant_connects_no_service(connection, move) -> None:
    connection.move(move)
    before = connection.tenant.records()
    with pytest.raises(TenantNotOperational):
        connection.record()
    assert connection.tenant.records() == before
    assert connection.read(lambda tx: tx.services.all()) == []


def test_certificates_of_suspended_and_locked_tenants_are_renewed_and_not_of_offboarding_ones(connection) -> None:
    connection.connect()
    for generation, move in ((2, Transition.SUSPEND), (3, Transition.LOCK)):
        connection.move(move)
        plan = connection.plan_renewal()
        assert plan.generation == generation
        connection.certify(plan)
        assert connection.leaf.generation == generation
    connection.read(lambda tx: tx.leaving.begin(timedelta(days=30)))
    with pytest.raises(TenantNotOperational):
        connection.plan_renewal()
    connection.disconnect()
    assert connection.row.state is ServiceState.DISCONNECTED


def test_request_is_rejected_for_an_unknown_tenant_another_kind_or_another_service(connection, parts) -> None:
    with pytest.raises(TenantUnknown):
        Connection(Provisioning(parts, "missing-corp"), connection.operator).record()
    connection.connect()
    connection.ask("request-2", kind=ServiceKind.POSTGRESQL)
    with pytest.raises(ServiceConflict):
        connection.record("request-2")
    assert connection.row.kind is ServiceKind.MONGODB
    connection.ask("request-3", service="billing-db")
    for request_id in ("request-3", "request-9"):
        with pytest.raises(ServiceUnknown):
            connection.record(request_id)


def test_each_failed_request_has_its_records_although_it_used_no_generation(connection) -> None:
    connection.ask("request-2")
    requests = ("request-1", "request-2")
    for plan in [connection.record(request_id) for request_id in requests for _ in range(2)]:
        assert plan.generation == 1
        step = connection.step(plan).model_dump(include={"tenant_id", "operation_id", "service"})
        failure = ConnectFailureInput(**step, code="root_key_unreachable", reason="create-service-key")
        connection.tenant.run_with("record-connect-failure", failure)
    intended = connection.audited("service.connect_intended", "intended")
    assert tuple(record["details"]["request"] for record in intended) == requests
    assert len(connection.audited("service.connected", "failure")) == len(requests)


def test_request_with_a_weak_key_is_rejected_and_its_failure_is_recorded(connection) -> None:
    weak = ec.generate_private_key(ec.SECP192R1())
    connection.ask("request-2", csr_pem=csr_of(weak))
    plan = connection.record("request-2")
    connection.run("create-service-key", plan)
    with pytest.raises(CallerError) as refused:
        connection.run("issue-certificate", plan)
    step = connection.step(plan).model_dump(include={"tenant_id", "operation_id", "service"})
    failure = ConnectFailureInput(**step, code=refused.value.code, reason="issue-certificate")
    for _ in range(2):
        connection.tenant.run_with("record-connect-failure", failure)
    [record] = connection.audited("service.connected", "failure")
    assert record["details"] == {"code": "csr_refused", "at": "issue-certificate"}
    assert (connection.row.state, connection.leaf) == (ServiceState.CONNECTING, None)
