"""The gateway into Temporal for pages, which run in threads of Streamlit's own.

A Temporal client belongs to one event loop, so there is one loop in one thread for all of them, and every call has an
end. It connects when it is first needed: the dashboard starts and shows what PostgreSQL knows while Temporal is down.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from tenancy.errors import TemporalUnavailable
from tenancy.leaving_messages import LeaveRequest
from tenancy.messages import StandingMove
from tenancy.policy import TenantPolicy
from tenancy.rotation_messages import RotateRequest
from workflows.gateway import Gateway

_PATIENCE_SECONDS = 90.0
"""More than the gateway itself waits for a service, so that its own answer comes first."""


class TemporalBridge:
    """Implements `interfaces.Door`; safe to share between threads."""

    def __init__(self, connect: Callable[[], Awaitable[Gateway]]) -> None:
        self._connect = connect
        self._gateway: Gateway | None = None
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="temporal", daemon=True).start()

    def connect_service(self, tenant_id: str, region: str, service: str, request_id: str) -> None:
        self._ask(lambda gateway: gateway.connect_service(tenant_id, region, service, request_id))

    def renew_service(self, tenant_id: str, region: str, service: str) -> None:
        self._ask(lambda gateway: gateway.renew_service(tenant_id, region, service))

    def disconnect_service(self, tenant_id: str, region: str, service: str) -> None:
        self._ask(lambda gateway: gateway.disconnect_service(tenant_id, region, service))

    def change_standing(self, tenant_id: str, move: StandingMove) -> None:
        self._ask(lambda gateway: gateway.change_standing(tenant_id, move))

    def preflight_root_key(self, tenant_id: str, request_id: str) -> None:
        self._ask(lambda gateway: gateway.preflight_root_key(tenant_id, request_id))

    def change_root_key(self, tenant_id: str, request_id: str) -> None:
        self._ask(lambda gateway: gateway.change_root_key(tenant_id, request_id))

    def rotate_keys(self, tenant_id: str, request: RotateRequest) -> None:
        self._ask(lambda gateway: gateway.rotate_keys(tenant_id, request))

    def retire_service_key(self, tenant_id: str, service: str, version: int) -> None:
        self._ask(lambda gateway: gateway.retire_service_key(tenant_id, service, version))

    def roll_authority(self, tenant_id: str) -> None:
        self._ask(lambda gateway: gateway.roll_authority(tenant_id))

    def offboard(self, tenant_id: str, request: LeaveRequest) -> None:
        self._ask(lambda gateway: gateway.offboard(tenant_id, request))

    def restore(self, tenant_id: str) -> None:
        self._ask(lambda gateway: gateway.restore(tenant_id))

    def change_policy(self, tenant_id: str, policy: TenantPolicy) -> None:
        self._ask(lambda gateway: gateway.change_policy(tenant_id, policy))

    def propose(self, tenant_id: str, approval_id: str) -> None:
        self._ask(lambda gateway: gateway.propose(tenant_id, approval_id))

    def decide(self, tenant_id: str, approval_id: str) -> None:
        self._ask(lambda gateway: gateway.decide(tenant_id, approval_id))

    def make_report(self, tenant_id: str, region: str, report_id: str) -> None:
        self._ask(lambda gateway: gateway.make_report(tenant_id, region, report_id))

    def retry(self, tenant_id: str) -> None:
        self._ask(lambda gateway: gateway.retry(tenant_id))

    def _ask(self, what: Callable[[Gateway], Coroutine[Any, Any, None]]) -> None:
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
