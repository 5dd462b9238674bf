"""Repair of a tenant whose stores differ after a restore (core/tenants/store_comparison.py).

The worker compares the stores again and never trusts the request: it only restricts a tenant (lock, offboarding), or
enables versions of a key that the tenant's rows need. To allow a tenant again is the decision of a person. Each repair
leaves nothing to compare, so a repetition after a crash continues where the last attempt ended.
"""

from contextlib import suppress
from datetime import timedelta

import structlog
from temporalio import activity
from temporalio.service import RPCError, RPCStatusCode

from activities.lock_records import LockRecords
from activities.runtime.audit_trail import append_audit_event
from activities.runtime.step_progress import send_heartbeats
from compliance.stores import StoreReader
from core import names as ids
from core.errors.tenants import InvalidTransition
from core.messages.base import StepInput
from core.messages.recovery import RepairTenantInput
from core.tenants.locks import LockReason
from core.tenants.store_comparison import Skew, SkewKind, StoreStates, compare
from database.connection.database import Database
from openkcm.contract.audit_events import AuditName, Outcome
from vault.transit.key_destruction import TenantKeyKind, TransitDestroyer
from vault.transit.tenant_keys import TransitTenantKeys

_ASKED_BY = "repair"
_WITHOUT_KEY = frozenset({SkewKind.KEY_MISSING, SkewKind.KEY_OLDER, SkewKind.VERSIONS_DESTROYED})

log = structlog.get_logger()


class StoreRepairActivities:
    def __init__(  # noqa: PLR0913, PLR0917 - one for each dependency
        self,
        database: Database,
        stores: StoreReader,
        records: LockRecords,
        tenant_keys: TransitTenantKeys,
        destroyer: TransitDestroyer,
        grace: timedelta,
    ) -> None:
        """`grace` is the grace period of an offboarding that starts again."""
        self._database = database
        self._stores = stores
        self._records = records
        self._tenant_keys = tenant_keys
        self._destroyer = destroyer
        self._grace = grace

    @activity.defn(name="repair-stores")
    @send_heartbeats()
    def repair_stores(self, request: RepairTenantInput) -> None:
        """Repair the rows and the key server, from the most to the least severe difference."""
        step = StepInput(tenant_id=request.tenant_id, operation_id=f"repair-{request.request_id}")
        stores = self._stores.of(step.tenant_id)
        for skew in compare(stores):
            # A state that admits no lock or offboarding serves nothing either; the next comparison shows the rest.
            with suppress(InvalidTransition):
                self._repair(step, skew, stores)

    def _repair(self, step: StepInput, skew: Skew, stores: StoreStates) -> None:
        match skew.kind:
            case SkewKind.LOCK_LOST:
                lock = stores.locks[step.tenant_id].lock
                self._lock(step, skew, lock.locks or frozenset({LockReason.MANUAL}))
            case SkewKind.OFFBOARDING_LOST:
                self._offboard(step, skew, self._grace)
            case SkewKind.DESTRUCTION_LOST:
                self._offboard(step, skew, timedelta())
            case SkewKind.LOCK_UNRECORDED:
                self._records.record(step.tenant_id)
            case SkewKind.LOCK_OUTDATED:
                self._records.remove_outdated(step.tenant_id)
            case SkewKind.DESTROYED_KEY_FOUND:
                self._destroy_keys(step)
            case SkewKind.VERSIONS_RETIRED:
                self._enable_versions(step, stores)
            case kind if kind in _WITHOUT_KEY:
                self._lock(step, skew, frozenset({LockReason.MANUAL}))

    def _lock(self, step: StepInput, skew: Skew, reasons: frozenset[LockReason]) -> None:
        with self._database.tenant_tx(step.tenant_id) as tx:
            before = tx.tenants.lock()
            for reason in sorted(reasons):
                tx.tenants.hold(reason)
            after = tx.tenants.lock()
            if after == before:
                return
            append_audit_event(
                tx,
                step,
                AuditName.TENANT_LOCKED,
                step.tenant_id,
                before=before.state,
                after=after.state,
                locked_by=", ".join(after.locks),
                asked_by=_ASKED_BY,
                code=skew.kind,
            )
        self._records.record_soon(step.tenant_id)

    def _offboard(self, step: StepInput, skew: Skew, grace: timedelta) -> None:
        with self._database.tenant_tx(step.tenant_id) as tx:
            before = tx.tenants.lock()
            row = tx.leaving.begin(grace)
            append_audit_event(
                tx,
                step,
                AuditName.LEAVING_BEGUN,
                step.tenant_id,
                before=before.state,
                until="" if row.until is None else row.until.isoformat(),
                asked_by=_ASKED_BY,
                code=skew.kind,
            )

    def _enable_versions(self, step: StepInput, stores: StoreStates) -> None:
        """Enable the versions that wrap keys of the database; the intention is recorded first."""
        oldest = stores.tenants[step.tenant_id].oldest_wrap or 1
        name = ids.l2_key(step.tenant_id)
        details = {"oldest": str(oldest), "asked_by": _ASKED_BY}
        self._record(step, AuditName.TENANT_KEY_RETIRED, name, "intended", **details)
        self._tenant_keys.enable_versions(step.tenant_id, oldest)
        self._record(step, AuditName.TENANT_KEY_RETIRED, name, "success", **details)

    def _destroy_keys(self, step: StepInput) -> None:
        """Destroy keys that a restored key server has again; the erasure certificate stays true."""
        for kind in TenantKeyKind:
            found = self._destroyer.describe(kind, step.tenant_id)
            if found is not None:
                self._record(step, AuditName.KEY_DESTROYED, found.name, "intended")
                self._destroyer.destroy(kind, step.tenant_id)
                self._record(
                    step,
                    AuditName.KEY_DESTROYED,
                    found.name,
                    "success",
                    versions=found.versions,
                    fingerprint=found.fingerprint,
                )

    def _record(self, step: StepInput, name: AuditName, subject: str, outcome: Outcome, **details: str) -> None:
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.tenants.lock()
            append_audit_event(tx, step, name, subject, outcome, **details)

    @activity.defn(name="end-tenant-workflows")
    async def end_tenant_workflows(self, request: RepairTenantInput) -> None:
        """Terminate the tenant workflow and its offboarding, which started from other rows.

        Operations of the tenant workflow end with it; the new one ends their records (activities/tenants.py).
        """
        client = activity.client()
        for workflow_id in (ids.tenant_workflow(request.tenant_id), ids.offboard_workflow(request.tenant_id)):
            try:
                await client.get_workflow_handle(workflow_id).terminate(reason="the rows of the tenant are restored")
                log.info("workflow ended for a repair", workflow_id=workflow_id)
            except RPCError as gone:
                if gone.status is not RPCStatusCode.NOT_FOUND:
                    raise
