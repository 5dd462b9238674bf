"""What the pages may ask of the outside; `wiring` chooses who answers.

The gateway into Temporal for pages, which run in threads of Streamlit's own.

A Temporal client belongs to one event loop, so there is one loop in one thread for all of them, and every call has an
end. It connects when it is first needed: the dashboard starts and shows what PostgreSQL knows while Temporal is down.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from core.errors.platform import TemporalUnavailable
from core.messages.keys import RotateRequest
from core.messages.tenants import OffboardRequest, StatusChange
from core.tenants.policy import TenantPolicy
from workflows.client.workflow_client import WorkflowClient

_PATIENCE_SECONDS = 90.0
"""More than the gateway itself waits for a service, so that its own answer comes first."""


class WorkflowBridge:
    """Requests to workflows. Every call waits for its answer and is safe to repeat.

    Raises, all of them: TemporalUnavailable, OperationTimeout, and UpdateRejected with the workflow's own words.

    Safe to share between threads.
    """

    def __init__(self, connect: Callable[[], Awaitable[WorkflowClient]]) -> None:
        self._connect = connect
        self._gateway: WorkflowClient | None = None
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="temporal", daemon=True).start()

    def connect_service(self, tenant_id: str, region: str, service: str, request_id: str) -> None:
        """Connect a service as the stored request says; its certificate is on record when this returns."""
        self._ask(lambda gateway: gateway.connect_service(tenant_id, region, service, request_id))

    def renew_service(self, tenant_id: str, region: str, service: str) -> None:
        self._ask(lambda gateway: gateway.renew_service(tenant_id, region, service))

    def disconnect_service(self, tenant_id: str, region: str, service: str) -> None:
        self._ask(lambda gateway: gateway.disconnect_service(tenant_id, region, service))

    def change_standing(self, tenant_id: str, move: StatusChange) -> None:
        """Suspend, resume, lock or unlock a tenant; it is so when this returns."""
        self._ask(lambda gateway: gateway.change_standing(tenant_id, move))

    def preflight_root_key(self, tenant_id: str, request_id: str) -> None:
        """Try the root key of a stored request; what was found is on record when this returns."""
        self._ask(lambda gateway: gateway.preflight_root_key(tenant_id, request_id))

    def change_root_key(self, tenant_id: str, request_id: str) -> None:
        """Put every service key under the root key of a stored request; it is in force when this returns.

        Refused with the code of what stopped it, after which the former key is in force; OperationTimeout: it goes on.
        """
        self._ask(lambda gateway: gateway.change_root_key(tenant_id, request_id))

    def rotate_keys(self, tenant_id: str, request: RotateRequest) -> None:
        """Rotate keys of a tenant; it is done when this returns, and what became of it is on record.

        Refused with the code of what stopped it, after which every key that worked works; OperationTimeout: it goes on.
        """
        self._ask(lambda gateway: gateway.rotate_keys(tenant_id, request))

    def retire_service_key(self, tenant_id: str, service: str, version: int) -> None:
        """Destroy a version of a service key that encrypts nothing any more, for good."""
        self._ask(lambda gateway: gateway.retire_service_key(tenant_id, service, version))

    def roll_authority(self, tenant_id: str) -> None:
        """Have new certificates come from another authority; those of the one before go on until they expire."""
        self._ask(lambda gateway: gateway.roll_authority(tenant_id))

    def offboard(self, tenant_id: str, request: OffboardRequest) -> None:
        """Let a tenant leave; nothing of it works when this returns, and until the grace is over it can be restored."""
        self._ask(lambda gateway: gateway.offboard(tenant_id, request))

    def restore(self, tenant_id: str) -> None:
        """Bring a tenant back that is leaving; it stands as before when this returns."""
        self._ask(lambda gateway: gateway.restore(tenant_id))

    def change_policy(self, tenant_id: str, policy: TenantPolicy) -> None:
        """Put another policy in force; it is so when this returns."""
        self._ask(lambda gateway: gateway.change_policy(tenant_id, policy))

    def propose(self, tenant_id: str, approval_id: str) -> None:
        """Let a stored request wait for a second person; it does when this returns."""
        self._ask(lambda gateway: gateway.propose(tenant_id, approval_id))

    def decide(self, tenant_id: str, approval_id: str) -> None:
        """Do what the votes on a request say; what was approved is done when this returns."""
        self._ask(lambda gateway: gateway.decide(tenant_id, approval_id))

    def make_report(self, tenant_id: str, region: str, report_id: str) -> None:
        """Have a stored request made into a report; its files are on record when this returns.

        OperationTimeout: it is made all the same, or waits for what is down. The same id again makes no other.
        """
        self._ask(lambda gateway: gateway.make_report(tenant_id, region, report_id))

    def retry(self, tenant_id: str) -> None:
        """Provision a failed tenant again."""
        self._ask(lambda gateway: gateway.retry(tenant_id))

    def _ask(self, what: Callable[[WorkflowClient], Coroutine[Any, Any, None]]) -> None:
        async def ask() -> None:
            if self._gateway is None:
                self._gateway = await self._connect()
            await what(self._gateway)

        asked = asyncio.run_coroutine_threadsafe(ask(), self._loop)
        try:
            asked.result(_PATIENCE_SECONDS)
        except TimeoutError:
            asked.cancel()
            raise TemporalUnavailable from None
