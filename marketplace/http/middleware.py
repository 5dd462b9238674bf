"""Where every request comes in and every answer goes out: one log line each, and no exception further."""

import time
import uuid

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from marketplace.http.problems import internal

CODE = "openkcm.code"
"""Where in the scope a handler leaves the code of its refusal, for the log."""
_LONGEST_PATH = 200

_log = structlog.get_logger(__name__)


class RequestMiddleware:
    """Logs neither headers, query nor body: signatures, tokens and customers' names travel in them."""

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
        except Exception:  # noqa: BLE001 - what it is goes to the log, the caller gets a reference
            reference = uuid.uuid4().hex
            _log.exception("request failed", reference=reference)
            scope[CODE] = "internal"
            if not status:
                await internal(reference)(scope, receive, note)
        source = scope.get("client")
        _log.info(
            "request answered",
            method=scope["method"],
            # As it came, percent-encoded: nothing in it can break a line.
            path=scope.get("raw_path", b"").decode("ascii", "replace")[:_LONGEST_PATH],
            status=int(status),
            code=scope.get(CODE),
            source=source[0] if source else None,
            milliseconds=round((time.perf_counter() - began) * 1000, 1),
        )
