"""How the platform's own services are connected: through the gateway, as anybody else connects a service."""

import asyncio
from collections.abc import Awaitable, Callable

from activities.probes import ProbeNotConnected
from tenancy.errors import CallerError
from workflows.gateway import Gateway


class GatewayConnections:
    """`activities.probes.ServiceConnections`. Called from an activity's thread, with a connection for each call.

    The activities of the service's workflow need a thread of the same pool: whoever examines many tenants at once
    MUST leave some.
    """

    def __init__(self, temporal_address: str | None, promise_seconds: float) -> None:
        self._address = temporal_address
        self._promise_seconds = promise_seconds

    def connect(self, tenant_id: str, region: str, service: str, request_id: str) -> None:
        self._ask(lambda gateway: gateway.connect_service(tenant_id, region, service, request_id))

    def disconnect(self, tenant_id: str, region: str, service: str) -> None:
        self._ask(lambda gateway: gateway.disconnect_service(tenant_id, region, service))

    def _ask(self, question: Callable[[Gateway], Awaitable[None]]) -> None:
        async def ask() -> None:
            await question(await Gateway.connect(self._address, self._promise_seconds))

        try:
            asyncio.run(ask())
        except CallerError as refused:
            raise ProbeNotConnected from refused
