"""A tenant whose authority is rolled step by step, and what is on record of it."""

from collections.abc import Sequence
from datetime import timedelta

from cryptography import x509

from database.interfaces import AuthorityRow, RevocationListRow, RouteRow
from tenancy.messages import AuthorityFailureInput, AuthorityPlan, AuthorityStep, RollAuthorityResult, StepInput
from tests.activities.conftest import Provisioning
from tests.activities.connecting import Connection
from tests.database.fixtures import Field

STEPS = ("prepare-authority", "verify-authority", "activate-authority")


class Roll:
    """The steps of RollAuthority, one by one."""

    def __init__(self, connection: Connection, field: Field) -> None:
        self.connection = connection
        self._field = field
        self.tenant: Provisioning = connection.tenant

    def step(self, number: int = 1) -> StepInput:
        return StepInput(tenant_id=self.tenant.tenant_id, operation_id=f"authority-roll-{number}")

    def plan(self, number: int = 1) -> AuthorityPlan:
        plan = self.tenant.run_with("plan-authority", self.step(number))
        assert isinstance(plan, AuthorityPlan)
        return plan

    def run(self, name: str, plan: AuthorityPlan, number: int = 1) -> None:
        self.tenant.run_with(name, AuthorityStep(**self.step(number).model_dump(), **plan.model_dump()))

    def roll(self, number: int = 1) -> None:
        plan = self.plan(number)
        for name in STEPS:
            self.run(name, plan, number)

    def abandon(self, plan: AuthorityPlan, number: int = 1) -> RollAuthorityResult:
        failure = AuthorityFailureInput(
            **self.step(number).model_dump(), **plan.model_dump(), code="vault_refused", reason="verify-authority"
        )
        result = self.tenant.run_with("abandon-authority", failure)
        assert isinstance(result, RollAuthorityResult)
        return result

    def publish(self) -> None:
        self.tenant.run_with("publish-revocation-list", self.step())

    def unrenewed(self) -> tuple[str, ...]:
        services: tuple[str, ...] = self.tenant.run_with("unrenewed-services", self.step()).services
        return services

    @property
    def authorities(self) -> Sequence[AuthorityRow]:
        with self.tenant.database.tenant_tx(self.tenant.tenant_id) as tx:
            return tx.certificates.authorities()

    @property
    def states(self) -> dict[int, str]:
        return {row.key_version: row.state.value for row in self.authorities}

    @property
    def route(self) -> RouteRow:
        with self.tenant.database.tenant_tx(self.tenant.tenant_id) as tx:
            route = tx.routes.get()
        assert route is not None
        return route

    @property
    def lists(self) -> Sequence[RevocationListRow]:
        with self.tenant.database.tenant_tx(self.tenant.tenant_id) as tx:
            return tx.certificates.revocation_lists()

    def listed(self, authority: str) -> set[str]:
        """Return the serials on an authority's list, whose signature is checked."""
        row = next(row for row in self.lists if row.authority == authority)
        found = x509.load_der_x509_crl(row.der)
        issuer = next(one for one in self.authorities if one.serial == authority)
        key = x509.load_pem_x509_certificate(issuer.certificate_pem.encode()).public_key()
        assert found.is_signature_valid(key)  # type: ignore[arg-type] # P-256, as every authority's
        assert found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == row.number
        return {format(entry.serial_number, "x") for entry in found}

    def age(self, by: timedelta) -> None:
        """Have everything of the tenant happened earlier, as far as the database says when."""
        changes = (
            (
                "update okcm.service_certificate set not_before = not_before - %(by)s,"
                " not_after = not_after - %(by)s, revoked_at = revoked_at - %(by)s"
            ),
            "update okcm.certificate_authority set recorded_at = recorded_at - %(by)s, not_after = not_after - %(by)s",
            (
                "update okcm.certificate_revocation_list"
                " set this_update = this_update - %(by)s, next_update = next_update - %(by)s"
            ),
        )
        with self._field.administrator() as administrator:
            for change in changes:
                administrator.execute(
                    f"{change} where tenant_id = %(tenant)s", {"by": by, "tenant": self.tenant.tenant_id}
                )
