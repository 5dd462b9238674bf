"""The interface to Temporal for other processes: workflow ids, starts, signals and updates.

All arguments are ids, so other processes need no key for workflow payloads. Every call is idempotent: the workflow id
names the tenant, and events and updates have unique ids.
"""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import (
    Client,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowUpdateHandle,
    WorkflowUpdateStage,
)
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.service import RPCError, RPCStatusCode

from core import names as ids
from core.errors.compliance import AssessmentFailed
from core.errors.tenants import TenantUnknown
from core.isolation import run_of
from core.messages.compliance import BoundariesInput, MakeReportInput
from core.messages.keys import RetireVersionRequest, RootKeyRequest, RotateRequest
from core.messages.notifications import DeliverInput
from core.messages.recovery import RecoverTenantInput, RepairTenantInput
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
from core.tenants.policy import TenantPolicy
from core.tenants.provisioning import EventKind
from core.tracing.spans import Tracer
from workflows.client.connection import LogForm, connect_client, unavailable
from workflows.client.service_start import service_options, service_start, update_with_start
from workflows.client.tenant_start import tenant_options
from workflows.client.updates import DOWN, OperationTimeout, Updates, rejection
from workflows.isolation import AssessIsolation
from workflows.notifications import DeliverNotification
from workflows.recovery import RecoverTenant, RepairTenant
from workflows.reports import GenerateReport
from workflows.runtime import options as priorities
from workflows.runtime import options as visibility
from workflows.runtime import timeouts as timing
from workflows.services import DISCOVERED, ConnectService
from workflows.tenants import Tenant

_RPC_TIMEOUT = timedelta(seconds=5)
_TIMEOUT_SECONDS = 60.0
_PAGE = 1000


