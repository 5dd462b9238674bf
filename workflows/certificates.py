"""The platform's scheduled work on all that ends: authorities, revocation lists, and what was not renewed.

Nothing here waits for a tenant. What is due is asked of the database anew each time, so a run that was lost, or a
tenant that was busy, costs an hour and never a certificate.

RotateCertificateAuthority: another certificate authority for a tenant, with the one before believed while its leaves
last.

The steps carry the numbers of docs/certificates.md, which argues their order. The overlap is no part of this workflow:
when it is over is on record with the leaves, and a schedule ends it (`workflows/certificates.py`). So a roll takes
seconds, its history is short, and the tenant is free for other operations during the days in which two are believed.

The part of a tenant's entity that rolls its certificate authority and has its revocation lists made anew.
"""

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, WorkflowAlreadyStartedError
from temporalio.workflow import ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from activities.certificates.ca_rotation import AuthorityActivities
    from activities.certificates.crl import RevocationActivities
    from activities.certificates.expiry import ExpiryActivities
    from core import names as ids
    from core.messages.base import StepInput
    from core.messages.services import (
        AuthorityFailureInput,
        AuthorityPlan,
        AuthorityStep,
        RollAuthorityInput,
        RollAuthorityResult,
        ServiceInput,
        ServiceWorkflowState,
        UnrenewedService,
    )
    from core.messages.tenants import TenantInput
    from workflows.runtime import options as priorities
    from workflows.runtime import timeouts as timing
    from workflows.runtime.activity_calls import run_activity, run_local_activity
    from workflows.runtime.failures import code_of
    from workflows.runtime.signals import signal_tenant
    from workflows.runtime.tenant_base import LIVE, TenantWorkflowBase
    from workflows.services import CERTIFICATES_REVOKED, RENEW_SOON, ConnectService


AUTHORITY_DUE = "authority-due"
"""The signal by which a tenant's entity is asked to roll its authority."""
_TOLD_AT_ONCE = 50


@workflow.defn(name="RollDueAuthorities")
class RotateDueCertificateAuthorities:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity_method(
            RevocationActivities.end_authorities,
            summary="end former authorities whose certificates have expired",
            start_to_close_timeout=timing.HEADS_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )
        due = await workflow.execute_activity_method(
            AuthorityActivities.due_authorities,
            summary="whose authority is to be rolled",
            start_to_close_timeout=timing.ATTEMPT,
            retry_policy=timing.RETRY,
        )
        await asyncio.gather(*(signal_tenant(tenant_id, AUTHORITY_DUE) for tenant_id in due.tenants))


@workflow.defn(name="PublishRevocationLists")
class PublishRevocationLists:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity_method(
            RevocationActivities.publish_revocation_lists,
            summary="make stale revocation lists anew",
            start_to_close_timeout=timing.HEADS_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )


@workflow.defn(name="CheckExpiry")
class CheckExpiry:
    @workflow.run
    async def run(self) -> None:
        late = await workflow.execute_activity_method(
            ExpiryActivities.check_expiry,
            summary="raise the alarm for what was not renewed",
            start_to_close_timeout=timing.HEADS_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )
        for first in range(0, len(late.services), _TOLD_AT_ONCE):
            await asyncio.gather(*map(_try_again, late.services[first : first + _TOLD_AT_ONCE]))


async def _try_again(late: UnrenewedService) -> None:
    """Have a service's workflow renew now; where there is none, because histories were lost, it is started anew."""
    workflow_id = ids.service_workflow(late.tenant_id, late.service)
    try:
        await workflow.get_external_workflow_handle(workflow_id).signal(RENEW_SOON)
    except ApplicationError:
        memory = ServiceWorkflowState(generation=late.generation, renew_at=workflow.now())
        try:
            await workflow.start_child_workflow(
                ConnectService.run,
                ServiceInput(tenant_id=late.tenant_id, region=late.region, service=late.service, memory=memory),
                id=workflow_id,
                task_queue=ids.task_queue(late.region),
                parent_close_policy=ParentClosePolicy.ABANDON,
                priority=priorities.service(late.tenant_id),
                static_summary=f"service {late.service} of {late.tenant_id}",
            )
        except WorkflowAlreadyStartedError:
            workflow.logger.warning("service's workflow began meanwhile")


