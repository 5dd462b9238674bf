"""Step 3: the tenant's certificate authority, which decides for whom a certificate speaks (MTCI A1)."""

from temporalio import activity

from activities.authorities import AuthorityMaker
from activities.journal import Clock, finish, is_recorded, record
from core import names as ids
from core.certificates import AuthorityState
from core.messages.base import StepInput
from core.tenants.provisioning import Step
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from openkcm.contract.audit_events import AuditName
from vault.pki.authorities import PkiAuthorities


class CertificateActivities:
    def __init__(
        self, database: Database, platform: PlatformQueries, authorities: PkiAuthorities, clock: Clock
    ) -> None:
        self._database = database
        self._maker = AuthorityMaker(database, platform, authorities)
        self._authorities = authorities
        self._clock = clock

    @activity.defn(name=Step.CREATE_AUTHORITY)
    def create_authority(self, step: StepInput) -> None:
        """Make the authority unless one is on record; a signed but unrecorded one is adopted, not signed again."""
        began = self._clock()
        with self._database.tenant_tx(step.tenant_id) as tx:
            recorded = tx.certificates.authority()
        if recorded is None:
            made = self._maker.make(step.tenant_id, 1, AuthorityState.CURRENT)
        else:
            made = self._maker.enable(step.tenant_id, recorded)
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
