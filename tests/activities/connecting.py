"""One service of an active tenant: asked for, made step by step, and looked at; and a process that dies half way."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from config.secrets import Role
from database.connection import Database
from database.interfaces import LeafRow, ServiceKeyRow, ServiceRequestRow, ServiceRow
from keystores.transport import Transport
from tenancy.lifecycle import Move
from tenancy.messages import CertificatePlan, CertificateStep, EnrolStep, ServiceStep
from tenancy.provisioning import Step
from tenancy.services import ServiceKind
from tests.activities.conftest import Provisioning, run_steps
from vault.session import VaultSession
from worker import wiring

SERVICE = "orders-db"
KEY = ec.generate_private_key(ec.SECP256R1())


def csr_of(key: ec.EllipticCurvePrivateKey) -> str:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


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


@contextmanager
def after_effect(tenant: Provisioning, number: int, then: Callable[[], object]) -> Iterator[list[int]]:
    """Do something right after the nth effect of a step; yields the number of those seen.

    An effect is an answer from Vault or from a customer's key server, or a commit.
    """
    tenant_tx, seen = tenant.database.tenant_tx, [0]
    customers_send, counting = Transport.send, threading.Lock()

    def effect() -> None:
        with counting:
            seen[0] += 1
            now = seen[0]
        if now == number:
            then()

    def send(*args: Any, **kwargs: Any) -> Any:
        answer = customers_send(*args, **kwargs)
        effect()
        return answer

    def counted(session: VaultSession) -> Callable[..., Any]:
        vault_request = session.request

        def request(*args: Any, **kwargs: Any) -> Any:
            answer = vault_request(*args, **kwargs)
            effect()
            return answer

        return request

    @contextmanager
    def transaction(tenant_id: str) -> Iterator[Any]:
        with tenant_tx(tenant_id) as tx:
            yield tx
        effect()

    with pytest.MonkeyPatch.context() as patch:
        for session in (tenant.parts.vault, tenant.parts.offboarding):
            patch.setattr(session, "request", counted(session))
        patch.setattr(tenant.database, "tenant_tx", transaction)
        patch.setattr(Transport, "send", send)
        yield seen