@workflow.defn(name="RollAuthority")
class RotateCertificateAuthority:
    @workflow.init
    def __init__(self, roll: RollAuthorityInput) -> None:
        self._step = StepInput(tenant_id=roll.tenant_id, operation_id=f"authority-roll-{roll.number}")

    @workflow.run
    async def run(self, roll: RollAuthorityInput) -> RollAuthorityResult:
        del roll
        workflow.set_current_details("**Rolling** the certificate authority")
        try:
            plan = await run_local_activity(
                AuthorityActivities.plan_authority, self._step, "1 · record what is to be made"
            )
        except ActivityError as failed:
            return self._unchanged(code_of(failed))
        ended = await self._make(plan)
        if ended.code:
            return self._unchanged(ended.code)
        workflow.set_current_details(
            f"**Rolled:** certificates come from version {plan.version}. The former authority is believed until its "
            "last certificate has expired, and then ended."
        )
        await self._renew_services()
        await self._publish_list()
        return RollAuthorityResult()

    async def _make(self, plan: AuthorityPlan) -> RollAuthorityResult:
        step = AuthorityStep(**self._step.model_dump(), **plan.model_dump())
        try:
            await run_activity(
                AuthorityActivities.prepare_authority, step, "2 · make the key's next version, have it signed"
            )
            await run_activity(
                AuthorityActivities.verify_authority, step, "3 · let it issue, and verify what it issued"
            )
            await run_local_activity(
                AuthorityActivities.activate_authority, step, "4 · let new certificates come from it"
            )
        except ActivityError as failed:
            return await run_local_activity(
                AuthorityActivities.abandon_authority,
                AuthorityFailureInput(**step.model_dump(), code=code_of(failed), reason=failed.activity_type),
                "ended · what was prepared is never believed",
            )
        return RollAuthorityResult()

    async def _renew_services(self) -> None:
        """Tell the connected services; what fails here is made good by each one's own timer."""
        try:
            found = await run_activity(
                AuthorityActivities.unrenewed_services, self._step, "5 · whose certificates are to be renewed"
            )
        except ActivityError:
            workflow.logger.warning("services left to their own timers")
            return
        for first in range(0, len(found.services), _TOLD_AT_ONCE):
            await asyncio.gather(*map(self._tell, found.services[first : first + _TOLD_AT_ONCE]))

    async def _tell(self, service: str) -> None:
        handle = workflow.get_external_workflow_handle(ids.service_workflow(self._step.tenant_id, service))
        try:
            await handle.signal(RENEW_SOON)
        except ApplicationError:
            workflow.logger.warning("no workflow to tell of a new authority")

    async def _publish_list(self) -> None:
        try:
            await run_activity(
                RevocationActivities.publish_revocation_list,
                self._step,
                "6 · publish its revocation list",
                patience=timing.DELIVERY_PATIENCE,
            )
        except ActivityError:
            workflow.logger.warning("revocation list left to the schedule")

    @staticmethod
    def _unchanged(code: str) -> RollAuthorityResult:
        workflow.set_current_details(f"**Not rolled:** `{code}`. The authority before it is in force.")
        return RollAuthorityResult(code=code)


_OPERATION = "a roll of the certificate authority"


class CaRotationHandlers(TenantWorkflowBase):
    def __init__(self, tenant: TenantInput) -> None:
        super().__init__(tenant)
        self._listing = asyncio.Lock()
        self._unlisted = False

    @workflow.update(name="roll-authority", description="Have certificates come from another authority of the tenant")
    async def roll_authority(self) -> None:
        with self._at_work(_OPERATION):
            result = await self._roll()
        if result.code:
            raise ApplicationError(
                "the authority was not rolled and the one before it is in force\n"
                f"openkcmctl tenant show {self._tenant.tenant_id} says which there are, the workflow what stopped it",
                type=result.code,
                non_retryable=True,
            )

    @roll_authority.validator
    def _may_roll_authority(self) -> None:
        self._refuse_while_at_work()
        self._refuse_unless_in(LIVE)

    @workflow.signal(name=AUTHORITY_DUE, description="A third of the authority's life is left")
    async def authority_due(self) -> None:
        # Whoever is busy or away is told again within the hour, with a third of a year to go.
        if self._operation is None and self._memory.state in LIVE:
            with self._at_work(_OPERATION):
                await self._roll()

    @workflow.signal(name=CERTIFICATES_REVOKED, description="Certificates of a service were revoked")
    async def certificates_revoked(self) -> None:
        """Publish once for all that were revoked until then: a list takes in everything that is on record."""
        self._unlisted = True
        async with self._listing:
            if not self._unlisted:
                return
            self._unlisted = False
            try:
                await run_activity(
                    RevocationActivities.publish_revocation_list,
                    self._step("revocation-list"),
                    "publish the revocation list",
                    patience=timing.DELIVERY_PATIENCE,
                )
            except ActivityError:
                workflow.logger.warning("revocation list left to the schedule")

    async def _roll(self) -> RollAuthorityResult:
        tenant = self._tenant
        self._remember(rolls=self._memory.rolls + 1)
        return await workflow.execute_child_workflow(
            RotateCertificateAuthority.run,
            RollAuthorityInput(tenant_id=tenant.tenant_id, region=tenant.region, number=self._memory.rolls),
            id=ids.authority_workflow(tenant.tenant_id, self._memory.rolls),
            priority=priorities.service(tenant.tenant_id),
            static_summary=f"roll the certificate authority of {tenant.tenant_id}",
            search_attributes=self._found_by(),
        )
