"""Workflows of certificates: rotation of a tenant CA, CRLs, and the checks for late renewals.

The scheduled workflows wait for no tenant. Each run reads the due items from the database again, so a lost run or a
busy tenant delays them by an hour and loses no certificate.

RotateCertificateAuthority replaces a tenant CA; the former CA is trusted while its leaves are valid. The step numbers
are those of docs/certificates.md, which explains their order. The overlap is not part of this workflow: the leaves'
records show when it is over, and a schedule ends it. So a rotation takes seconds, its history is short, and the tenant
can run other operations during the days with two trusted CAs.
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
    from workflows.runtime.activity_calls import run_activity, run_key_server_activity, run_local_activity
    from workflows.runtime.failures import FAILURES, STOPPED, code_of, refusal_of, step_of
    from workflows.runtime.signals import signal_tenant
    from workflows.runtime.tenant_base import LIVE, TenantWorkflowBase
    from workflows.services import CERTIFICATES_REVOKED, RENEW_SOON, ConnectService


AUTHORITY_DUE = "ca-rotation-due"
"""The signal that requests a CA rotation from the tenant workflow."""
_SIGNALS_AT_ONCE = 50


@workflow.defn(name="RotateDueCertificateAuthorities")
class RotateDueCertificateAuthorities:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity_method(
            RevocationActivities.end_authorities,
            summary="end former tenant CAs whose certificates have expired",
            start_to_close_timeout=timing.BUDGET_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )
        due = await workflow.execute_activity_method(
            AuthorityActivities.due_authorities,
            summary="find tenants whose CA is due for rotation",
            start_to_close_timeout=timing.HEADS_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )
        await asyncio.gather(*(signal_tenant(tenant_id, AUTHORITY_DUE) for tenant_id in due.tenants))


@workflow.defn(name="PublishRevocationLists")
class PublishRevocationLists:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity_method(
            RevocationActivities.publish_revocation_lists,
            summary="publish stale CRLs again",
            start_to_close_timeout=timing.BUDGET_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )


@workflow.defn(name="CheckExpiry")
class CheckExpiry:
    @workflow.run
    async def run(self) -> None:
        late = await workflow.execute_activity_method(
            ExpiryActivities.check_expiry,
            summary="alert on late renewals",
            start_to_close_timeout=timing.BUDGET_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )
        for first in range(0, len(late.services), _SIGNALS_AT_ONCE):
            await asyncio.gather(*map(_renew_or_restart, late.services[first : first + _SIGNALS_AT_ONCE]))


async def _renew_or_restart(late: UnrenewedService) -> None:
    """Signal a service's workflow to renew now; start it again where its history was lost."""
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
                task_queue=ids.operation_queue(late.region),
                parent_close_policy=ParentClosePolicy.ABANDON,
                priority=priorities.service(late.tenant_id),
                static_summary=f"service {late.service} of {late.tenant_id}",
                search_attributes=priorities.of_tenant(late.tenant_id, late.region),
            )
        except WorkflowAlreadyStartedError:
            workflow.logger.warning("the service's workflow was started meanwhile")


