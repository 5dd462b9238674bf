"""A single sign-on for development, which simulates the platform's, with fixed users and no passwords.

An OpenID Connect provider with the authorization code flow and PKCE (RFC 6749, RFC 7636, OpenID Connect Core 1.0), as
far as a client needs it. It signs in every caller. The dashboard is therefore rejected at its start if it uses this
provider and is reachable from other machines. Key and codes exist only in memory.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from html import escape
from urllib.parse import urlencode

from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from core.tenants.roles import PersonRole
from dashboard.auth.claims import ClaimNames

_CODE_LIFE = timedelta(minutes=1)
_TOKEN_LIFE = timedelta(hours=1)
_FORMS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'", "cache-control": "no-store"}


@dataclass(frozen=True, slots=True)
class DevUser:
    """A fixed demonstration user; `tenant_id` is None for a user of the platform."""

    subject: str
    name: str
    organization: str
    tenant_id: str | None
    role: PersonRole


PEOPLE = (
    DevUser("ada@acme.example", "Ada Admin", "ACME Corporation", "acme-corp-12345", PersonRole.ADMINISTRATOR),
    DevUser("kai@acme.example", "Kai Keys", "ACME Corporation", "acme-corp-12345", PersonRole.KEY_ADMINISTRATOR),
    DevUser("uma@acme.example", "Uma Auditor", "ACME Corporation", "acme-corp-12345", PersonRole.AUDITOR),
    DevUser("bea@beta.example", "Bea Admin", "Beta Corp", "beta-corp-67890", PersonRole.ADMINISTRATOR),
    DevUser("olga@platform.example", "Olga Operator", "the platform", None, PersonRole.OPERATOR),
)

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Development sign-on</title>
<style>
html {{ background: Canvas; color: CanvasText; }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 32rem; margin: 8vh auto; padding: 0 1.5rem; }}
.warning {{ border: 2px solid; border-radius: .5rem; padding: .75rem 1rem; }}
button {{ font: inherit; text-align: left; width: 100%; padding: .75rem 1rem; margin: .25rem 0; cursor: pointer; }}
</style>
</head>
<body>
<main>
<p class="warning"><strong>Development sign-on.</strong> This page simulates your platform's single sign-on. It asks for
no password, accepts every user, and runs on this machine only.</p>
<h1>Select a user</h1>
<form method="post">{people}</form>
</main>
</body>
</html>
"""


@dataclass(frozen=True, slots=True)
class _Grant:
    user: DevUser
    nonce: str
    challenge: str
    until: datetime


@dataclass(frozen=True, slots=True)
class OidcProvider:
    """`issuer` is its own address; it has one client with one redirect address."""

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    redirect_uri: str
    names: ClaimNames
    now: Callable[[], datetime]
    _key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"use": "sig", "kid": "development"}))
    _grants: dict[str, _Grant] = field(default_factory=dict)

    def routes(self, path: str) -> list[Route]:
        """Return the endpoints below `path`."""
        return [
            Route(f"{path}/.well-known/openid-configuration", self._describe),
            Route(f"{path}/keys", self._show_keys),
            Route(f"{path}/authorize", self._authorize, methods=["GET", "POST"]),
            Route(f"{path}/token", self._exchange, methods=["POST"]),
            Route(f"{path}/sign-out", self._sign_out),
        ]

    async def _describe(self, _request: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
                "end_session_endpoint": f"{self.issuer}/sign-out",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "code_challenge_methods_supported": ["S256"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
                "scopes_supported": ["openid", "profile", "email"],
            }
        )

    async def _show_keys(self, _request: Request) -> Response:
        return JSONResponse({"keys": [self._key.as_dict(private=False)]})

    async def _authorize(self, request: Request) -> Response:
        query = dict(request.query_params)
        known = query.get("client_id") == self.client_id and query.get("redirect_uri") == self.redirect_uri
        if not known or query.get("response_type") != "code" or query.get("code_challenge_method") != "S256":
            # A redirect to an unregistered address is forbidden (RFC 6749, 4.1.2.1).
            return HTMLResponse("<p>This is not a request of the dashboard.</p>", 400, _FORMS)
        if request.method == "GET":
            return HTMLResponse(_PAGE.format(people=_buttons(PEOPLE)), headers=_FORMS)
        subject = (await request.form()).get("subject")
        chosen = next((user for user in PEOPLE if user.subject == subject), None)
        if chosen is None:
            return HTMLResponse("<p>Unknown user.</p>", 400, _FORMS)
        code = secrets.token_urlsafe(32)
        now = self.now()
        for old in [old for old, grant in self._grants.items() if grant.until < now]:
            del self._grants[old]
        self._grants[code] = _Grant(chosen, query.get("nonce", ""), query.get("code_challenge", ""), now + _CODE_LIFE)
        answer = urlencode({"code": code, "state": query.get("state", "")})
        return RedirectResponse(f"{self.redirect_uri}?{answer}", 303)

    async def _exchange(self, request: Request) -> Response:
        form = {name: str(value) for name, value in (await request.form()).items()}
        if not hmac.compare_digest(_credentials(request, form), f"{self.client_id}:{self.client_secret}"):
            return JSONResponse({"error": "invalid_client"}, 401)
        grant = self._grants.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        verified = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if grant is None or grant.until < self.now() or not hmac.compare_digest(verified, grant.challenge):
            return JSONResponse({"error": "invalid_grant"}, 400)
        if form.get("redirect_uri") != self.redirect_uri:
            return JSONResponse({"error": "invalid_grant"}, 400)
        return JSONResponse(
            {
                "access_token": secrets.token_urlsafe(32),
                "token_type": "Bearer",
                "expires_in": int(_TOKEN_LIFE.total_seconds()),
                "id_token": jwt.encode({"alg": "RS256", "kid": "development"}, self._claims(grant), self._key),
            },
            headers={"cache-control": "no-store"},
        )

    def _claims(self, grant: _Grant) -> dict[str, object]:
        now, user = self.now(), grant.user
        claims: dict[str, object] = {
            "iss": self.issuer,
            "aud": self.client_id,
            "sub": user.subject,
            "iat": int(now.timestamp()),
            "exp": int((now + _TOKEN_LIFE).timestamp()),
            "name": user.name,
            "email": user.subject,
            self.names.roles: [user.role.value],
        }
        if grant.nonce:
            claims["nonce"] = grant.nonce
        if user.tenant_id is not None:
            claims[self.names.tenant] = user.tenant_id
        return claims

    async def _sign_out(self, request: Request) -> Response:
        target = request.query_params.get("post_logout_redirect_uri")
        return RedirectResponse(self.redirect_uri if target == self.redirect_uri else "/")


def _buttons(people: Sequence[DevUser]) -> str:
    return "".join(
        f'<button name="subject" value="{escape(one.subject)}"><strong>{escape(one.name)}</strong><br>'
        f"{escape(one.role.replace('-', ' '))} of {escape(one.organization)}</button>"
        for one in people
    )


def _credentials(request: Request, form: dict[str, str]) -> str:
    """Return `id:secret` from either place in which a client may send it."""
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return f"{form.get('client_id', '')}:{form.get('client_secret', '')}"
    try:
        return base64.b64decode(sent, validate=True).decode()
    except ValueError:
        return ""
