"""The outermost layer: resolves the route of each request, authorizes it, and then passes it to Streamlit.

Streamlit identifies a user once for each socket and enforces no expiry; its own paths contain no tenant. So this layer
covers documents, downloads, uploads and sockets alike. It passes the route in a header that it removes from every
incoming request. Streamlit's application is reachable through routes only.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from core.errors.tenants import AccessDenied, PageNotFound, SessionEnded
from core.tenants.roles import OPERATORS
from dashboard.auth import cookies, error_documents
from dashboard.auth.authorization import SessionAuthorizer
from dashboard.auth.claims import read
from dashboard.auth.routes import (
    DEVELOPMENT_SIGN_ON,
    MARKETPLACE,
    OPERATIONS,
    PAGES,
    SIGN_IN,
    PageAddress,
    Route,
    RouteKind,
    find,
    of_tenant,
    page_address,
    read_return,
    write_return,
)
from openkcm.errors import OpenKcmError

PLACE_HEADER = "x-openkcm-place"
SOURCE_HEADER = "x-openkcm-source"
RETURN_COOKIE = "openkcm_return"
"""The page that a user left to sign in, for the time at the single sign-on."""
_RETURN_SECONDS = 900
_SIGN_OUT = "/auth/logout"
_LEAVING = ("/auth/login", _SIGN_OUT)
CHECKS = HEALTH, READINESS = "/healthz", "/readyz"
"""Requests of a load balancer, which uses the address instead of the name."""
_UNROUTED = ("/auth/", "/oauth2callback", *CHECKS)
_UNGUARDED = ("/static/", "/_stcore/health", "/_stcore/host-config", "/favicon.png", "/component/")
"""Static files and health of the application: the same for every user."""
_SIGNED_IN_ONLY = ("/media/", "/_stcore/upload_file")
_APPLICATION = (*_UNGUARDED, *_SIGNED_IN_ONLY, "/_stcore/")
"""What Streamlit itself serves below a route, besides pages."""
_DOCUMENT_HEADERS = {
    "cache-control": "no-store",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True, slots=True)
class AuthMiddleware:
    """`origin` is the scheme, host and port that browsers use.

    `cookie_secrets` are the present one and, during its replacement, the former one.

    `files` are the paths of downloads inside a route.

    `develops` enables the marketplace and the development sign-on, and rejects every other host name: a web page whose
    name resolves to this machine (DNS rebinding) must not sign in as a development user.
    """

    app: ASGIApp
    guard: SessionAuthorizer
    cookie_secrets: Sequence[str]
    origin: str
    develops: bool
    files: frozenset[str] = frozenset()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or socket."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        send = partial(_send_hardened, send, self.origin.startswith("https:"))
        scope = _with_cookies(scope, cookies.sign_again(HTTPConnection(scope).cookies, self.cookie_secrets))
        path: str = scope["path"]
        if path in _LEAVING:
            send = partial(_send_returning, send, page_address(_referring(scope), self.origin))
        if self.develops and path not in CHECKS and _host(scope) != urlsplit(self.origin).netloc:
            await _not_found(scope, receive, send)
            return
        if path == _SIGN_OUT:
            await self._end_session(HTTPConnection(scope))
        if path.startswith(_UNROUTED) or (self.develops and path.startswith(f"{DEVELOPMENT_SIGN_ON}/")):
            await self.app(_with_route(scope, path, None), receive, send)
            return
        if path == "/" and scope["type"] == "http":
            await (await self._redirect_after_sign_in(Request(scope)))(scope, receive, send)
            return
        found = find(path)
        if found is None or (found[0] == MARKETPLACE and not self.develops):
            await _not_found(scope, receive, send)
        else:
            await self._enter(*found, scope, receive, send)

    def _is_served(self, route: Route, inner: str) -> bool:
        """Return whether a path of a route exists; Streamlit would show its first page for every other one."""
        return inner[1:] in PAGES[route.kind] or inner in self.files or inner.startswith(_APPLICATION)

    async def _enter(self, route: Route, inner: str, scope: Scope, receive: Receive, send: Send) -> None:
        page = inner.strip("/")
        if page in PAGES[route.kind] and inner != f"/{page}":
            query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
            await RedirectResponse(f"{route.root}/{page}{query}", status_code=307)(scope, receive, send)
            return
        if not self._is_served(route, inner):
            await _not_found(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        inside = _with_route(scope, inner, route)
        if route.kind in {RouteKind.MARKETPLACE, RouteKind.SIGN_IN} or inner.startswith(_UNGUARDED):
            await self.app(inside, receive, send)
            return
        try:
            signed_on = await self._authorize(connection, route)
        except OpenKcmError as refused:
            await _refuse(refused, route, connection, receive, send)
            return
        if signed_on or not inner.startswith(_SIGNED_IN_ONLY):
            # Without a session only the sign-in page is drawn.
            await self.app(inside, receive, send)
        else:
            await _refuse(SessionEnded(), route, connection, receive, send)

    async def _authorize(self, connection: HTTPConnection, route: Route) -> bool:
        """Return whether a user is signed in and authorized; raise when the user is not authorized."""
        source = _source(connection.scope)
        try:
            claims = cookies.read_claims(connection.cookies, self.cookie_secrets[0], self.origin)
        except cookies.InvalidCookie:
            raise await asyncio.to_thread(self.guard.refuse_forged, route, source) from None
        if claims is None:
            return False
        await asyncio.to_thread(self.guard.admit, claims, route, connection.query_params, source)
        return True

    async def _end_session(self, connection: HTTPConnection) -> None:
        """End the session of the cookie: Streamlit only deletes the cookie, of which there may be a copy."""
        try:
            claims = cookies.read_claims(connection.cookies, self.cookie_secrets[0], self.origin)
        except cookies.InvalidCookie:
            return
        if claims is not None:
            await asyncio.to_thread(self.guard.leave, claims, _source(connection.scope))

    async def _redirect_after_sign_in(self, request: Request) -> Response:
        """Redirect from `/`, the target of Streamlit after sign-in and sign-out, to the page that the user left.

        Of another tenant's route, which refuses this user with the reason, the cookie selects no page.
        """
        back = read_return(request.cookies.get(RETURN_COOKIE, ""), self.origin)
        try:
            claims = cookies.read_claims(request.cookies, self.cookie_secrets[0], self.origin)
        except cookies.InvalidCookie:
            claims = None
        if claims is None:
            target = f"{SIGN_IN.root}/" if back is None else back.url
        elif back is None:
            target = f"{self._home(claims).root}/"
        else:
            target = back.url if back.route == self._home(claims) else f"{back.route.root}/"
        response = RedirectResponse(target)
        response.delete_cookie(RETURN_COOKIE)
        return response

    def _home(self, claims: Mapping[str, object]) -> Route:
        try:
            person = read(claims, self.guard.names, self.guard.now()).person
        except (AccessDenied, SessionEnded):
            return OPERATIONS  # the authorizer denies it there and gives the reason
        return OPERATIONS if person.tenant_id == OPERATORS else of_tenant(person.tenant_id)


def _host(scope: Scope) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")


def _referring(scope: Scope) -> str:
    """Return the address from which the browser was sent here; its own pages only, by the Referrer-Policy."""
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"referer"), "")


def _source(scope: Scope) -> str:
    """Return the address of the client: that of the peer, or what a proxy of `proxy_networks` has reported."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def _with_cookies(scope: Scope, changed: Mapping[str, str]) -> Scope:
    """Return the scope with other values of some cookies."""
    if not changed:
        return scope

    def changed_pair(pair: str) -> str:
        name = pair.partition("=")[0].strip()
        return f"{name}={changed[name]}" if name in changed else pair

    headers = [
        (key, ";".join(map(changed_pair, value.decode("latin-1").split(";"))).encode("latin-1"))
        if key == b"cookie"
        else (key, value)
        for key, value in scope["headers"]
    ]
    return {**scope, "headers": headers}


