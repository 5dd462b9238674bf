"""Logging of each request, and the response to unexpected exceptions."""

import time
import uuid

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from marketplace.http.problems import internal

CODE = "openkcm.code"
"""Key in the scope under which a handler stores its error code for the log."""
_LONGEST_PATH = 200
_CHECKS = frozenset({b"/healthz", b"/readyz"})
"""Requests of load balancers, several a second: their successes would fill the log."""

_log = structlog.get_logger(__name__)


class RequestMiddleware:
    """Logs one line per request, without headers, query and body: they contain signatures, tokens and names.

    Successful checks of load balancers are not logged.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note)
        except Exception:  # noqa: BLE001 - the log has the details, the caller gets a reference
            reference = uuid.uuid4().hex
            _log.exception("request failed", reference=reference)
            scope[CODE] = "internal"
            if not status:
                await internal(reference)(scope, receive, note)
        if status == 200 and scope.get("raw_path") in _CHECKS:
            return
        source = scope.get("client")
        _log.info(
            "request completed",
            method=scope["method"],
            # As received, percent-encoded: it cannot contain a line break.
            path=scope.get("raw_path", b"").decode("ascii", "replace")[:_LONGEST_PATH],
            status=int(status),
            code=scope.get(CODE),
            source=source[0] if source else None,
            milliseconds=round((time.perf_counter() - began) * 1000, 1),
        )
