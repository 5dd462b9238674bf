"""Where a request's correlation id (core/correlation.py) comes from: the caller's own when it may stand in a log.

At most 64 characters of `[A-Za-z0-9._-]`. A front sets it before it drives a request.
"""

import os
import re

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_NO_TRACE = b"0" * 32


def new_correlation_id() -> str:
    """Return an id for a request that brought none."""
    return os.urandom(16).hex()


def from_request_id(value: bytes) -> str | None:
    """Return an X-Request-Id when it is one that may stand in a log; None otherwise, and it is as if not sent."""
    return value.decode("ascii") if _REQUEST_ID.fullmatch(value) else None


def from_traceparent(value: bytes) -> str | None:
    """Return the trace id of a traceparent (W3C Trace Context, section 3.2); None when it is malformed."""
    match = _TRACEPARENT.fullmatch(value)
    return match[1].decode("ascii") if match and match[1] != _NO_TRACE else None