@workflow.defn(name="RotateCertificateAuthority")
class RotateCertificateAuthority:
    @workflow.init
    def __init__(self, roll: RollAuthorityInput) -> None:
        self._step = StepInput(tenant_id=roll.tenant_id, operation_id=f"authority-roll-{roll.number}")

    @workflow.run
    async def run(self, roll: RollAuthorityInput) -> RollAuthorityResult:
        del roll
        workflow.set_current_details("**Rotating** the tenant CA")
        try:
            plan = await run_local_activity(
                AuthorityActivities.plan_authority, self._step, "1 · record the intended CA"
            )
        except STOPPED as failed:
            return self._unchanged(code_of(failed))
        ended = await self._make(plan)
        if ended.code:
            return self._unchanged(ended.code)
        workflow.set_current_details(
            f"**Rotated:** version {plan.version} issues certificates. The former CA is trusted until its last "
            "certificate has expired, and then ended."
        )
        await self._renew_services()
        await self._publish_list()
        return RollAuthorityResult()

    async def _make(self, plan: AuthorityPlan) -> RollAuthorityResult:
        step = AuthorityStep(**self._step.model_dump(), **plan.model_dump())
        try:
            await run_key_server_activity(
                AuthorityActivities.prepare_authority,
                step,
                "2 · create the next version of the key and its certificate",
            )
            await run_activity(AuthorityActivities.verify_authority, step, "3 · issue a test certificate and verify it")
            await run_local_activity(AuthorityActivities.activate_authority, step, "4 · issue new certificates with it")
        except STOPPED as failed:
            return await run_local_activity(
                AuthorityActivities.abandon_authority,
                AuthorityFailureInput(**step.model_dump(), code=code_of(failed), reason=step_of(failed)),
                "ended · discard the prepared CA",
            )
        return RollAuthorityResult()

    async def _renew_services(self) -> None:
        """Signal the connected services to renew; if this fails, the timer of each service renews it."""
        try:
            found = await run_activity(AuthorityActivities.unrenewed_services, self._step, "5 · find services to renew")
        except ActivityError:
            workflow.logger.warning("services not signalled; their timers renew the certificates")
            return
        for first in range(0, len(found.services), _SIGNALS_AT_ONCE):
            await asyncio.gather(*map(self._signal_renewal, found.services[first : first + _SIGNALS_AT_ONCE]))

    async def _signal_renewal(self, service: str) -> None:
        handle = workflow.get_external_workflow_handle(ids.service_workflow(self._step.tenant_id, service))
        try:
            await handle.signal(RENEW_SOON)
        except ApplicationError:
            workflow.logger.warning("no workflow of the service to signal")

    async def _publish_list(self) -> None:
        try:
            await run_activity(
                RevocationActivities.publish_revocation_list,
                self._step,
                "6 · publish its CRL",
                deadline=timing.DELIVERY_DEADLINE,
            )
        except ActivityError:
            workflow.logger.warning("CRL not published; the schedule retries")

    @staticmethod
    def _unchanged(code: str) -> RollAuthorityResult:
        workflow.set_current_details(f"**Not rotated:** `{code}`. The former CA stays active.")
        return RollAuthorityResult(code=code)


_OPERATION = "a rotation of the tenant CA"


class CaRotationHandlers(TenantWorkflowBase):
    def __init__(self, tenant: TenantInput) -> None:
        super().__init__(tenant)
        self._crl_lock = asyncio.Lock()
        self._crl_outdated = False

    @workflow.update(name="rotate-ca", description="Replace the tenant CA")
    async def roll_authority(self) -> None:
        with self._running(_OPERATION):
            try:
                result = await self._roll()
            except FAILURES as stopped:
                raise refusal_of(stopped) from None
        if result.code:
            raise ApplicationError(
                "the tenant CA was not rotated; the former one stays active\n"
                f"openkcmctl tenant show {self._tenant.tenant_id} lists the CAs; the workflow shows the cause",
                type=result.code,
                non_retryable=True,
            )

    @roll_authority.validator
    def _may_roll_authority(self) -> None:
        self._require_idle()
        self._require_state(LIVE)

    @workflow.signal(name=AUTHORITY_DUE, description="A third of the CA's lifetime is left")
    async def authority_due(self) -> None:
        await self._until_loaded()
        # A busy tenant gets the signal again within the hour, a third of a year before the CA expires.
        if self._operation is None and self._memory.state in LIVE:
            with self._running(_OPERATION):
                try:
                    await self._roll()
                except FAILURES as stopped:
                    workflow.logger.warning("tenant CA not rotated", extra={"code": code_of(stopped)})

    @workflow.signal(name=CERTIFICATES_REVOKED, description="Certificates of a service were revoked")
    async def certificates_revoked(self) -> None:
        """Publish one CRL for all revocations until now; a CRL contains every recorded revocation."""
        await self._until_loaded()
        self._crl_outdated = True
        async with self._crl_lock:
            if not self._crl_outdated:
                return
            self._crl_outdated = False
            try:
                await run_activity(
                    RevocationActivities.publish_revocation_list,
                    self._step("revocation-list"),
                    "publish the CRL",
                    deadline=timing.DELIVERY_DEADLINE,
                )
            except ActivityError:
                workflow.logger.warning("CRL not published; the schedule retries")

    async def _roll(self) -> RollAuthorityResult:
        tenant = self._tenant
        self._remember(rolls=self._memory.rolls + 1)
        return await workflow.execute_child_workflow(
            RotateCertificateAuthority.run,
            RollAuthorityInput(tenant_id=tenant.tenant_id, region=tenant.region, number=self._memory.rolls),
            id=ids.authority_workflow(tenant.tenant_id, self._memory.rolls),
            task_queue=ids.operation_queue(tenant.region),
            priority=priorities.service(tenant.tenant_id),
            static_summary=f"rotate the CA of {tenant.tenant_id}",
            search_attributes=self._search_attributes(),
        )
