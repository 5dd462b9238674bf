"""Connections that detect a silent peer: a deadline for each call, and the liveness options of TCP.

A stopped backend acknowledges every packet, and so does a relay that drops the data behind it. TCP then reports a
healthy connection, and the server's own timeouts never arrive. Only a deadline in the client ends such a call.
"""

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Self

from psycopg import Connection, OperationalError
from psycopg.abc import RV, PQGen
from psycopg.rows import TupleRow

STATEMENT_SECONDS = 7
"""The server's limit for one statement."""

CALL_SECONDS = 8.0
"""The client's limit for one call, longer than the server's: a slow statement ends with the server's error."""

PAUSE_SECONDS = 4
"""How long a process may pause in a transaction that holds what other transactions of the tenant need.

A process that no longer responds must not keep the tenant from being locked: PostgreSQL ends its transaction before
the next one gives up (`lock_timeout`).
"""

# TCP detects a lost peer within about ten seconds, also on a connection that waits for nothing.
LIVENESS: Mapping[str, Any] = MappingProxyType(
    {
        "connect_timeout": 2,
        "keepalives_idle": 4,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10000,
    }
)

_INTERVAL_SECONDS = 0.1
"""How often a wait checks for interrupts; the default of psycopg."""


class CallTimeout(OperationalError):
    """The peer did not respond within the deadline; the connection is closed."""


class NotConnected(OperationalError):
    """No session could be opened; the message is that of the last attempt."""


class DeadlineConnection(Connection[TupleRow]):
    """A connection whose calls end after `call_seconds` with CallTimeout, whether the peer responds or not.

    Afterwards it is closed, because the state of the transaction is unknown. A stopped backend rolls back when it
    continues, except for a COMMIT that it has received.
    """

    call_seconds = CALL_SECONDS
    schema_checked_at = float("-inf")
    """The monotonic time of the last comparison of the schema with the process."""

    @classmethod
    def connect(  # type: ignore[override]  # fewer parameters
        cls,
        conninfo: str = "",
        *,
        password: str | None = None,
        report_failure: Callable[[OperationalError], None] = lambda _failed: None,
        **options: Any,
    ) -> Self:
        """Connect with a password; each further line of it is tried when the server refuses the one before.

        `report_failure` receives the error that this raises: a pool in which it happens raises only PoolTimeout.
        """
        candidate, *remaining = (password or "").split("\n")
        for next_candidate in remaining:
            try:
                return super().connect(conninfo, password=candidate, **options)
            except OperationalError:
                candidate = next_candidate
        try:
            return super().connect(conninfo, password=candidate or None, **options)
        except OperationalError as failed:
            report_failure(failed)
            raise

    def wait(self, gen: PQGen[RV], interval: float = _INTERVAL_SECONDS, timeout: float | None = None) -> RV:
        """Wait for one call; `timeout` in seconds is that of a caller for which its end is no error."""
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        deadline = time.monotonic() + self.call_seconds
        try:
            return super().wait(gen, interval, self.call_seconds)
        except OperationalError:
            if time.monotonic() < deadline:
                raise
            self.pgconn.finish()
            raise CallTimeout(f"no response within {self.call_seconds:g} s") from None
