"""The id that ties what is done to the audit record of it: through Temporal, the key server's audit and PostgreSQL.

A context variable, because between the edge that knows the id and the adapter that sends it along lie calls that have
no business with it. A process sets it at its edge: the worker to the id of the workflow whose activity it runs, the
crypto service and the marketplace to the request's. A task made from there inherits a copy, so requests that wait do
not disturb each other. Work handed to a thread MUST take the context along.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

correlation_id: ContextVar[str] = ContextVar("correlation_id", default="")
"""Empty where nothing is being done for anybody, as while a process starts."""

_ELSE = re.compile(r"[^A-Za-z0-9._:/-]")
_CUT = "~"
"""Stands for the middle of an id that was too long; no id of ours has it."""


@contextmanager
def correlated(to: str) -> Iterator[None]:
    """Have what is done in the block belong to an id."""
    token = correlation_id.set(to)
    try:
        yield
    finally:
        correlation_id.reset(token)


def shown(limit: int) -> str:
    """Return the current id as `cleaned` does."""
    return cleaned(correlation_id.get(), limit)


def cleaned(text: str, limit: int) -> str:
    """Return an id as it may stand in a header, a statement or a log: short, and of harmless characters.

    What is too long loses its middle: how it begins tells whose it is, how it ends which one it is.
    """
    clean = _ELSE.sub("_", text)
    if len(clean) <= limit:
        return clean
    half = limit // 2
    return clean[: limit - half - 1] + _CUT + clean[-half:]
