"""The steps of ConnectService over real servers: a key wrapped twice, one certificate each, and what a crash leaves."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from config.secrets import Role
from database.connection import Database
from database.interfaces import LeafRow, ServiceKeyRow, ServiceRequestRow, ServiceRow
from keystores.platform import PlatformRootKey
from tenancy import ids
from tenancy.binding import Context, Purpose
from tenancy.errors import (
    CallerError,
    RootKeyDenied,
    ServiceConflict,
    ServiceUnknown,
    TenantClosed,
    TenantUnknown,
    WrongContext,
)
from tenancy.lifecycle import Move
from tenancy.messages import CertificatePlan, CertificateStep, ConnectFailureInput, EnrolStep, ServiceStep
from tenancy.provisioning import Step
from tenancy.services import ServiceKind, ServiceState
from tests.activities.conftest import REGION, Provisioning, run_steps
from vault.root_keys import TransitRootKeys
from vault.tokens import TenantTokens
from vault.transit import TransitTenantKeys
from worker import wiring

SERVICE = "orders-db"
KEY = ec.generate_private_key(ec.SECP256R1())


def csr_of(key: ec.EllipticCurvePrivateKey) -> str:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


class Died(BaseException):
    """The process is gone: no `except` of the product sees this."""


class Connection:
    """One service of an active tenant: its requests, its steps one by one, and what is on record of it."""

    def __init__(self, tenant: Provisioning, operator: Database) -> None:
        self.tenant, self.operator = tenant, operator

    def ask(
        self,
        request_id: str = "request-1",
        kind: ServiceKind = ServiceKind.MONGODB,
        csr_pem: str | None = None,
        service: str = SERVICE,
    ) -> str:
        with self.operator.tenant_tx(self.tenant.tenant_id) as tx:
            tx.services.request(ServiceRequestRow(request_id, service, kind, csr_pem or csr_of(KEY)))
        return request_id

    def record(self, request_id: str = "request-1", service: str = SERVICE) -> CertificatePlan:
        step = EnrolStep(
            tenant_id=self.tenant.tenant_id, operation_id="service", service=service, request_id=request_id
        )
        plan = self.tenant.run_with("record-service", step)
        assert isinstance(plan, CertificatePlan)
        return plan

    def step(self, plan: CertificatePlan) -> CertificateStep:
        operation = f"service-{SERVICE}-{plan.generation}"
        return CertificateStep(
            tenant_id=self.tenant.tenant_id, operation_id=operation, service=SERVICE, **plan.model_dump()
        )

    def certify(self, plan: CertificatePlan) -> None:
        for name in ("create-service-key", "issue-certificate", "mark-connected"):
            self.tenant.run_with(name, self.step(plan))

    def connect(self, request_id: str = "request-1") -> CertificatePlan:
        plan = self.record(request_id)
        self.certify(plan)
        return plan

    def plan_renewal(self) -> CertificatePlan:
        step = ServiceStep(tenant_id=self.tenant.tenant_id, operation_id="service", service=SERVICE)
        plan = self.tenant.run_with("plan-renewal", step)
        assert isinstance(plan, CertificatePlan)
        return plan

    def disconnect(self, run: str = "run-1") -> None:
        operation = f"service-{SERVICE}-disconnect-{run}"
        step = ServiceStep(tenant_id=self.tenant.tenant_id, operation_id=operation, service=SERVICE)
        self.tenant.run_with("disconnect-service", step)

    @property
    def row(self) -> ServiceRow:
        with self.tenant.database.tenant_tx(self.tenant.tenant_id) as tx:
            row = tx.services.get(SERVICE)
        assert row is not None
        return row

    @property
    def leaf(self) -> LeafRow | None:
        with self.tenant.database.tenant_tx(self.tenant.tenant_id) as tx:
            return tx.services.leaf(SERVICE)

    @property
    def generation(self) -> int:
        with self.tenant.database.tenant_tx(self.tenant.tenant_id) as tx:
            return tx.services.generation(SERVICE)

    @property
    def key(self) -> ServiceKeyRow:
        with self.tenant.database.tenant_tx(self.tenant.tenant_id) as tx:
            key = tx.services.key(SERVICE)
        assert key is not None
        return key

    def move(self, move: Move) -> None:
        with self.tenant.database.tenant_tx(self.tenant.tenant_id) as tx:
            tx.tenants.move(move)

    def audited(self, name: str, outcome: str = "success") -> list[dict[str, Any]]:
        return [r for r in self.tenant.audited() if (r["name"], r["outcome"]) == (name, outcome)]


@pytest.fixture
def operator(settings) -> Iterator[Database]:
    opened = wiring.open_database(settings, Role.OPERATOR)
    yield opened
    opened.close()


@pytest.fixture
def connection(tenant: Provisioning, operator: Database) -> Connection:
    """A service that was asked for; its tenant is active."""
    run_steps(tenant, [Step.OPEN_RECORDS, Step.CREATE_KEYS, Step.CREATE_AUTHORITY, Step.ACTIVATE])
    asked = Connection(tenant, operator)
    asked.ask()
    return asked


def test_a_connected_service_has_a_key_a_certificate_and_four_records(connection):
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


def test_the_certificate_is_for_the_asked_key_and_signed_by_the_tenants_authority_for_72_hours(connection):
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


def test_a_certificate_is_renewed_after_two_thirds_of_its_life(connection):
    plan = connection.record()
    connection.tenant.run_with("create-service-key", connection.step(plan))
    result = connection.tenant.run_with("issue-certificate", connection.step(plan))
    left = result.renew_at - datetime.now(UTC)
    assert timedelta(hours=47, minutes=58) < left <= timedelta(hours=48)


def test_the_service_key_opens_with_both_root_and_tenant_key_and_with_neither_alone(connection, key_server):
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
    # The worker made it and cannot open it.
    with pytest.raises(RootKeyDenied):
        PlatformRootKey(connection.tenant.parts.root_keys, REGION).unwrap(context, key.wrapped)


def test_every_step_run_twice_makes_nothing_twice(connection):
    for _ in range(2):
        plan = connection.record()
        for _ in range(2):
            connection.certify(plan)
    first = (connection.key.wrapped, connection.leaf.serial)
    connection.certify(connection.record())
    assert (connection.key.wrapped, connection.leaf.serial, connection.generation) == (*first, 1)
    connection.tenant.assert_audited_once()


def test_a_further_request_gets_a_further_certificate_and_the_first_stays(connection):
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


def test_a_renewal_certifies_the_key_of_the_newest_certificate(connection):
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


def test_disconnecting_revokes_every_certificate_and_keeps_the_key(connection):
    connection.connect()
    connection.tenant.run_with("issue-certificate", connection.step(connection.plan_renewal()))
    key = connection.key
    for _ in range(2):
        connection.disconnect()
    assert (connection.row.state, connection.leaf, connection.key) == (ServiceState.DISCONNECTED, None, key)
    assert len(connection.audited("service.disconnected")) == 1


def test_a_service_connected_again_has_its_key_and_a_new_certificate(connection):
    connection.connect()
    key = connection.key
    connection.disconnect()
    connection.ask("request-2")
    assert connection.connect("request-2").generation == 2
    assert connection.row.state is ServiceState.CONNECTED
    assert connection.key == key
    connection.disconnect("run-2")
    assert len(connection.audited("service.disconnected")) == 2


def test_what_a_disconnection_overtakes_is_not_recorded(connection):
    connection.connect()
    plan = connection.plan_renewal()
    connection.disconnect()
    for name in ("create-service-key", "issue-certificate", "mark-connected"):
        with pytest.raises(ServiceUnknown):
            connection.tenant.run_with(name, connection.step(plan))
    with pytest.raises(ServiceUnknown):
        connection.plan_renewal()
    assert (connection.generation, connection.leaf) == (1, None)


def test_a_certificate_signed_while_the_service_is_disconnected_is_not_recorded(connection):
    connection.connect()
    step = connection.step(connection.plan_renewal())
    with after_effect(connection.tenant, 2, connection.disconnect), pytest.raises(ServiceUnknown):
        connection.tenant.run_with("issue-certificate", step)
    assert (connection.generation, connection.leaf) == (1, None)


@pytest.mark.parametrize("move", [Move.SUSPEND, Move.LOCK])
def test_a_tenant_that_is_not_active_connects_nothing(connection, move):
    connection.move(move)
    before = connection.tenant.audited()
    with pytest.raises(TenantClosed):
        connection.record()
    assert connection.tenant.audited() == before
    with connection.tenant.database.tenant_tx(connection.tenant.tenant_id) as tx:
        assert tx.services.all() == []


def test_a_suspended_tenants_certificates_are_renewed_and_a_locked_ones_are_not(connection):
    connection.connect()
    connection.move(Move.SUSPEND)
    assert connection.plan_renewal().generation == 2
    connection.move(Move.LOCK)
    with pytest.raises(TenantClosed):
        connection.plan_renewal()
    connection.disconnect()
    assert connection.row.state is ServiceState.DISCONNECTED


def test_a_tenant_that_does_not_exist_connects_nothing(connection, parts):
    nobody = Connection(Provisioning(parts, "nobody-here"), connection.operator)
    with pytest.raises(TenantUnknown):
        nobody.record()


def test_another_kind_under_the_same_name_is_a_conflict(connection):
    connection.connect()
    connection.ask("request-2", kind=ServiceKind.POSTGRESQL)
    with pytest.raises(ServiceConflict):
        connection.record("request-2")
    assert connection.row.kind is ServiceKind.MONGODB


def test_a_request_for_another_service_or_none_at_all_is_refused(connection):
    connection.ask("request-2", service="billing-db")
    for request_id in ("request-2", "request-9"):
        with pytest.raises(ServiceUnknown):
            connection.record(request_id)


def test_a_request_whose_key_is_not_taken_opens_nothing_and_its_end_is_on_record(connection):
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


# How many effects (answers from Vault, commits) each step has at least, so that every death has its moment.
EFFECTS = {
    "record-service": 1,
    "create-service-key": 4,
    "issue-certificate": 3,
    "mark-connected": 1,
    "plan-renewal": 1,
    "disconnect-service": 1,
}


@contextmanager
def after_effect(tenant: Provisioning, number: int, then: Callable[[], object]) -> Iterator[list[int]]:
    """Do something right after the nth answer from Vault or commit of a step; yields the numbers seen."""
    vault_request, tenant_tx, seen = tenant.parts.vault.request, tenant.database.tenant_tx, [0]

    def effect() -> None:
        seen[0] += 1
        if seen[0] == number:
            then()

    def request(*args: Any, **kwargs: Any) -> Any:
        answer = vault_request(*args, **kwargs)
        effect()
        return answer

    @contextmanager
    def transaction(tenant_id: str) -> Iterator[Any]:
        with tenant_tx(tenant_id) as tx:
            yield tx
        effect()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tenant.parts.vault, "request", request)
        patch.setattr(tenant.database, "tenant_tx", transaction)
        yield seen


def die() -> None:
    raise Died


@pytest.mark.parametrize(("name", "effect"), [(name, n) for name, most in EFFECTS.items() for n in range(1, most + 1)])
def test_dying_after_any_effect_of_any_step_leaves_what_the_next_try_finishes(connection, name, effect):
    steps: dict[str, Callable[[], object]] = {
        "record-service": connection.record,
        "create-service-key": lambda: run("create-service-key", CertificatePlan(request_id="request-1", generation=1)),
        "issue-certificate": lambda: run("issue-certificate", CertificatePlan(request_id="request-1", generation=1)),
        "mark-connected": lambda: run("mark-connected", CertificatePlan(request_id="request-1", generation=1)),
        "plan-renewal": connection.plan_renewal,
        "disconnect-service": connection.disconnect,
    }

    def run(step: str, plan: CertificatePlan) -> None:
        connection.tenant.run_with(step, connection.step(plan))

    for step, perform in steps.items():
        if step == name:
            with after_effect(connection.tenant, effect, die), pytest.raises(Died):
                perform()
        perform()
    assert (connection.row.state, connection.leaf, connection.generation) == (ServiceState.DISCONNECTED, None, 1)
    assert connection.key.version == 1
    connection.tenant.assert_audited_once()
