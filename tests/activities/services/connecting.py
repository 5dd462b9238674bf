"""One service of an active tenant: its request, its single steps, and its records."""

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from activities.services import service_operation
from core.messages.services import CertificatePlan, CertificateStep, EnrolStep, RenewalStep, ServiceStep
from core.tenants.lifecycle import Transition
from database.connection.database import Database
from database.keys import ServiceKeyRow
from database.services.repository import ServiceCertificateRow, ServiceRequestRow, ServiceRow
from openkcm.contract.services import ServiceKind
from tests.activities.provisioning import Provisioning
from tests.activities.recorded import Recorded

SERVICE = "orders-db"
CERTIFYING = ("create-service-key", "issue-certificate", "mark-connected")
KEY = ec.generate_private_key(ec.SECP256R1())


def csr_of(key: ec.EllipticCurvePrivateKey) -> str:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


class Connection(Recorded):
    """One service of an active tenant."""

    def __init__(self, tenant: Provisioning, operator: Database) -> None:
        super().__init__(tenant.database, tenant.tenant_id)
        self.tenant, self.operator = tenant, operator

    def ask(
        self,
        request_id: str = "request-1",
        kind: ServiceKind = ServiceKind.MONGODB,
        csr_pem: str | None = None,
        service: str = SERVICE,
        certificate_days: int | None = None,
    ) -> None:
        row = ServiceRequestRow(request_id, service, kind, csr_pem or csr_of(KEY), certificate_days)
        with self.operator.tenant_tx(self.tenant_id) as tx:
            tx.services.request(row)

    def record(
        self, request_id: str = "request-1", service: str = SERVICE, *, another_key: bool = True
    ) -> CertificatePlan:
        step = EnrolStep(
            tenant_id=self.tenant_id,
            operation_id="service",
            service=service,
            request_id=request_id,
            another_key=another_key,
        )
        return self.tenant.run_with("record-service", step)

    def step(self, plan: CertificatePlan) -> CertificateStep:
        operation = service_operation(SERVICE, plan)
        return CertificateStep(tenant_id=self.tenant_id, operation_id=operation, service=SERVICE, **plan.model_dump())

    def run(self, name: str, plan: CertificatePlan) -> Any:
        return self.tenant.run_with(name, self.step(plan))

    def certify(self, plan: CertificatePlan) -> None:
        for name in CERTIFYING:
            self.run(name, plan)

    def connect(self, request_id: str = "request-1") -> CertificatePlan:
        plan = self.record(request_id)
        self.certify(plan)
        return plan

    def plan_renewal(self, *, requested: bool = False) -> CertificatePlan:
        step = RenewalStep(tenant_id=self.tenant_id, operation_id="service", service=SERVICE, requested=requested)
        return self.tenant.run_with("plan-renewal", step)

    def disconnect(self, run: str = "run-1") -> None:
        operation = f"service-{SERVICE}-disconnect-{run}"
        step = ServiceStep(tenant_id=self.tenant_id, operation_id=operation, service=SERVICE)
        self.tenant.run_with("disconnect-service", step)

    @property
    def row(self) -> ServiceRow:
        return self.get(lambda tx: tx.services.get(SERVICE))

    @property
    def leaf(self) -> ServiceCertificateRow | None:
        return self.read(lambda tx: tx.services.leaf(SERVICE))

    @property
    def generation(self) -> int:
        return self.read(lambda tx: tx.services.generation(SERVICE))

    @property
    def key(self) -> ServiceKeyRow:
        return self.get(lambda tx: tx.services.key(SERVICE))

    def move(self, move: Transition) -> None:
        self.read(lambda tx: tx.tenants.move(move))

    def audited(self, name: str, outcome: str = "success") -> list[dict[str, Any]]:
        return self.records(name, outcome)
