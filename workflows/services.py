"""ConnectService: the connection of one service, from its first certificate through renewals to its disconnection.

The step numbers are those of docs/services.md, which explains their order. Requests are updates, because callers need
the result. Requests that create something run one after another. A disconnection waits for none of them, and a running
request then finds the service disconnected and stops. A run starts with the first request and ends when the service is
disconnected.
"""

import asyncio
import re
from datetime import datetime, timedelta
from functools import partial

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.services import ServiceActivities, service_operation
    from core import names as ids
    from core.errors.services import ServiceUnknown
    from core.errors.tenants import OperationRunning
    from core.messages.services import (
        CertificatePlan,
        CertificateStep,
        ConnectFailureInput,
        EnrolInput,
        EnrolStep,
        RenewalStep,
        ServiceInput,
        ServiceStep,
        ServiceWorkflowState,
    )
    from openkcm.errors import InvalidName
    from workflows.runtime import timeouts as timing
    from workflows.runtime.activity_calls import run_activity, run_key_server_activity, run_local_activity
    from workflows.runtime.failures import code_of, refusal, refusal_of

TENANT_GONE = "tenant-offboarded"
"""The signal that ends the tenant's other workflows after its destruction. It has no payload, because no key exists."""

RENEW_SOON = "renew-certificate"
"""The signal that renews a service's certificate early."""
DISCOVERED = "discovered"
"""The signal that the platform discovered a service, whose workflow then waits for the agent. It has no payload."""
CERTIFICATES_REVOKED = "certificates-revoked"
"""The signal that makes the tenant workflow publish its CRL."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")


@workflow.defn(name="ConnectService")
class ConnectService:
    @workflow.init
    def __init__(self, service: ServiceInput) -> None:
        self._service = service
        self._memory = service.memory
        self._lock = asyncio.Lock()
        self._requested = False
        self._disconnected = False
        self._discovered = False

    @workflow.run
    async def run(self, service: ServiceInput) -> None:
        self._show()
        while not self._ended() and not workflow.info().is_continue_as_new_suggested():
            due = self._memory.renew_at
            try:
                await workflow.wait_condition(
                    partial(self._changed_since, due, self._discovered),
                    timeout=self._wait_timeout(due),
                    timeout_summary=f"renew certificate {self._memory.generation}" if due else "the first request",
                )
            except TimeoutError:
                if due is None:
                    break
                await self._renew_in_time(due)
        await workflow.wait_condition(workflow.all_handlers_finished)
        if self._memory.generation and not self._disconnected:
            workflow.continue_as_new(service.model_copy(update={"memory": self._memory}))

    @workflow.update(name="enrol", description="Issue a certificate for a stored request, connecting the service first")
    async def enrol(self, request: EnrolInput) -> None:
        self._requested = True
        async with self._lock:
            self._require_connected()
            try:
                await self._connect(request)
            except ActivityError as failed:
                raise refusal_of(failed) from None

    @enrol.validator
    def _may_enrol(self, request: EnrolInput) -> None:
        if not _REQUEST_ID.fullmatch(request.request_id):
            raise refusal(InvalidName("request id", "8 to 64 letters, digits, hyphens and underscores"))
        self._require_connected()

    @workflow.update(name="renew", description="Issue the next certificate for the key of the newest one")
    async def renew(self) -> None:
        self._requested = True
        async with self._lock:
            self._require_connected()
            try:
                await self._renew(requested=True)
            except ActivityError as failed:
                raise refusal_of(failed) from None

    @renew.validator
    def _may_renew(self) -> None:
        self._require_connected()

    @workflow.update(name="disconnect", description="Revoke all certificates of the service at once")
    async def disconnect(self) -> None:
        self._requested = True
        try:
            await run_local_activity(
                ServiceActivities.disconnect_service,
                self._step(f"service-{self._service.service}-disconnect-{workflow.info().run_id}"),
                "disconnect · revoke every certificate",
            )
        except ActivityError as failed:
            raise refusal_of(failed) from None
        self._disconnected = True
        self._show()
        await self._request_crl()

    @workflow.signal(name=RENEW_SOON, description="Renew the certificate early")
    def renew_soon(self) -> None:
        if self._memory.generation and not self._disconnected:
            self._remember(self._memory.generation, workflow.now())

    @workflow.signal(name=DISCOVERED, description="The platform found the service; its agent may enrol")
    def discovered(self) -> None:
        self._discovered = True
        self._show()

    async def _request_crl(self) -> None:
        """Request a new CRL; no caller waits for it, and the crypto service does not need it."""
        try:
            await workflow.get_external_workflow_handle(ids.tenant_workflow(self._service.tenant_id)).signal(
                CERTIFICATES_REVOKED
            )
        except ApplicationError:
            workflow.logger.warning("CRL not requested; the schedule publishes it")

    @workflow.signal(name=TENANT_GONE, description="The tenant is destroyed; every certificate is revoked")
    def tenant_gone(self) -> None:
        self._disconnected = True

    async def _connect(self, request: EnrolInput) -> None:
        plan = await run_local_activity(
            ServiceActivities.record_service,
            EnrolStep(**self._step("service").model_dump(), **request.model_dump()),
            "1 · record the service",
        )
        step = self._certificate(plan)
        try:
            await run_key_server_activity(
                ServiceActivities.create_service_key, step, "2 · create the service key, wrapped twice"
            )
            issued = await run_activity(ServiceActivities.issue_certificate, step, "3 · issue the certificate")
            await run_local_activity(ServiceActivities.mark_connected, step, "4 · mark the service connected")
        except ActivityError as failed:
            await run_local_activity(
                ServiceActivities.record_connect_failure,
                ConnectFailureInput(
                    **self._step(step.operation_id).model_dump(),
                    code=code_of(failed),
                    reason=failed.activity_type,
                ),
                "failed · record the failure",
            )
            raise
        self._remember(plan.generation, issued.renew_at, by_hand=issued.by_hand)

    async def _renew(self, *, requested: bool) -> None:
        plan = await run_local_activity(
            ServiceActivities.plan_renewal,
            RenewalStep(**self._step("service").model_dump(), requested=requested),
            "renew · plan the next certificate",
        )
        if plan.by_hand_until is not None:
            again = max(plan.by_hand_until, workflow.now() + timing.BY_HAND_PAUSE)
            self._remember(plan.generation, again, by_hand=True)
            return
        issued = await run_activity(
            ServiceActivities.issue_certificate, self._certificate(plan), f"renew · issue certificate {plan.generation}"
        )
        self._remember(plan.generation, issued.renew_at, by_hand=issued.by_hand)

    async def _renew_in_time(self, due: datetime) -> None:
        """Renew after two thirds of a certificate's lifetime; retry a rejected renewal after an hour."""
        async with self._lock:
            if self._disconnected or self._memory.renew_at != due:
                return
            try:
                await self._renew(requested=False)
            except ActivityError as failed:
                if code_of(failed) == ServiceUnknown.code:  # disconnected without this workflow
                    self._disconnected = True
                    return
                self._remember(self._memory.generation, workflow.now() + timing.RENEWAL_PAUSE)
                workflow.set_current_details(
                    f"**Not renewed:** `{code_of(failed)}`. Certificate {self._memory.generation} is valid until it "
                    "expires; retry within the hour."
                )
                workflow.logger.warning("certificate not renewed")

    def _changed_since(self, due: datetime | None, discovered: bool) -> bool:  # noqa: FBT001 - the previous value
        return self._ended() or self._memory.renew_at != due or self._discovered != discovered

    def _ended(self) -> bool:
        """Return whether the service is disconnected, or every request to connect it has failed."""
        failed = self._requested and not self._memory.generation and workflow.all_handlers_finished()
        return self._disconnected or failed

    def _wait_timeout(self, due: datetime | None) -> timedelta | None:
        if due is None:
            if self._requested:
                return None
            return timing.DISCOVERED if self._discovered else timing.FIRST_REQUEST
        return max(due - workflow.now(), timing.SHORTEST_LIFE)

    def _require_connected(self) -> None:
        if self._disconnected:
            raise refusal(OperationRunning("disconnecting"))

    def _step(self, operation_id: str) -> ServiceStep:
        service = self._service
        return ServiceStep(tenant_id=service.tenant_id, service=service.service, operation_id=operation_id)

    def _certificate(self, plan: CertificatePlan) -> CertificateStep:
        step = self._step(service_operation(self._service.service, plan))
        return CertificateStep(**step.model_dump(), **plan.model_dump())

    def _remember(self, generation: int, renew_at: datetime, *, by_hand: bool = False) -> None:
        self._memory = ServiceWorkflowState(generation=generation, renew_at=renew_at, by_hand=by_hand)
        self._show()

    def _show(self) -> None:
        due = self._memory.renew_at
        if self._disconnected:
            workflow.set_current_details("**disconnected**: every certificate is revoked")
        elif due is not None:
            what = "replaced by a person before" if self._memory.by_hand else "renewed"
            workflow.set_current_details(
                f"**connected**: certificate {self._memory.generation}, to be {what} {due:%Y-%m-%d %H:%M} UTC"
            )
        elif self._discovered and not self._requested:
            workflow.set_current_details("**discovered**: waits for the service's agent or for a connect request")
        else:
            workflow.set_current_details("**connecting**: no certificate yet")
