"""The one door into Temporal for other processes: workflow ids, start-or-signal, updates.

What passes through carries ids only, so the processes outside need no key for workflow payloads. Every call is safe
to repeat: the workflow id is the tenant, and events and updates are told apart by their own ids.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

from temporalio.client import (
    Client,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from core import names as ids
from core.errors.compliance import AssessmentFailed
from core.errors.platform import TemporalUnavailable
from core.errors.tenants import TenantUnknown
from core.isolation import run_of
from core.messages.compliance import BoundariesInput, MakeReportInput
from core.messages.keys import RetireVersionRequest, RootKeyRequest, RotateRequest
from core.messages.services import EnrolInput, ServiceInput
from core.messages.tenants import (
    ApprovalRequest,
    MarketplaceSignal,
    OffboardRequest,
    PolicyRequest,
    StatusChange,
    StatusChangeRequest,
    TenantInput,
)
from core.tenants.lifecycle import State
from core.tenants.policy import TenantPolicy
from core.tenants.provisioning import EventKind
from openkcm.errors import CallerError, PlatformError
from workflows.client.connection import LogForm, connect_client
from workflows.client.service_start import service_options, service_start, update_with_start
from workflows.isolation import AssessIsolation
from workflows.reports import GenerateReport
from workflows.runtime import options as priorities
from workflows.runtime import options as visibility
from workflows.runtime import timeouts as timing
from workflows.services import DISCOVERED, ConnectService
from workflows.tenants import Tenant

_RPC_TIMEOUT = timedelta(seconds=5)
_SERVICE_PATIENCE_SECONDS = 60.0
_ENDED_MEANWHILE = "AcceptedUpdateCompletedWorkflow"
"""What Temporal answers when a run ended in the very moment in which it was asked; the next run takes the request."""

_DOWN = (RPCError, RuntimeError)
"""What a call raises when Temporal is not there; RuntimeError is a lazy client whose first connection fails."""


class UpdateRejected(CallerError):
    """An update was refused by its validator; carries the validator's own code, message and hint."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.code = code  # type: ignore[misc] # the refusal of a workflow brings its code with it


class OperationTimeout(PlatformError):
    code = "not_done_in_time"
    message = "the request is not done yet"
    hint = "it goes on by itself once what it waits for is back: make status; asking again does no harm"


