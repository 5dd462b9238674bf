"""The outermost layer: finds the place of each request, asks the guard, and only then lets Streamlit see it.

Streamlit decides who somebody is once for each socket and enforces no expiry; its own paths know no tenant. So this
layer stands before documents, downloads, uploads and sockets alike. It hands a place on in a header that it removes
from whatever came in, and Streamlit's application is reached through places only.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from core.errors.tenants import AccessDenied, SessionEnded
from core.tenants.roles import OPERATORS
from dashboard.auth import access_denied_page as refusal_page
from dashboard.auth import cookies
from dashboard.auth.authorization import SessionAuthorizer
from dashboard.auth.claims import read
from dashboard.auth.routes import (
    DEVELOPMENT_SIGN_ON,
    DOOR,
    MARKETPLACE,
    OPERATIONS,
    Route,
    RouteKind,
    find,
    named,
    of_tenant,
)
from openkcm.errors import OpenKcmError

PLACE_HEADER = "x-openkcm-place"
SOURCE_HEADER = "x-openkcm-source"
RETURN_COOKIE = "openkcm_return"
_RETURN_SECONDS = 900
_HEALTH = "/healthz"
_OUTSIDE_PLACES = ("/auth/", "/oauth2callback", _HEALTH)
_UNGUARDED = ("/static/", "/_stcore/health", "/_stcore/host-config", "/favicon.png", "/component/")
"""The application's own code and whether it lives: the same for everybody."""
_SIGNED_IN_ONLY = ("/media/", "/_stcore/upload_file")
_DOCUMENT_HEADERS = {
    "cache-control": "no-store",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True, slots=True)
class AuthMiddleware:
    """`origin` is the scheme, host and port under which browsers come.

    `develops` says that the marketplace's place and the development sign-on exist, and that nobody comes under another
    name: a page elsewhere whose name leads to this machine (DNS rebinding) must not sign in as one of its people.
    """

    app: ASGIApp
    guard: SessionAuthorizer
    cookie_secret: str
    origin: str
    develops: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or socket."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        send = partial(_send_hardened, send, self.origin.startswith("https:"))
        path: str = scope["path"]
        if self.develops and path != _HEALTH and _host(scope) != urlsplit(self.origin).netloc:
            await _not_found(scope, receive, send)
            return
        if path.startswith(_OUTSIDE_PLACES) or (self.develops and path.startswith(f"{DEVELOPMENT_SIGN_ON}/")):
            await self.app(_placed(scope, path, None), receive, send)
            return
        if path == "/" and scope["type"] == "http":
            await (await self._show_the_way(Request(scope)))(scope, receive, send)
            return
        found = find(path)
        if found is None or (found[0] == MARKETPLACE and not self.develops):
            await _not_found(scope, receive, send)
            return
        place, inner = found
        if not inner:
            query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
            await RedirectResponse(f"{place.root}/{query}", status_code=307)(scope, receive, send)
            return
        await self._enter(place, inner, scope, receive, send)

    async def _enter(self, place: Route, inner: str, scope: Scope, receive: Receive, send: Send) -> None:
        connection = HTTPConnection(scope)
        inside = _placed(scope, inner, place)
        if place.kind in {RouteKind.MARKETPLACE, RouteKind.DOOR} or inner.startswith(_UNGUARDED):
            await self.app(inside, receive, send)
            return
        try:
            signed_on = await self._admitted(connection, place)
        except OpenKcmError as refused:
            await _refuse(refused, connection, receive, send)
            return
        if signed_on:
            await self.app(inside, receive, send)
        elif not inner.startswith(_SIGNED_IN_ONLY):
            # Whoever is not signed in sees the door and nothing behind it; the cookie brings them back afterwards.
            await self.app(inside, receive, partial(_send_returning, send, place.root))
        else:
            await _refuse(SessionEnded(), connection, receive, send)

    async def _admitted(self, connection: HTTPConnection, place: Route) -> bool:
        """Return whether somebody is signed on who may be here; raises when somebody is who may not."""
        source = _source(connection.scope)
        try:
            claims = cookies.read_claims(connection.cookies, self.cookie_secret, self.origin)
        except cookies.InvalidCookie:
            raise await asyncio.to_thread(self.guard.refuse_forged, place, source) from None
        if claims is None:
            return False
        await asyncio.to_thread(self.guard.admit, claims, place, connection.query_params, source)
        return True

    async def _show_the_way(self, request: Request) -> Response:
        """Streamlit leads everybody who signed in or out to `/`; send them where they came from, or home."""
        back = named(request.cookies.get(RETURN_COOKIE, ""))
        try:
            claims = cookies.read_claims(request.cookies, self.cookie_secret, self.origin)
        except cookies.InvalidCookie:
            claims = None
        if claims is None:
            return RedirectResponse(f"{DOOR.root}/")
        response = RedirectResponse(f"{(back or self._home(claims)).root}/")
        response.delete_cookie(RETURN_COOKIE)
        return response

    def _home(self, claims: Mapping[str, object]) -> Route:
        try:
            person = read(claims, self.guard.names, self.guard.now()).person
        except (AccessDenied, SessionEnded):
            return OPERATIONS  # where the guard says no, and why
        return OPERATIONS if person.tenant_id == OPERATORS else of_tenant(person.tenant_id)


def _host(scope: Scope) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")


def _source(scope: Scope) -> str:
    """Return the address a connection came from, never what a header says of it."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def _placed(scope: Scope, path: str, place: Route | None) -> Scope:
    """Return the scope as Streamlit sees it: the path within the place; place and address in headers only we set."""
    ours = {PLACE_HEADER.encode(), SOURCE_HEADER.encode()}
    headers = [(key, value) for key, value in scope["headers"] if key not in ours]
    if place is not None:
        headers.append((PLACE_HEADER.encode(), place.root.encode()))
        headers.append((SOURCE_HEADER.encode(), _source(scope).encode()))
    return {**scope, "path": path, "raw_path": path.encode(), "headers": headers}


async def _refuse(refused: OpenKcmError, connection: HTTPConnection, receive: Receive, send: Send) -> None:
    if connection.scope["type"] == "websocket":
        await WebSocket(connection.scope, receive, send).close(4403)  # before it is accepted: HTTP 403
        return
    response = HTMLResponse(refusal_page.render(refused), refusal_page.status(refused))
    if isinstance(refused, SessionEnded):
        for name in connection.cookies:
            if name.startswith(cookies.USER):
                response.delete_cookie(name)
    await response(connection.scope, receive, send)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).close(4404)
        return
    await PlainTextResponse("there is no such page\n", 404)(scope, receive, send)


async def _send_hardened(send: Send, secure: bool, message: Message) -> None:  # noqa: FBT001 - bound once, by name above
    """Add what every answer carries; Streamlit never marks its cookies Secure."""
    if message["type"] == "http.response.start":
        headers = MutableHeaders(scope=message)
        for name, value in _DOCUMENT_HEADERS.items():
            headers.setdefault(name, value)
        if secure:
            message["headers"] = [
                (key, value + b"; Secure" if key == b"set-cookie" and b"secure" not in value.lower() else value)
                for key, value in message["headers"]
            ]
    await send(message)


async def _send_returning(send: Send, root: str, message: Message) -> None:
    if message["type"] == "http.response.start":
        response = Response()
        response.set_cookie(RETURN_COOKIE, root, max_age=_RETURN_SECONDS, httponly=True, samesite="lax")
        message["headers"] = [*message["headers"], *(h for h in response.raw_headers if h[0] == b"set-cookie")]
    await send(message)
