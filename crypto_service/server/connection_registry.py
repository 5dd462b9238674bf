"""The open connections of this process: limits, deadlines, and the repeated check of callers after a change."""

import asyncio
import resource
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from core.errors.services import ClientNotAuthorized
from core.errors.tenants import TenantNotOperational
from crypto_service.interfaces import ClientIdentity, Dependencies
from database.postgres.change_feed import tenant_hash
from openkcm.errors import OpenKcmError

if TYPE_CHECKING:
    from crypto_service.server.connection import Connection

_CONNECTIONS = 8192
_HANDSHAKES = 512
SMALL_BYTES = 16_384
"""Bytes of a message for which there is always room."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits of one process for its clients; all times in seconds."""

    connections: int = _CONNECTIONS
    connections_of_tenant: int = 1024
    handshakes: int = _HANDSHAKES
    """Connections of one port that are in their TLS handshake."""
    handshake_seconds: float = 10.0
    identify_seconds: float = 10.0
    message_bytes: int = 192 * 1024 * 1024
    """Bytes of messages that are incomplete, being answered or not read; a tenant may have as many as are free."""
    message_seconds: float = 30.0
    """Time for a client to read a response, also the last one, and the recommended time for the rest of a message."""
    idle_seconds: float = 300.0
    close_seconds: float = 2.0
    """Time for a client to end a connection that this process has closed, after it has received all that was sent."""
    check_seconds: float = 0.5
    """Interval between checks of deadlines: one timer for all, because a timer per connection costs every request."""

    @classmethod
    def of_process(cls) -> "ConnectionLimits":
        """Return limits for which the files that this process may open suffice."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if files == resource.RLIM_INFINITY:
            return cls()
        return cls(connections=min(_CONNECTIONS, files // 2), handshakes=min(_HANDSHAKES, files // 8))


class ConnectionRegistry:
    """The registry. MUST be created on the running loop, once per process; `stop` ends its timer."""

    def __init__(self, parts: Dependencies, bounds: ConnectionLimits | None = None) -> None:
        self.bounds = bounds or ConnectionLimits()
        self.loop = asyncio.get_running_loop()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.opened, self.refused = 0, 0
        self.used_at = 0.0
        """When an established connection last received data, by the loop's clock."""
        self.first_answers = 0
        """Connections that have received the response to a complete request."""
        self.is_ending = False
        """Whether each connection ends after its next response."""
        self._callers = parts.callers
        self._open: set[Connection] = set()
        self._of_tenant: defaultdict[str, set[Connection]] = defaultdict(set)
        self._held: Counter[str] = Counter()
        self.held = 0
        """Bytes that all connections hold."""
        self._empty = asyncio.Event()
        self._empty.set()
        self._checks: dict[str, bool] = {}
        self._timer = self.loop.call_later(self.bounds.check_seconds, self._check_deadlines)
        parts.changes.subscribe(self.forget)

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, connection: "Connection") -> bool:
        """Count a new connection; return False when the process has reached its limit."""
        if len(self._open) >= self.bounds.connections:
            self.refused += 1
            return False
        self._open.add(connection)
        self._empty.clear()
        self.opened += 1
        return True

    def join(self, connection: "Connection") -> bool:
        """Record the tenant of a connection; return False when the tenant has reached its limit."""
        connection.tenant_mark = tenant_hash(connection.caller.tenant_id)
        members = self._of_tenant[connection.tenant_mark]
        if len(members) >= self.bounds.connections_of_tenant:
            return False
        members.add(connection)
        return True

    def hold(self, connection: "Connection", size: int) -> bool:
        """Let a connection hold `size` bytes instead of those it held; return False when its tenant has no room.

        A tenant may hold as many bytes as are free, so that n tenants leave a share of n + 1 free for all others.
        """
        if connection not in self._open:
            size = 0  # it has ended while a response was pending
        more, tenant = size - connection.held, connection.tenant_mark
        free = self.bounds.message_bytes - self.held - more
        if more > 0 and size > SMALL_BYTES and self._held[tenant] + more > free:
            self.refused += 1
            return False
        connection.held = size
        self.held += more
        self._held[tenant] += more
        if not self._held[tenant]:
            del self._held[tenant]
        return True

    def leave(self, connection: "Connection") -> None:
        """Remove a connection that has ended."""
        self._open.discard(connection)
        if not self._open:
            self._empty.set()
        self.hold(connection, 0)
        if connection.identified:
            tenant = connection.tenant_mark
            members = self._of_tenant.get(tenant, set())
            members.discard(connection)
            if not members:
                self._of_tenant.pop(tenant, None)

    def forget(self, tenant: str | None) -> None:
        """Check again the callers of a tenant's connections (by `tenant_hash`), or of all connections."""
        # Deferred: the cache of callers is notified in the same turn of the loop, possibly after this registry.
        self.loop.call_soon(self._check_callers, (tenant,) if tenant is not None else tuple(self._of_tenant))

    def end_after_responses(self) -> None:
        """End each connection after its next response; the client then uses another instance."""
        self.is_ending = True

    async def drain(self, seconds: float) -> None:
        """Close every connection after its pending responses; after `seconds` abort those that remain."""
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

    def _check_deadlines(self) -> None:
        now = self.loop.time()
        for connection in tuple(self._open):
            connection.end_if_overdue(now)
        self._timer = self.loop.call_later(self.bounds.check_seconds, self._check_deadlines)

    def _check_callers(self, tenants: Iterable[str]) -> None:
        for tenant in tenants:
            if tenant in self._checks:
                self._checks[tenant] = True
            elif tenant in self._of_tenant:
                self._checks[tenant] = False
                task = self.loop.create_task(self._check_until_unchanged(tenant))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)

    async def _check_until_unchanged(self, tenant: str) -> None:
        """Check one tenant at a time: a busy tenant changes often, and each change causes a notification."""
        try:
            while True:
                self._checks[tenant] = False
                await self._check_tenant(tenant)
                if not self._checks[tenant]:
                    return
        finally:
            del self._checks[tenant]

    async def _check_tenant(self, tenant: str) -> None:
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
                # Nothing is decrypted meanwhile: each request identifies its caller again and gets the same error.
                log.warning("connections not checked again", code=failed.code, connections=len(connections))
                continue
            for connection in connections:
                connection.recheck(outcome)
