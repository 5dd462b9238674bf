"""Every open connection of this process: bounds, time limits, and the second look when something changed."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from core.errors.services import ClientNotAuthorized
from core.errors.tenants import TenantNotOperational
from crypto_service.interfaces import ClientIdentity, Dependencies
from database.postgres.notify import tenant_hash
from openkcm.errors import OpenKcmError

if TYPE_CHECKING:
    from crypto_service.server.connection import Connection

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one process grants its clients; all times in seconds."""

    connections: int = 8192
    connections_of_tenant: int = 1024
    handshake_seconds: float = 10.0
    """For `create_server(ssl_handshake_timeout=…)`; the loop enforces it before there is a connection."""
    identify_seconds: float = 10.0
    message_seconds: float = 30.0
    """For a client to take an answer that is in its way, and what a front should grant for the rest of a message."""
    idle_seconds: float = 300.0
    close_seconds: float = 5.0
    look_seconds: float = 0.5
    """How often deadlines are looked at: one timer for all, because one each would cost every request."""


class ConnectionRegistry:
    """MUST be made on the running loop, once per process; `stop` ends its timer."""

    def __init__(self, parts: Dependencies, bounds: ConnectionLimits | None = None) -> None:
        self.bounds = bounds or ConnectionLimits()
        self.loop = asyncio.get_running_loop()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.opened, self.refused = 0, 0
        self._callers = parts.callers
        self._open: set[Connection] = set()
        self._of_tenant: defaultdict[str, set[Connection]] = defaultdict(set)
        self._empty = asyncio.Event()
        self._empty.set()
        self._looking_again: dict[str, bool] = {}
        self._timer = self.loop.call_later(self.bounds.look_seconds, self._look)
        parts.changes.subscribe(self.forget)

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, connection: "Connection") -> bool:
        """Count a new connection; False when the process has all it takes."""
        if len(self._open) >= self.bounds.connections:
            self.refused += 1
            return False
        self._open.add(connection)
        self._empty.clear()
        self.opened += 1
        return True

    def join(self, connection: "Connection") -> bool:
        """Note whose connection it is; False when the tenant has all it gets."""
        connection.tenant_mark = tenant_hash(connection.caller.tenant_id)
        members = self._of_tenant[connection.tenant_mark]
        if len(members) >= self.bounds.connections_of_tenant:
            return False
        members.add(connection)
        return True

    def leave(self, connection: "Connection") -> None:
        """Forget a connection that has ended."""
        self._open.discard(connection)
        if not self._open:
            self._empty.set()
        if connection.identified:
            tenant = connection.tenant_mark
            members = self._of_tenant.get(tenant, set())
            members.discard(connection)
            if not members:
                self._of_tenant.pop(tenant, None)

    def forget(self, tenant: str | None) -> None:
        """Look again at the connections of a tenant (its `mark`), or of all."""
        # Not at once: whoever caches callers is told in the same turn of the loop, and may be told after us.
        self.loop.call_soon(self._look_again, (tenant,) if tenant is not None else tuple(self._of_tenant))

    async def drain(self, seconds: float) -> None:
        """Close every connection, those that are owed an answer after they got it; `seconds` later without asking."""
        for connection in tuple(self._open):
            connection.retire()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), seconds)
        for connection in tuple(self._open):
            connection.abort()

    def stop(self) -> None:
        self._timer.cancel()
        for task in self.tasks:
            task.cancel()

    def _look(self) -> None:
        now = self.loop.time()
        for connection in tuple(self._open):
            if connection.overdue(now):
                if connection.closing:
                    connection.abort()
                else:
                    connection.close()
        self._timer = self.loop.call_later(self.bounds.look_seconds, self._look)

    def _look_again(self, tenants: Iterable[str]) -> None:
        for tenant in tenants:
            if tenant in self._looking_again:
                self._looking_again[tenant] = True
            elif tenant in self._of_tenant:
                self._looking_again[tenant] = False
                task = self.loop.create_task(self._look_until_calm(tenant))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)

    async def _look_until_calm(self, tenant: str) -> None:
        """One look at a time for each tenant: a busy one changes its objects often, and each change tells us."""
        try:
            while True:
                self._looking_again[tenant] = False
                await self._look_at(tenant)
                if not self._looking_again[tenant]:
                    return
        finally:
            del self._looking_again[tenant]

    async def _look_at(self, tenant: str) -> None:
        by_certificate: defaultdict[str, list[Connection]] = defaultdict(list)
        for connection in self._of_tenant.get(tenant, ()):
            by_certificate[connection.caller.serial].append(connection)
        for connections in by_certificate.values():
            outcome: ClientIdentity | ClientNotAuthorized | TenantNotOperational
            try:
                outcome = await self._callers.refresh(connections[0].caller)
            except (ClientNotAuthorized, TenantNotOperational) as refused:
                outcome = refused
            except OpenKcmError as failed:
                # Nothing opens meanwhile: each request asks for its caller again and gets the same error.
                log.warning("connections not looked at again", code=failed.code, connections=len(connections))
                continue
            for connection in connections:
                connection.recheck(outcome)