class WorkflowClient:
    """A client of the tenant, service, report and assessment workflows."""

    def __init__(
        self,
        client: Client,
        provisioning_slo_seconds: float,
        patience_seconds: float = _TIMEOUT_SECONDS,
        accept_seconds: float | None = None,
    ) -> None:
        """`provisioning_slo_seconds` is the provisioning SLO; `patience_seconds` limits the wait for a result.

        `accept_seconds` limits the wait until a worker accepts an update, see `Updates`; None waits as long as for the
        result.
        """
        self._client = client
        self._promise_seconds = provisioning_slo_seconds
        self._timeout_seconds = patience_seconds
        self._updates = Updates(patience_seconds, accept_seconds)

    @classmethod
    async def connect(
        cls,
        address: str | None,
        provisioning_slo_seconds: float,
        logs: LogForm = None,
        tracer: Tracer | None = None,
        accept_seconds: float | None = None,
    ) -> "WorkflowClient":
        """Return a client for `address`, or for the server in Temporal's configuration when it is None.

        `logs` is the form of this process's logs; without it Temporal's core logs nothing. `tracer` records each start,
        signal and update. The first call connects, so the start of a process does not wait for Temporal.
        """
        client = await connect_client(address, logs, tracer)
        return cls(client, provisioning_slo_seconds, accept_seconds=accept_seconds)

    async def enable(self, tenant_id: str, region: str, event_id: str) -> None:
        """Start the tenant's workflow or signal the running one; raises TemporalUnavailable."""
        try:
            await self._client.start_workflow(
                Tenant.run,
                TenantInput(tenant_id=tenant_id, region=region, provisioning_slo_seconds=self._promise_seconds),
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                start_signal="marketplace-event",
                start_signal_args=[MarketplaceSignal(event_id=event_id, kind=EventKind.SERVICE_ENABLED)],
                rpc_timeout=_RPC_TIMEOUT,
                **tenant_options(tenant_id, region),
            )
        except DOWN as failed:
            raise unavailable(failed) from failed

    async def disable(self, tenant_id: str, event_id: str) -> None:
        """Signal the tenant workflow to offboard after the current operation, because the marketplace disabled it.

        Raises: TenantUnknown while no tenant workflow runs, TemporalUnavailable.
        """
        handle = self._client.get_workflow_handle(ids.tenant_workflow(tenant_id))
        try:
            await handle.signal(
                Tenant.marketplace_event,
                MarketplaceSignal(event_id=event_id, kind=EventKind.SERVICE_DISABLED),
                rpc_timeout=_RPC_TIMEOUT,
            )
        except DOWN as failed:
            if isinstance(failed, RPCError) and failed.status is RPCStatusCode.NOT_FOUND:
                raise TenantUnknown from None
            raise unavailable(failed) from failed

    async def offboard(self, tenant_id: str, request: OffboardRequest) -> None:
        """Start an offboarding; on return all operations are rejected, and the grace period permits a restore.

        Raises: TenantUnknown, TemporalUnavailable, OperationTimeout, or UpdateRejected when offboarding is scheduled
            for another time or another operation runs.
        """
        await self._update_tenant(tenant_id, Tenant.offboard, [request])

    async def restore(self, tenant_id: str) -> None:
        """Restore a tenant in its grace period; raises as above, `destruction_started` after the point of no return."""
        await self._update_tenant(tenant_id, Tenant.restore, [])

    async def retry(self, tenant_id: str) -> None:
        """Start to provision a failed tenant again. Raises as `change_standing`."""
        await self._update_tenant(tenant_id, Tenant.retry, [])

    async def change_standing(self, tenant_id: str, move: StatusChange) -> None:
        """Suspend, resume, lock or unlock a tenant and wait for the result; a repeated change is no error.

        Raises: TenantUnknown, TemporalUnavailable, OperationTimeout, UpdateRejected.
        """
        await self._update_tenant(tenant_id, Tenant.change_standing, [StatusChangeRequest(move=move)])

    async def preflight_root_key(self, tenant_id: str, request_id: str) -> None:
        """Run the preflight of a stored request's root key; its result is recorded on return. Raises as above."""
        await self._update_tenant(
            tenant_id, Tenant.preflight_root_key, [RootKeyRequest(request_id=request_id)], f"preflight-{request_id}"
        )

    async def change_root_key(self, tenant_id: str, request_id: str) -> None:
        """Change to the root key of a stored request; it wraps every service key on return.

        Raises: as above; UpdateRejected with the code of the cause, after which the former root key stays active. The
            problems of a preflight are recorded.
        """
        await self._update_tenant(
            tenant_id, Tenant.change_root_key, [RootKeyRequest(request_id=request_id)], f"change-{request_id}"
        )

    async def change_policy(self, tenant_id: str, policy: TenantPolicy) -> None:
        """Set the key policy and wait for the result. Raises as above."""
        request = PolicyRequest.model_validate(policy.as_argument())
        await self._update_tenant(tenant_id, Tenant.change_policy, [request])

    async def propose(self, tenant_id: str, approval_id: str) -> None:
        """Admit a stored request for approval; it is pending on return. Raises as above."""
        await self._update_tenant(
            tenant_id, Tenant.propose, [ApprovalRequest(approval_id=approval_id)], f"propose-{approval_id}"
        )

    async def decide(self, tenant_id: str, approval_id: str) -> None:
        """Decide a request by its votes; an approved action is complete on return. Raises as above."""
        await self._update_tenant(tenant_id, Tenant.decide, [ApprovalRequest(approval_id=approval_id)])

    async def roll_authority(self, tenant_id: str) -> None:
        """Rotate the tenant CA; certificates of the former CA stay valid until they expire. Raises as above."""
        await self._update_tenant(tenant_id, Tenant.roll_authority, [])

    async def rotate_keys(self, tenant_id: str, request: RotateRequest) -> None:
        """Rotate keys of a tenant and wait for the recorded result. Raises as above.

        UpdateRejected has the code of the cause; all keys still work, and activated versions stay active.
        """
        await self._update_tenant(tenant_id, Tenant.rotate_keys, [request], f"rotate-{request.request_id}")

    async def retire_service_key(self, tenant_id: str, service: str, version: int) -> None:
        """Destroy a deactivated version of a service key irreversibly. Raises as above."""
        await self._update_tenant(
            tenant_id, Tenant.retire_service_key, [RetireVersionRequest(service=service, version=version)]
        )

    async def connect_service(
        self, tenant_id: str, region: str, service: str, request_id: str, *, another_key: bool = True
    ) -> None:
        """Connect a service, or issue another certificate for a connected one, for a stored request.

        The certificate is recorded on return. The same request id returns the same certificate. Without `another_key`
        a connected service gets a certificate only for the key of its newest one; agents replace their keys.

        Raises:
            TemporalUnavailable: the request reached no workflow, or no worker runs.
            OperationTimeout: the operation is still in progress.
            UpdateRejected: the request was rejected, with code, message and hint.
        """
        await self._update_service(
            tenant_id,
            region,
            service,
            ConnectService.enrol,
            [EnrolInput(request_id=request_id, another_key=another_key)],
            request_id,
        )

    async def discover_service(self, tenant_id: str, region: str, service: str) -> None:
        """Start the workflow of a discovered service, which waits for the agent; raises TemporalUnavailable.

        A running workflow gets the signal too; it ignores it when the service has a certificate.
        """
        try:
            await self._client.start_workflow(
                ConnectService.run,
                ServiceInput(tenant_id=tenant_id, region=region, service=service),
                start_signal=DISCOVERED,
                rpc_timeout=_RPC_TIMEOUT,
                **service_options(tenant_id, region, service),
            )
        except DOWN as failed:
            raise unavailable(failed) from failed

    async def renew_service(self, tenant_id: str, region: str, service: str) -> None:
        """Issue the next certificate for the service's newest key pair now; raises as `connect_service`."""
        await self._update_service(tenant_id, region, service, ConnectService.renew)

    async def disconnect_service(self, tenant_id: str, region: str, service: str) -> None:
        """Revoke all certificates of a service at once; raises as `connect_service`."""
        await self._update_service(tenant_id, region, service, ConnectService.disconnect)

    async def make_report(self, tenant_id: str, region: str, report_id: str) -> None:
        """Generate the report of a stored request and wait for it. The same id generates no second report.

        Raises: TemporalUnavailable, OperationTimeout, or UpdateRejected with the code of the cause.
        """
        try:
            await self._run_to_completion(
                tenant_id,
                region,
                GenerateReport.run,
                MakeReportInput(tenant_id=tenant_id, report_id=report_id),
                id=ids.report_workflow(tenant_id, report_id),
                static_summary=f"compliance report of {tenant_id}",
                priority=priorities.report(tenant_id),
            )
        except WorkflowFailureError as failed:
            raise rejection(failed) from None

    async def deliver_notification(self, tenant_id: str, region: str, request: DeliverInput) -> None:
        """Send a test to a target, or attempt a message again, and wait for the result, which is in the outbox.

        Raises: TemporalUnavailable, OperationTimeout, or UpdateRejected with the code of the cause.
        """
        try:
            await self._run_to_completion(
                tenant_id,
                region,
                DeliverNotification.run,
                request,
                id=ids.delivery_workflow(tenant_id, request.operation_id),
                static_summary=f"notification of {tenant_id}",
                priority=priorities.report(tenant_id),
            )
        except WorkflowFailureError as failed:
            raise rejection(failed) from None

    async def check_boundaries(self, tenant_id: str, region: str, *, repeat: bool) -> str:
        """Run an isolation assessment of a tenant, or wait for a running one; returns the name of the run.

        With `repeat` the assessment starts after a running one, and repeats the attacks whose recent results count for
        all tenants.

        Raises: TemporalUnavailable, OperationTimeout, or AssessmentFailed when it has no result.
        """
        try:
            handle = await self._run_to_completion(
                tenant_id,
                region,
                AssessIsolation.run,
                BoundariesInput(tenant_id=tenant_id, region=region, repeat=repeat),
                after_running=repeat,
                id=ids.boundaries_workflow(tenant_id),
                execution_timeout=timing.EXAMINATION,
                static_summary=f"isolation assessment of {tenant_id}",
                priority=priorities.service(tenant_id),
            )
        except WorkflowFailureError:
            raise AssessmentFailed from None
        return run_of(handle.result_run_id or "")

    @property
    def encrypted_address(self) -> tuple[str, int] | None:
        """Host and port of Temporal; None without TLS."""
        config = self._client.service_client.config
        host, _, port = config.target_host.rpartition(":")
        return (host.strip("[]"), int(port)) if config.tls else None

    async def has_workers(self) -> bool:
        """Return whether a worker has polled for tasks within five minutes; raises TemporalUnavailable."""
        queue = TaskQueue(name=ids.PLATFORM_QUEUE)
        try:
            answer = await self._client.workflow_service.describe_task_queue(
                DescribeTaskQueueRequest(
                    namespace=self._client.namespace,
                    task_queue=queue,
                    task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
                ),
                timeout=_RPC_TIMEOUT,
            )
        except DOWN as failed:
            raise unavailable(failed) from failed
        return bool(answer.pollers)

    async def tenant_workflows(self) -> tuple[Mapping[str, str], frozenset[str]]:
        """Return the states of the running tenant workflows by tenant, and the tenants with a running offboarding.

        The list may lag behind. Raises TemporalUnavailable.
        """
        states: dict[str, str] = {}
        leaving: set[str] = set()
        query = "ExecutionStatus = 'Running' and WorkflowType in ('Tenant', 'OffboardTenant')"
        try:
            async for run in self._client.list_workflows(query, page_size=_PAGE):
                tenant_id = ids.tenant_of_workflow(run.id)
                if tenant_id is None:
                    continue
                if run.id == ids.tenant_workflow(tenant_id):
                    states[tenant_id] = run.typed_search_attributes.get(visibility.LIFECYCLE_STATE) or ""
                else:
                    leaving.add(tenant_id)
        except DOWN as failed:
            raise unavailable(failed) from failed
        return states, frozenset(leaving)

    async def repair_tenant(self, tenant_id: str, request_id: str, *, replace_workflows: bool) -> None:
        """Repair the differences between the stores of a tenant (workflows/recovery.py), and wait for the end.

        Raises: TemporalUnavailable, OperationTimeout, or UpdateRejected with the code of the cause.
        """
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._client.execute_workflow(
                    RepairTenant.run,
                    RepairTenantInput(tenant_id=tenant_id, request_id=request_id, replace_workflows=replace_workflows),
                    id=ids.repair_workflow(tenant_id),
                    task_queue=ids.PLATFORM_QUEUE,
                    id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                    id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                    rpc_timeout=_RPC_TIMEOUT,
                )
        except WorkflowFailureError as failed:
            raise rejection(failed) from None
        except TimeoutError:
            raise OperationTimeout from None
        except DOWN as failed:
            raise unavailable(failed) from failed

    async def _run_to_completion(
        self, tenant_id: str, region: str, run: Any, argument: Any, *, after_running: bool = False, **options: Any
    ) -> WorkflowHandle[Any, Any]:
        """Start a workflow of a tenant, or join a running one, and wait until it completes.

        With `after_running` a running one is awaited first, because it started before this request.

        Raises: TemporalUnavailable, OperationTimeout, or WorkflowFailureError when it fails.
        """
        try:
            async with asyncio.timeout(self._timeout_seconds):
                if after_running:
                    await self._until_ended(options["id"])
                handle = await self._client.start_workflow(
                    run,
                    argument,
                    task_queue=ids.operation_queue(region),
                    id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                    id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                    search_attributes=visibility.of_tenant(tenant_id, region),
                    rpc_timeout=_RPC_TIMEOUT,
                    **options,
                )
                await handle.result()
        except TimeoutError:
            raise OperationTimeout from None
        except DOWN as failed:
            raise unavailable(failed) from failed
        return handle

    async def _until_ended(self, workflow_id: str) -> None:
        """Wait for the end of a workflow if it runs, successful or not."""
        try:
            await self._client.get_workflow_handle(workflow_id).result()
        except WorkflowFailureError:
            pass
        except RPCError as failed:
            if failed.status is not RPCStatusCode.NOT_FOUND:
                raise

    async def _update_tenant(
        self, tenant_id: str, update: Any, arguments: Sequence[Any], update_id: str | None = None
    ) -> None:
        """Update the tenant workflow, which runs as long as the tenant exists.

        A lost one is started again first, because an administrator must be able to lock the tenant at any time.
        """
        handle = self._client.get_workflow_handle(ids.tenant_workflow(tenant_id))
        request_id = update_id or uuid.uuid4().hex  # one id for all attempts, so that a lost response repeats nothing

        async def start() -> WorkflowUpdateHandle[Any]:
            return await handle.start_update(
                update, args=arguments, id=request_id, wait_for_stage=WorkflowUpdateStage.ACCEPTED
            )

        async def submit() -> WorkflowUpdateHandle[Any]:
            try:
                return await start()
            except RPCError as failed:
                if failed.status is not RPCStatusCode.NOT_FOUND:
                    raise
                await self._recover_tenant(tenant_id)
                return await start()

        try:
            await self._updates.complete(handle.id, submit)
        except DOWN as failed:
            if isinstance(failed, RPCError) and failed.status is RPCStatusCode.NOT_FOUND:
                raise TenantUnknown from None
            raise unavailable(failed) from failed

    async def _recover_tenant(self, tenant_id: str) -> None:
        """Start the lost workflows of a tenant, if it exists."""
        try:
            await self._client.execute_workflow(
                RecoverTenant.run,
                RecoverTenantInput(tenant_id=tenant_id),
                id=ids.recovery_workflow(tenant_id),
                task_queue=ids.PLATFORM_QUEUE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                rpc_timeout=_RPC_TIMEOUT,
            )
        except WorkflowFailureError as failed:
            raise unavailable(failed) from failed

    async def _update_service(  # noqa: PLR0913, PLR0917 - service and update
        self,
        tenant_id: str,
        region: str,
        service: str,
        update: Any,
        arguments: Sequence[EnrolInput] = (),
        update_id: str | None = None,
    ) -> None:
        """Update the workflow of a service; start it if none runs, because all its state is recorded."""
        request_id = update_id or uuid.uuid4().hex

        async def submit() -> WorkflowUpdateHandle[Any]:
            start = service_start(tenant_id, region, service)
            return await update_with_start(self._client, start, update, arguments, request_id)

        try:
            await self._updates.complete(ids.service_workflow(tenant_id, service), submit)
        except DOWN as failed:
            raise unavailable(failed) from failed
