"""The gateway from the pages to Temporal, shared by the threads of Streamlit.

A Temporal client belongs to one event loop, so all threads share one loop in one thread, and every call has a timeout.
It connects at first use: the dashboard starts and shows data from PostgreSQL while Temporal is down.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from core.errors.platform import TemporalUnavailable
from core.messages.keys import RotateRequest
from core.messages.notifications import DeliverInput
from core.messages.tenants import OffboardRequest, StatusChange
from core.tenants.policy import TenantPolicy
from openkcm.errors import PlatformError
from workflows.client.workflow_client import WorkflowClient

log = structlog.get_logger()

_CALL_TIMEOUT_SECONDS = 90.0
"""Longer than the timeout of the client, so that the client's own error arrives first."""


class WorkflowBridge:
    """Requests to workflows. Every call waits for its result and is idempotent.

    Each raises TemporalUnavailable, OperationQueued while no worker accepts it, OperationTimeout while it runs, or
    UpdateRejected with the message of the workflow.

    Thread-safe.
    """

    def __init__(self, connect: Callable[[], Awaitable[WorkflowClient]]) -> None:
        self._connect = connect
        self._gateway: WorkflowClient | None = None
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="temporal", daemon=True).start()

    def connect_service(self, tenant_id: str, region: str, service: str, request_id: str, *, another_key: bool) -> None:
        """Connect a service as the stored request says; its certificate is stored when this returns.

        Without `another_key` a connected service gets no certificate for another key.
        """
        self._ask(
            lambda gateway: gateway.connect_service(tenant_id, region, service, request_id, another_key=another_key)
        )

    def renew_service(self, tenant_id: str, region: str, service: str) -> None:
        self._ask(lambda gateway: gateway.renew_service(tenant_id, region, service))

    def disconnect_service(self, tenant_id: str, region: str, service: str) -> None:
        self._ask(lambda gateway: gateway.disconnect_service(tenant_id, region, service))

    def change_standing(self, tenant_id: str, move: StatusChange) -> None:
        """Suspend, resume, lock or unlock a tenant; the change is in effect when this returns."""
        self._ask(lambda gateway: gateway.change_standing(tenant_id, move))

    def preflight_root_key(self, tenant_id: str, request_id: str) -> None:
        """Run the preflight of a stored request; its result is stored when this returns."""
        self._ask(lambda gateway: gateway.preflight_root_key(tenant_id, request_id))

    def change_root_key(self, tenant_id: str, request_id: str) -> None:
        """Re-wrap every service key with the root key of a stored request; it is in effect when this returns.

        UpdateRejected has the code of the cause; the former root key then remains in effect. After OperationTimeout the
        change continues.
        """
        self._ask(lambda gateway: gateway.change_root_key(tenant_id, request_id))

    def rotate_keys(self, tenant_id: str, request: RotateRequest) -> None:
        """Rotate keys of a tenant; the rotation is complete and its result is stored when this returns.

        UpdateRejected has the code of the cause; all keys then continue to work. After OperationTimeout the rotation
        continues.
        """
        self._ask(lambda gateway: gateway.rotate_keys(tenant_id, request))

    def retire_service_key(self, tenant_id: str, service: str, version: int) -> None:
        """Destroy an inactive version of a service key, irreversibly."""
        self._ask(lambda gateway: gateway.retire_service_key(tenant_id, service, version))

    def roll_authority(self, tenant_id: str) -> None:
        """Replace the issuing tenant CA; certificates of the former CA stay valid until they expire."""
        self._ask(lambda gateway: gateway.roll_authority(tenant_id))

    def offboard(self, tenant_id: str, request: OffboardRequest) -> None:
        """Start offboarding; all cryptographic operations are rejected when this returns."""
        self._ask(lambda gateway: gateway.offboard(tenant_id, request))

    def restore(self, tenant_id: str) -> None:
        """Restore an offboarding tenant; its former state is in effect when this returns."""
        self._ask(lambda gateway: gateway.restore(tenant_id))

    def change_policy(self, tenant_id: str, policy: TenantPolicy) -> None:
        """Replace the tenant policy; it is in effect when this returns."""
        self._ask(lambda gateway: gateway.change_policy(tenant_id, policy))

    def propose(self, tenant_id: str, approval_id: str) -> None:
        """Submit a stored request for approval; it is pending when this returns."""
        self._ask(lambda gateway: gateway.propose(tenant_id, approval_id))

    def decide(self, tenant_id: str, approval_id: str) -> None:
        """Apply the votes on a request; an approved action is complete when this returns."""
        self._ask(lambda gateway: gateway.decide(tenant_id, approval_id))

    def make_report(self, tenant_id: str, region: str, report_id: str) -> None:
        """Create the report of a stored request; its files are stored when this returns.

        After OperationTimeout the report is created as soon as its dependencies are up. The same id creates no second
        report.
        """
        self._ask(lambda gateway: gateway.make_report(tenant_id, region, report_id))

    def deliver_notification(self, tenant_id: str, region: str, request: DeliverInput) -> None:
        """Send a test to a target, or attempt a message again; the delivery log has the result when this returns."""
        self._ask(lambda gateway: gateway.deliver_notification(tenant_id, region, request))

    def retry(self, tenant_id: str) -> None:
        """Provision a failed tenant again."""
        self._ask(lambda gateway: gateway.retry(tenant_id))

    def _ask(self, request: Callable[[WorkflowClient], Coroutine[Any, Any, None]]) -> None:
        async def ask() -> None:
            if self._gateway is None:
                self._gateway = await self._connect()
            await request(self._gateway)

        asked = asyncio.run_coroutine_threadsafe(ask(), self._loop)
        try:
            asked.result(_CALL_TIMEOUT_SECONDS)
        except TimeoutError:
            asked.cancel()
            raise TemporalUnavailable from None
        except PlatformError as failed:
            # A page says it in the customer's words; the operator needs the component.
            log.warning("request not completed", code=failed.code, problem=failed.message, hint=failed.hint)
            raise
