"""Correlation id that links an operation to its audit records in Temporal, the key server's audit log and PostgreSQL.

A context variable carries the id, because most calls between the entry point and the adapter do not use it. Each
process sets it at its entry point: the worker to the id of the workflow whose activity it runs, the crypto service and
the marketplace to the id of the request. A new task inherits a copy, so concurrent requests do not affect each other.
Work in another thread MUST copy the context.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

correlation_id: ContextVar[str] = ContextVar("correlation_id", default="")
"""Empty outside of requests and activities, as while a process starts."""

_ELSE = re.compile(r"[^A-Za-z0-9._:/-]")
_CUT = "~"
"""Replaces the middle of an id that is too long; ids of OpenKCM do not contain it."""


@contextmanager
def correlated(to: str) -> Iterator[None]:
    """Set the correlation id for the block."""
    token = correlation_id.set(to)
    try:
        yield
    finally:
        correlation_id.reset(token)


def shown(limit: int) -> str:
    """Return the current id, cleaned and shortened to `limit` characters."""
    return cleaned(correlation_id.get(), limit)


def cleaned(text: str, limit: int) -> str:
    """Return an id that is safe in a header, a statement or a log: at most `limit` characters from a fixed set.

    A longer id loses its middle: its beginning names the owner and its end the operation.
    """
    clean = _ELSE.sub("_", text)
    if len(clean) <= limit:
        return clean
    half = limit // 2
    return clean[: limit - half - 1] + _CUT + clean[-half:]
