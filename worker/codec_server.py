"""`python -m worker.codec_server`: decodes payloads in the Temporal UI for operators who signed in.

It is a decryption oracle and therefore isolated from the worker: a separate process with a separate Vault identity
(decryption with payload keys only), loopback only, cross-origin responses for the Temporal UI only, and no `/encode`.
An operator signs in once with the codec token. The session cookie is not available to other sites (SameSite) or to
scripts (HttpOnly). Command line clients send the token as a bearer token.

A session ends after eight hours, or when its token is removed. Every instance with the same tokens accepts it.
"""

import hmac
import json
import sys
import time
from collections.abc import Sequence
from html import escape
from urllib.parse import parse_qs

import structlog
import uvicorn
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from temporalio.api.common.v1 import Payloads

from config import secrets as config_secrets
from config.secrets import Role, is_one_of, read_secret_values
from config.settings import LOOPBACK, load_settings
from openkcm.errors import OpenKcmError
from openkcm.logging import configure_logs
from vault.transit.payload_keys import TransitPayloadKeys
from worker.payload_codec import PayloadKeyCache, TenantCodec
from worker.vault_login import open_vault

_COOKIE = "openkcm_codec"
_LARGEST_BODY = 4 * 1024 * 1024
_LARGEST_FORM = 1024

log = structlog.get_logger()

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>OpenKCM payload codec</title>
<style>body{{font:16px system-ui;max-width:34rem;margin:4rem auto;padding:0 1rem;color-scheme:light dark}}</style>
<h1>Payload codec</h1>{body}</html>"""
_SIGN_IN = """<form method="post" action="/sign-in"><p><label>Codec token <input name="token" type="password" required
autocomplete="off"></label> <button>Sign in</button></p>
<p>The token is the first line of the secret file <code>codec-token</code>.</p></form>"""
_SIGNED_IN = """<p>You are signed in. In the Temporal UI click the glasses icon, choose <em>Use my browser setting</em>,
enter <code>{address}</code>, switch on <em>Include cross-origin credentials</em>, click <em>Apply</em> and reload the
page.</p>"""


class CodecServer:
    def __init__(self, codec: TenantCodec, tokens: Sequence[str]) -> None:
        """During a replacement there are two `tokens`, and each is accepted."""
        self._codec = codec
        self._tokens = tokens
        self._cookies = SessionCookies(tokens)

    def app(self, ui_origins: Sequence[str]) -> Starlette:
        """Return the application; only pages of `ui_origins` may read its responses."""
        return Starlette(
            routes=[
                Route("/", self.page),
                Route("/healthz", lambda _request: PlainTextResponse("ok")),
                Route("/sign-in", self.sign_in, methods=["POST"]),
                Route("/decode", self.decode, methods=["POST"]),
            ],
            middleware=[
                Middleware(
                    CORSMiddleware,
                    allow_origins=list(ui_origins),
                    allow_credentials=True,
                    allow_methods=["POST"],
                    allow_headers=["content-type", "x-namespace", "authorization"],
                )
            ],
        )

    async def page(self, request: Request) -> Response:
        """Show the sign-in form, or the instructions for a signed-in operator."""
        signed_in = _SIGNED_IN.format(address=escape(str(request.base_url).rstrip("/")))
        return HTMLResponse(_PAGE.format(body=signed_in if self._signed_in(request) else _SIGN_IN))

    async def sign_in(self, request: Request) -> Response:
        """Exchange the token for a session cookie."""
        body = await _read_body(request, _LARGEST_FORM)
        if body is None:
            return HTMLResponse(_PAGE.format(body=_SIGN_IN), status_code=413)
        form = parse_qs(body.decode(errors="replace"))
        if not is_one_of(form.get("token", [""])[0], self._tokens):
            log.warning("codec sign-in rejected", client=_client(request))
            return HTMLResponse(_PAGE.format(body=f"<p>Wrong token.</p>{_SIGN_IN}"), status_code=403)
        log.info("codec sign-in", client=_client(request))
        answer = RedirectResponse("/", status_code=303)
        answer.set_cookie(_COOKIE, self._cookies.issue(), httponly=True, samesite="strict")
        return answer

    async def decode(self, request: Request) -> Response:
        """Decode payloads (Temporal's remote codec protocol); each use is logged with the names of the keys."""
        if not self._signed_in(request):
            log.warning("decode request rejected", client=_client(request))
            return JSONResponse({"error": "sign in on this server's page first"}, status_code=403)
        body = await _read_body(request, _LARGEST_BODY)
        if body is None:
            return JSONResponse({"error": "too large"}, status_code=413)
        try:
            payloads = ParseDict(json.loads(body), Payloads())
        except (ValueError, ParseError):
            return JSONResponse({"error": "not a Payloads message"}, status_code=400)
        keys = sorted({p.metadata["key"].decode(errors="replace") for p in payloads.payloads if "key" in p.metadata})
        try:
            decoded = await self._codec.decode(payloads.payloads)
        except OpenKcmError as failed:
            log.warning("decode failed", code=failed.code, keys=keys)
            return JSONResponse({"error": failed.message, "hint": failed.hint}, status_code=424)
        log.info("payloads decoded", count=len(decoded), keys=keys, client=_client(request))
        return JSONResponse(MessageToDict(Payloads(payloads=decoded)))

    def _signed_in(self, request: Request) -> bool:
        scheme, _, presented = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and is_one_of(presented, self._tokens):
            return True
        return self._cookies.valid(request.cookies.get(_COOKIE, ""))


async def _read_body(request: Request, limit: int) -> bytes | None:
    """Return the body; None if it exceeds the limit, before more of it is in memory."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)


def _client(request: Request) -> str:
    return request.client.host if request.client else ""


def main() -> None:
    """Run the codec server."""
    try:
        settings = load_settings()
        configure_logs(settings.log_format, "codec")
        keyring = PayloadKeyCache(TransitPayloadKeys(open_vault(settings, Role.CODEC)))
        tokens = read_secret_values(settings.secrets, config_secrets.CODEC_TOKEN)
    except OpenKcmError as refused:
        sys.exit(f"codec server cannot start: {refused.code}: {refused.message}\nhint: {refused.hint}")
    embedded = [f"http://{host}:{settings.temporal_ui_port}" for host in (LOOPBACK, "localhost")]
    app = CodecServer(TenantCodec(keyring), tokens).app(settings.codec_origins or embedded)
    uvicorn.run(app, host=settings.codec_host, port=settings.codec_port, log_config=None, access_log=False)


_SECONDS = 8 * 3600
_COOKIE_LABEL = b"openkcm codec session 1"


class SessionCookies:
    """Cookies that each instance with the same tokens accepts: the session's end, and its HMAC under a token's key."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._keys = [hmac.digest(token.encode(), _COOKIE_LABEL, "sha256") for token in tokens]

    def issue(self) -> str:
        """Return the value of a new session's cookie."""
        until = str(int(time.time()) + _SECONDS)
        return f"{until}.{_signature(self._keys[0], until)}"

    def valid(self, value: str) -> bool:
        """Return whether `value` is a running session's cookie."""
        until, _, signature = value.partition(".")
        return is_one_of(signature, [_signature(key, until) for key in self._keys]) and int(until) > time.time()


def _signature(key: bytes, until: str) -> str:
    return hmac.digest(key, until.encode(), "sha256").hex()


if __name__ == "__main__":
    main()