def _with_route(scope: Scope, path: str, route: Route | None) -> Scope:
    """Return the scope for Streamlit: the path within the route; route and peer address in trusted headers."""
    ours = {PLACE_HEADER.encode(), SOURCE_HEADER.encode()}
    headers = [(key, value) for key, value in scope["headers"] if key not in ours]
    if route is not None:
        headers.append((PLACE_HEADER.encode(), route.root.encode()))
        headers.append((SOURCE_HEADER.encode(), _source(scope).encode()))
    return {**scope, "path": path, "raw_path": path.encode(), "headers": headers}


async def _refuse(
    refused: OpenKcmError, route: Route, connection: HTTPConnection, receive: Receive, send: Send
) -> None:
    if connection.scope["type"] == "websocket":
        await WebSocket(connection.scope, receive, send).close(4403)  # before it is accepted: HTTP 403
        return
    response = error_documents.response(refused, operator=route == OPERATIONS)
    if isinstance(refused, SessionEnded):
        for name in connection.cookies:
            if name.startswith(cookies.USER):
                response.delete_cookie(name)
    await response(connection.scope, receive, send)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).close(4404)
        return
    await error_documents.response(PageNotFound())(scope, receive, send)


async def _send_hardened(send: Send, secure: bool, message: Message) -> None:  # noqa: FBT001 - bound once, by name above
    """Add the security headers of every response; Streamlit never marks its cookies Secure."""
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


async def _send_returning(send: Send, page: PageAddress | None, message: Message) -> None:
    """Keep the page that the user leaves to sign in or out; forget an earlier one when it is no page."""
    if message["type"] == "http.response.start":
        response = Response()
        if page is None:
            response.delete_cookie(RETURN_COOKIE)
        else:
            value = write_return(page)
            response.set_cookie(RETURN_COOKIE, value, max_age=_RETURN_SECONDS, httponly=True, samesite="lax")
        message["headers"] = [*message["headers"], *(h for h in response.raw_headers if h[0] == b"set-cookie")]
    await send(message)