class WorkflowClient:
    """The part of `workflows.client.workflow_client.WorkflowClient` that the endpoint uses."""

    def __init__(
        self, client: Client, promise_seconds: float, patience_seconds: float = _SERVICE_PATIENCE_SECONDS
    ) -> None:
        """Take what tenants are promised and how long to wait for what a service's workflow is asked for."""
        self._client = client
        self._promise_seconds = promise_seconds
        self._patience_seconds = patience_seconds

    @classmethod
    async def connect(cls, address: str | None, promise_seconds: float, logs: LogForm = None) -> "WorkflowClient":
        """Return a gateway to `address`, or to what Temporal's own configuration names when it is None.

        `logs` is the form of this process's logs; without it Temporal's core logs nothing. The connection is made at
        the first call, so the start of a process does not wait for Temporal.
        """
        return cls(await connect_client(address, logs), promise_seconds)

    async def enable(self, tenant_id: str, region: str, event_id: str) -> None:
        """Start the tenant's workflow or signal the running one; raises TemporalUnavailable."""
        try:
            await self._client.start_workflow(
                Tenant.run,
                TenantInput(tenant_id=tenant_id, region=region, promise_seconds=self._promise_seconds),
                id=ids.tenant_workflow(tenant_id),
                task_queue=ids.task_queue(region),
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                start_signal="marketplace-event",
                start_signal_args=[MarketplaceSignal(event_id=event_id, kind=EventKind.SERVICE_ENABLED)],
                search_attributes=TypedSearchAttributes(
                    [
                        SearchAttributePair(visibility.TENANT_ID, tenant_id),
                        SearchAttributePair(visibility.REGION, region),
                        SearchAttributePair(visibility.LIFECYCLE_STATE, State.PROVISIONING.value),
                        SearchAttributePair(visibility.ROOT_KEY_MODE, "platform"),
                    ]
                ),
                static_summary=f"tenant {tenant_id}",
                priority=priorities.enable(tenant_id),
                rpc_timeout=_RPC_TIMEOUT,
            )
        except _DOWN as failed:
            raise TemporalUnavailable from failed

    async def disable(self, tenant_id: str, event_id: str) -> None:
        """Tell the tenant's workflow that the marketplace disabled it; it leaves as soon as nothing else runs.

        Raises: TenantUnknown while nobody is there to be told, TemporalUnavailable.
        """
        handle = self._client.get_workflow_handle(ids.tenant_workflow(tenant_id))
        try:
            await handle.signal(
                Tenant.marketplace_event,
                MarketplaceSignal(event_id=event_id, kind=EventKind.SERVICE_DISABLED),
                rpc_timeout=_RPC_TIMEOUT,
            )
        except _DOWN as failed:
            if isinstance(failed, RPCError) and failed.status is RPCStatusCode.NOT_FOUND:
                raise TenantUnknown from None
            raise TemporalUnavailable from failed

    async def offboard(self, tenant_id: str, request: OffboardRequest) -> None:
        """Let a tenant leave; nothing of it works when this returns, and until the grace is over it can be restored.

        Raises: TenantUnknown, TemporalUnavailable, OperationTimeout, or UpdateRejected, when it is leaving at another
        time
            already or something else runs.
        """
        await self._of_tenant(tenant_id, Tenant.offboard, [request])

    async def restore(self, tenant_id: str) -> None:
        """Bring a tenant back that is leaving; raises as above, `destruction_begun` when it is too late."""
        await self._of_tenant(tenant_id, Tenant.restore, [])

    async def retry(self, tenant_id: str) -> None:
        """Provision a failed tenant again; raises TenantUnknown, TemporalUnavailable or the validator's refusal."""
        handle = self._client.get_workflow_handle(ids.tenant_workflow(tenant_id))
        try:
            await handle.execute_update(Tenant.retry, rpc_timeout=_RPC_TIMEOUT)
        except WorkflowUpdateFailedError as refused:
            raise _as_refusal(refused) from None
        except _DOWN as failed:
            if isinstance(failed, RPCError) and failed.status is RPCStatusCode.NOT_FOUND:
                raise TenantUnknown from None
            raise TemporalUnavailable from failed

    async def change_standing(self, tenant_id: str, move: StatusChange) -> None:
        """Suspend, resume, lock or unlock a tenant; it is so when this returns, and again is no error.

        Raises: TenantUnknown, TemporalUnavailable, OperationTimeout, or the refusal of the validator or of the move.
        """
        await self._of_tenant(tenant_id, Tenant.change_standing, [StatusChangeRequest(move=move)])

    async def preflight_root_key(self, tenant_id: str, request_id: str) -> None:
        """Try the root key of a stored request; what was found is on record when this returns. Raises as above."""
        await self._of_tenant(
            tenant_id, Tenant.preflight_root_key, [RootKeyRequest(request_id=request_id)], f"preflight-{request_id}"
        )

    async def change_root_key(self, tenant_id: str, request_id: str) -> None:
        """Put every service key under the root key of a stored request; it is in force when this returns.

        Raises: as above; UpdateRejected with the code of what stopped it, after which the former key is in force. What
            a preflight found is on record.
        """
        await self._of_tenant(
            tenant_id, Tenant.change_root_key, [RootKeyRequest(request_id=request_id)], f"change-{request_id}"
        )

    async def change_policy(self, tenant_id: str, policy: TenantPolicy) -> None:
        """Put another policy in force; it is so when this returns. Raises as above."""
        request = PolicyRequest.model_validate(policy.as_argument())
        await self._of_tenant(tenant_id, Tenant.change_policy, [request])

    async def propose(self, tenant_id: str, approval_id: str) -> None:
        """Let a stored request wait for a second person; it does when this returns. Raises as above."""
        await self._of_tenant(
            tenant_id, Tenant.propose, [ApprovalRequest(approval_id=approval_id)], f"propose-{approval_id}"
        )

    async def decide(self, tenant_id: str, approval_id: str) -> None:
        """Do what the votes on a request say; what was approved is done when this returns. Raises as above."""
        await self._of_tenant(tenant_id, Tenant.decide, [ApprovalRequest(approval_id=approval_id)])

    async def roll_authority(self, tenant_id: str) -> None:
        """Have new certificates come from another authority; the former's go on until they expire. Raises as above."""
        await self._of_tenant(tenant_id, Tenant.roll_authority, [])

    async def rotate_keys(self, tenant_id: str, request: RotateRequest) -> None:
        """Rotate keys of a tenant; it is done when this returns, and what became of it is on record. Raises as above.

        UpdateRejected with the code of what stopped it: every key that worked works, and what took over stays.
        """
        await self._of_tenant(tenant_id, Tenant.rotate_keys, [request], f"rotate-{request.request_id}")

    async def retire_service_key(self, tenant_id: str, service: str, version: int) -> None:
        """Destroy a version of a service key that encrypts nothing any more, for good. Raises as above."""
        await self._of_tenant(
            tenant_id, Tenant.retire_service_key, [RetireVersionRequest(service=service, version=version)]
        )

    async def connect_service(self, tenant_id: str, region: str, service: str, request_id: str) -> None:
        """Connect a service, or give a connected one a further certificate, as the stored request says.

        The certificate is on record when this returns. The same request id again gives the same certificate.

        Raises:
            TemporalUnavailable: the request did not reach a workflow, or nobody is there to do it.
            OperationTimeout: it is being worked on.
            UpdateRejected: it was refused, with the code, message and hint of the refusal.
        """
        await self._ask(
            tenant_id, region, service, ConnectService.enrol, [EnrolInput(request_id=request_id)], request_id
        )

    async def discover_service(self, tenant_id: str, region: str, service: str) -> None:
        """Start the workflow of a discovered service, so that it waits for the agent; raises TemporalUnavailable.

        One that runs is told as well, and one that has a certificate makes nothing of it.
        """
        try:
            await self._client.start_workflow(
                ConnectService.run,
                ServiceInput(tenant_id=tenant_id, region=region, service=service),
                start_signal=DISCOVERED,
                rpc_timeout=_RPC_TIMEOUT,
                **service_options(tenant_id, region, service),
            )
        except _DOWN as failed:
            raise TemporalUnavailable from failed

    async def renew_service(self, tenant_id: str, region: str, service: str) -> None:
        """Issue the next certificate for the service's newest key now; raises as `connect_service`."""
        await self._ask(tenant_id, region, service, ConnectService.renew)

    async def disconnect_service(self, tenant_id: str, region: str, service: str) -> None:
        """Revoke all certificates of a service at once; raises as `connect_service`."""
        await self._ask(tenant_id, region, service, ConnectService.disconnect)

    async def make_report(self, tenant_id: str, region: str, report_id: str) -> None:
        """Have a stored request made into a report; it is made when this returns. The same id again makes no other.

        Raises: TemporalUnavailable, OperationTimeout, or UpdateRejected with the code of why it could not be made.
        """
        try:
            await self._to_its_end(
                tenant_id,
                region,
                GenerateReport.run,
                MakeReportInput(tenant_id=tenant_id, report_id=report_id),
                id=ids.report_workflow(tenant_id, report_id),
                static_summary=f"compliance report of {tenant_id}",
                priority=priorities.report(tenant_id),
            )
        except WorkflowFailureError as failed:
            raise _as_refusal(failed) from None

    async def check_boundaries(self, tenant_id: str, region: str, *, anew: bool) -> str:
        """Have a tenant's boundaries examined, or wait for the examination that runs; returns the name of the run.

        `anew` is for how it is now: by an examination that begins after one that runs, and that attacks as well what
        stands or falls for all tenants alike and was attacked minutes ago.

        Raises: TemporalUnavailable, OperationTimeout, or AssessmentFailed when it came to no result.
        """
        try:
            handle = await self._to_its_end(
                tenant_id,
                region,
                AssessIsolation.run,
                BoundariesInput(tenant_id=tenant_id, region=region, anew=anew),
                anew=anew,
                id=ids.boundaries_workflow(tenant_id),
                execution_timeout=timing.EXAMINATION,
                static_summary=f"examine the boundaries of {tenant_id}",
                priority=priorities.service(tenant_id),
            )
        except WorkflowFailureError:
            raise AssessmentFailed from None
        return run_of(handle.result_run_id or "")

    async def _to_its_end(
        self, tenant_id: str, region: str, run: Any, argument: Any, *, anew: bool = False, **options: Any
    ) -> WorkflowHandle[Any, Any]:
        """Start a workflow of a tenant's, or find the one that runs, and wait until it has ended well.

        With `anew` one that runs is waited for first: it began before this was asked.

        Raises: TemporalUnavailable, OperationTimeout, or WorkflowFailureError when it has not.
        """
        try:
            async with asyncio.timeout(self._patience_seconds):
                if anew:
                    await self._until_ended(options["id"])
                handle = await self._client.start_workflow(
                    run,
                    argument,
                    task_queue=ids.task_queue(region),
                    id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                    id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                    search_attributes=visibility.of_tenant(tenant_id, region),
                    rpc_timeout=_RPC_TIMEOUT,
                    **options,
                )
                await handle.result()
        except TimeoutError:
            raise OperationTimeout from None
        except _DOWN as failed:
            raise TemporalUnavailable from failed
        return handle

    async def _until_ended(self, workflow_id: str) -> None:
        """Wait for a workflow that runs; none, or one that fails, is nothing to wait for."""
        try:
            await self._client.get_workflow_handle(workflow_id).result()
        except WorkflowFailureError:
            pass
        except RPCError as failed:
            if failed.status is not RPCStatusCode.NOT_FOUND:
                raise

    async def _of_tenant(
        self, tenant_id: str, update: Any, arguments: Sequence[Any], update_id: str | None = None
    ) -> None:
        """Ask the tenant's entity, which runs as long as there is the tenant."""
        handle = self._client.get_workflow_handle(ids.tenant_workflow(tenant_id))
        try:
            async with asyncio.timeout(self._patience_seconds):
                await _until_taken(lambda: handle.execute_update(update, args=arguments, id=update_id))
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
            raise OperationTimeout from None
        except _DOWN as failed:
            if isinstance(failed, RPCError) and failed.status is RPCStatusCode.NOT_FOUND:
                raise TenantUnknown from None
            raise TemporalUnavailable from failed

    async def _ask(  # noqa: PLR0913, PLR0917 - whose service, and what of it
        self,
        tenant_id: str,
        region: str,
        service: str,
        update: Any,
        arguments: Sequence[EnrolInput] = (),
        update_id: str | None = None,
    ) -> None:
        """Ask the workflow of a service, started if there is none: it is all on record, so a new run does as well."""
        try:
            async with asyncio.timeout(self._patience_seconds):
                await _until_taken(
                    lambda: update_with_start(
                        self._client, service_start(tenant_id, region, service), update, arguments, update_id
                    )
                )
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
            raise OperationTimeout from None
        except _DOWN as failed:
            raise TemporalUnavailable from failed


async def _until_taken(ask: Callable[[], Awaitable[object]]) -> None:
    """Ask again for as long as the run that was asked ended in that moment; raises UpdateRejected."""
    while True:
        try:
            await ask()
        except WorkflowUpdateFailedError as refused:
            refusal = _as_refusal(refused)
            if refusal.code != _ENDED_MEANWHILE:
                raise refusal from None
        else:
            return


def _as_refusal(failed: WorkflowUpdateFailedError | WorkflowFailureError) -> CallerError:
    cause = failed.cause
    if not isinstance(cause, ApplicationError):
        raise TemporalUnavailable
    message, _, hint = cause.message.partition("\n")
    return UpdateRejected(cause.type or "refused", message, hint)
