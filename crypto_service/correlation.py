"""Sources of a request's correlation id (core/correlation.py): the caller's header if it is safe to log, else random.

A safe id has at most 64 characters of `[A-Za-z0-9._-]`. A server sets it before it starts a request.
"""

import os
import re

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_NO_TRACE = b"0" * 32


def new_correlation_id() -> str:
    """Return a random id for a request without one."""
    return os.urandom(16).hex()


def from_request_id(value: bytes) -> str | None:
    """Return an X-Request-Id that is safe to log, else None: the header is then ignored."""
    return value.decode("ascii") if _REQUEST_ID.fullmatch(value) else None


def from_traceparent(value: bytes) -> str | None:
    """Return the trace id of a traceparent (W3C Trace Context, section 3.2); None when it is malformed."""
    match = _TRACEPARENT.fullmatch(value)
    return match[1].decode("ascii") if match and match[1] != _NO_TRACE else None
