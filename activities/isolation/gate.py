"""Step 4, the isolation gate: the new tenant and the canary attack each other; each attack must fail (REQ-012)."""

from collections.abc import Iterator, Sequence
from functools import partial

from temporalio import activity

from activities.certificates.ca_rotation import as_authority
from activities.runtime.audit_trail import Clock, append_audit_event, complete_step
from activities.runtime.concurrency import ContextThreadPool
from activities.runtime.metrics import Metrics
from activities.runtime.step_progress import track_progress
from compliance.isolation.postgres.row_security import RowSecuritySuite as DatabaseProbe
from compliance.isolation.vault.cross_tenant import VaultTenantIsolationSuite as VaultProbe
from core.errors.compliance import CanaryMissing, IsolationBreached
from core.isolation import CheckResult, breaches, tally
from core.messages.base import StepInput
from core.names import CANARY_TENANT_ID
from core.tenants.provisioning import Step
from database.connection.database import Database
from openkcm.contract.audit_events import AuditName
from vault.pki.certificates import Authority

_ATTACKERS = 16


class IsolationGateActivities:
    def __init__(
        self,
        database: Database,
        database_probe: DatabaseProbe,
        vault_probe: VaultProbe,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._database = database
        self._database_probe = database_probe
        self._vault_probe = vault_probe
        self._clock = clock
        self._metrics = metrics
        self._canary: Authority | None = None
        self._pool = ContextThreadPool(_ATTACKERS, thread_name_prefix="attack")

    @activity.defn(name=Step.CHECK_BOUNDARIES, no_thread_cancel_exception=True)
    def check_boundaries(self, step: StepInput) -> None:
        """Attack in both directions, and record the results before the verdict.

        The results are committed also when an attack succeeded, and the breach is raised afterwards. A crash in between
        keeps the record, and the retry finds the breach again.
        """
        began = self._clock()
        with track_progress():
            results = self.attack(step.tenant_id)
        broken = breaches(results)
        self._metrics.count_boundary_checks(results)
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.boundaries.record(step.operation_id, results)
            append_audit_event(
                tx,
                step,
                AuditName.BOUNDARY_CHECKED,
                step.tenant_id,
                "failure" if broken else "success",
                held=str(len(results) - len(broken)),
                breached=", ".join(broken),
                clauses=tally(results),
            )
            if not broken:
                complete_step(tx, step, Step.CHECK_BOUNDARIES, began)
        if broken:
            raise IsolationBreached(broken)

    def attack_rows(self, tenant_id: str) -> tuple[CheckResult, ...]:
        """Run the attacks of `attack` that need no key server."""
        by_tenant, by_canary = self._database_probe.attack_each_other(tenant_id, CANARY_TENANT_ID)
        return (*_named("by-tenant", by_tenant), *_named("by-canary", by_canary))

    def attack(self, tenant_id: str) -> tuple[CheckResult, ...]:
        """Run the attacks in parallel, because they mostly wait for servers; each result names the attacker."""
        own, canary = self._authority(tenant_id), self._canary_authority()
        # The activity's context attributes the key server's log entries to this step.
        attack = partial(self._vault_probe.attack_each_other, tenant_id, CANARY_TENANT_ID, own, canary)
        keys = self._pool.submit(attack)
        rows_by_tenant, rows_by_canary = self._database_probe.attack_each_other(tenant_id, CANARY_TENANT_ID)
        by_tenant, by_canary = keys.result()
        return (
            *_named("by-tenant", (*by_tenant, *rows_by_tenant)),
            *_named("by-canary", (*by_canary, *rows_by_canary)),
        )

    def _canary_authority(self) -> Authority:
        if self._canary is None:
            self._canary = self._authority(CANARY_TENANT_ID)
        return self._canary

    def _authority(self, tenant_id: str) -> Authority:
        with self._database.tenant_tx(tenant_id) as tx:
            row = tx.certificates.authority()
        if row is None:
            raise CanaryMissing
        return as_authority(row)


def _named(attacker: str, results: Sequence[CheckResult]) -> Iterator[CheckResult]:
    return (result.model_copy(update={"name": f"{attacker}/{result.name}"}) for result in results)
