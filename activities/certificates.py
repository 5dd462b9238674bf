"""Step 3: the tenant's certificate authority, which decides for whom a certificate speaks (MTCI A1)."""

from collections.abc import Callable, Sequence

from temporalio import activity

from activities.journal import Clock, finish, is_recorded, record
from database.interfaces import AuthorityRow, PlatformDatabase, TenantDatabase
from tenancy import ids
from tenancy.audit import AuditName
from tenancy.errors import Overtaken
from tenancy.messages import StepInput
from tenancy.provisioning import Step
from vault.interfaces import CertificateAuthorities


class CertificateActivities:
    def __init__(
        self, database: TenantDatabase, platform: PlatformDatabase, authorities: CertificateAuthorities, clock: Clock
    ) -> None:
        self._database = database
        self._platform = platform
        self._authorities = authorities
        self._clock = clock

    @activity.defn(name=Step.CREATE_AUTHORITY)
    def create_authority(self, step: StepInput) -> None:
        """Make the authority unless one is on record; a signed but unrecorded one is adopted, not signed again."""
        began = self._clock()
        with self._database.tenant_tx(step.tenant_id) as tx:
            recorded = tx.certificates.authority()
        made = self._make(step.tenant_id) if recorded is None else self._enable(step.tenant_id, recorded)
        with self._database.tenant_tx(step.tenant_id) as tx:
            recorded = tx.certificates.record_authority(made)
            tx.keys.record(ids.ca_key(step.tenant_id), "CA", 1)
            record(tx, step, AuditName.AUTHORITY_CREATED, recorded.serial, not_after=recorded.not_after.isoformat())
            finish(tx, step, Step.CREATE_AUTHORITY, began)

    @activity.defn(name="disable-authority")
    def disable_authority(self, step: StepInput) -> None:
        """Roll back step 3: the authority signs nothing until a retry enables it; an unrecorded one is left alone."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            if not is_recorded(tx, ids.ca_key(step.tenant_id)):
                return
        self._authorities.disable(step.tenant_id)
        with self._database.tenant_tx(step.tenant_id) as tx:
            record(tx, step, AuditName.PROVISION_ROLLED_BACK, ids.ca_key(step.tenant_id))

    def _make(self, tenant_id: str) -> AuthorityRow:
        def unrecorded(serials: Sequence[str]) -> Sequence[str]:
            # An attempt that was given up for dead may still be alive and record its certificate at this moment. Asking
            # in this order leaves no gap: what it recorded before the first question is seen by the second, and what
            # it records later is among the unknown and is adopted.
            unknown = self._platform.unknown_serials(serials)
            with self._database.tenant_tx(tenant_id) as tx:
                if tx.certificates.authority() is not None:
                    raise Overtaken
            return unknown

        return self._ensure(tenant_id, unrecorded)

    def _enable(self, tenant_id: str, recorded: AuthorityRow) -> AuthorityRow:
        """Let a recorded authority sign again, if a roll-back has disabled it; the only one to be found is itself."""
        return self._ensure(tenant_id, lambda serials: [serial for serial in serials if serial == recorded.serial])

    def _ensure(self, tenant_id: str, unknown_serials: Callable[[Sequence[str]], Sequence[str]]) -> AuthorityRow:
        made = self._authorities.ensure(tenant_id, unknown_serials)
        return AuthorityRow(
            serial=made.serial,
            certificate_pem=made.certificate_pem,
            chain_pem=made.chain_pem,
            not_after=made.not_after,
        )
