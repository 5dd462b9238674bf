"""A tenant, the single steps of its CA rotation, and its records."""

from collections.abc import Sequence
from datetime import timedelta

from cryptography import x509

from core.messages.base import StepInput
from core.messages.services import AuthorityFailureInput, AuthorityPlan, AuthorityStep, RollAuthorityResult
from database.certificates import AuthorityRow, RevocationListRow
from database.provisioning import RouteRow
from tests.activities.recorded import Recorded
from tests.activities.services.connecting import Connection
from tests.database.fixtures import Field

STEPS = ("prepare-ca", "verify-ca", "activate-ca")


class Roll(Recorded):
    """The single steps of RotateCertificateAuthority."""

    def __init__(self, connection: Connection, field: Field) -> None:
        super().__init__(connection.database, connection.tenant_id)
        self.connection, self.tenant = connection, connection.tenant
        self._field = field

    def step(self, number: int = 1) -> StepInput:
        return StepInput(tenant_id=self.tenant_id, operation_id=f"authority-roll-{number}")

    def plan(self, number: int = 1) -> AuthorityPlan:
        return self.tenant.run_with("plan-ca", self.step(number))

    def run(self, name: str, plan: AuthorityPlan, number: int = 1) -> None:
        self.tenant.run_with(name, AuthorityStep(**self.step(number).model_dump(), **plan.model_dump()))

    def roll(self, number: int = 1) -> None:
        plan = self.plan(number)
        for name in STEPS:
            self.run(name, plan, number)

    def abandon(self, plan: AuthorityPlan, number: int = 1) -> RollAuthorityResult:
        failure = AuthorityFailureInput(
            **self.step(number).model_dump(), **plan.model_dump(), code="vault_refused", reason="verify-ca"
        )
        return self.tenant.run_with("abandon-ca", failure)

    def publish(self) -> None:
        self.tenant.run_with("publish-revocation-list", self.step())

    def unrenewed(self) -> tuple[str, ...]:
        return self.tenant.run_with("find-unrenewed-services", self.step()).services

    @property
    def authorities(self) -> Sequence[AuthorityRow]:
        return self.read(lambda tx: tx.certificates.authorities())

    @property
    def states(self) -> dict[int, str]:
        return {row.key_version: row.state.value for row in self.authorities}

    @property
    def route(self) -> RouteRow:
        return self.get(lambda tx: tx.routes.get())

    @property
    def lists(self) -> Sequence[RevocationListRow]:
        return self.read(lambda tx: tx.certificates.revocation_lists())

    def listed(self, authority: str) -> set[str]:
        """Verify the signature of a CA's CRL and return its serials."""
        row = next(row for row in self.lists if row.authority == authority)
        found = x509.load_der_x509_crl(row.der)
        issuer = next(one for one in self.authorities if one.serial == authority)
        key = x509.load_pem_x509_certificate(issuer.certificate_pem.encode()).public_key()
        assert found.is_signature_valid(key)  # type: ignore[arg-type] # P-256, as for every CA
        assert found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == row.number
        return {format(entry.serial_number, "x") for entry in found}

    def age(self, by: timedelta) -> None:
        """Shift every recorded time of the tenant into the past."""
        columns = {
            "service_certificate": ("not_before", "not_after", "revoked_at"),
            "certificate_authority": ("recorded_at", "not_after"),
            "certificate_revocation_list": ("this_update", "next_update"),
        }
        with self._field.administrator() as administrator:
            for table, dates in columns.items():
                earlier = ", ".join(f"{date} = {date} - %(by)s" for date in dates)
                administrator.execute(
                    f"update okcm.{table} set {earlier} where tenant_id = %(tenant)s",
                    {"by": by, "tenant": self.tenant_id},
                )
