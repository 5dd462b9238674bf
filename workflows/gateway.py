"""The one door into Temporal for other processes: workflow ids, start-or-signal, updates.

What passes through carries ids only, so the processes outside need no key for workflow payloads. Every call is safe
to repeat: the workflow id is the tenant, and events and updates are told apart by their own ids.
"""

from datetime import timedelta
from typing import cast

from temporalio.client import Client, WorkflowUpdateFailedError
from temporalio.common import (
    Priority,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig, ClientConnectConfig
from temporalio.exceptions import ApplicationError
from temporalio.service import GrpcCompression, RPCError, RPCStatusCode

from tenancy import ids
from tenancy.errors import CallerError, SettingsInvalid, TemporalUnavailable, TenantUnknown
from tenancy.events import EventKind
from tenancy.lifecycle import State
from tenancy.messages import MarketplaceSignal, TenantInput
from workflows import visibility
from workflows.tenant import Tenant

_RPC_TIMEOUT = timedelta(seconds=5)
_ENABLE_PRIORITY = 2

_THIS_MACHINE = ("127.", "localhost:", "[::1]:")

_DOWN = (RPCError, RuntimeError)
"""What a call raises when Temporal is not there; RuntimeError is a lazy client whose first connection fails."""


class UpdateRefused(CallerError):
    """An update was refused by its validator; carries the validator's own code, message and hint."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.code = code  # type: ignore[misc] # the refusal of a workflow brings its code with it


class Gateway:
    def __init__(self, client: Client, promise_seconds: float) -> None:
        self._client = client
        self._promise_seconds = promise_seconds

    @classmethod
    async def connect(cls, address: str | None, promise_seconds: float) -> "Gateway":
        """Return a gateway to `address`, or to what Temporal's own configuration names when it is None.

        The connection is made at the first call, so a Temporal that is down delays nobody's start.
        """
        return cls(await connect_client(address), promise_seconds)

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
                priority=Priority(priority_key=_ENABLE_PRIORITY, fairness_key=tenant_id),
                rpc_timeout=_RPC_TIMEOUT,
            )
        except _DOWN as failed:
            raise TemporalUnavailable from failed

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


async def connect_client(address: str | None) -> Client:
    """Return a lazy client without a payload codec, for those outside the worker."""
    return await Client.connect(**connection(address), lazy=True, data_converter=pydantic_data_converter)


class Connection(ClientConnectConfig, total=False):
    """How to connect, as the arguments of `Client.connect`."""

    grpc_compression: GrpcCompression


def connection(address: str | None) -> Connection:
    """Return how to connect: to `address`, or as Temporal's own files and environment say when it is None.

    Raises:
        SettingsInvalid: Temporal's configuration names a profile or file that is not there.
    """
    if address is not None:
        config = Connection(target_host=address)
    else:
        try:
            config = cast("Connection", ClientConfig.load_client_connect_config())
        except RuntimeError as unreadable:
            raise SettingsInvalid(f"temporal configuration: {unreadable}", "see TEMPORAL_PROFILE") from None
        config.setdefault("target_host", "127.0.0.1:7233")
    if config["target_host"].startswith(_THIS_MACHINE):
        # Compression pays on a network; here it only costs both ends, a tenth of the server's CPU.
        config["grpc_compression"] = GrpcCompression.NONE
    return config


def _as_refusal(failed: WorkflowUpdateFailedError) -> CallerError:
    cause = failed.cause
    if not isinstance(cause, ApplicationError):
        raise TemporalUnavailable
    message, _, hint = cause.message.partition("\n")
    return UpdateRefused(cause.type or "refused", message, hint)
