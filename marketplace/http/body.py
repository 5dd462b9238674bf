"""Reading of a request's body with a limit."""

import asyncio

from fastapi import Request
from starlette.requests import ClientDisconnect

from core.errors.requests import BodyTooLarge, MalformedEvent

_BODY_SECONDS = 10.0


async def read_body(request: Request, limit: int) -> bytes:
    """Return the raw body; stop reading at the limit, before a large body is in memory.

    Raises:
        BodyTooLarge: it exceeds the limit.
        MalformedEvent: it did not arrive completely.
    """
    if int(request.headers.get("content-length", "0")) > limit:
        raise BodyTooLarge
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise BodyTooLarge
    except (TimeoutError, ClientDisconnect):
        raise MalformedEvent("the body did not arrive in time", "send the whole body within ten seconds") from None
    return bytes(body)
