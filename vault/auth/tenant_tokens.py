"""Sessions for one tenant: with a JWT that is signed here, valid for 60 s and authorized only for the tenant's key.

The claim `tenant` names the alias by which the templated policy (policies/tenant.hcl) finds the key; `sub` also
contains the name of the process, for the server's audit log. A holder of the signing key can act for any tenant, so it
is a secret of the few processes that serve all tenants.

`TenantTokens` exchanges the JWT for a token, for several calls for one tenant in a row. `InlineTenants` sends the JWT
with each call, for single calls without a login before them.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import uuid4

from joserfc import jwt
from joserfc.jwk import ECKey

from core.errors.platform import VaultRefused
from vault.auth.client import LoginRefused, TokenSession, VaultClient, VaultRejected
from vault.auth.transport import Answer

_LOGIN = "auth/jwt/login"
_JWT_SECONDS = 60
_REUSE = 0.5
"""Part of a token's lifetime in which it is returned again; the rest is left for the calls of its last caller."""
_MIN_LIMIT = 256
"""Tokens cached before expired ones are dropped; afterwards the limit is twice the number of valid ones."""


class TenantSessions(Protocol):
    """A source of sessions that may use only one tenant's L2 key."""

    def session(self, tenant_id: str) -> VaultClient: ...


class TenantIdentity:
    """The identity that signs the JWTs for tenants."""

    def __init__(self, identity_pem: str, process: str) -> None:
        """`process` is the name of this process in the server's audit log."""
        self._identity = ECKey.import_key(identity_pem)
        self._process = process

    def login(self, tenant_id: str) -> dict[str, str]:
        """Return the fields of a login for this tenant."""
        issued = int(time.time())
        claims = {
            "iss": TOKEN_ISSUER,
            "aud": TOKEN_AUDIENCE,
            "sub": f"tenant:{tenant_id}|{self._process}",
            "tenant": tenant_id,
            "iat": issued,
            "exp": issued + _JWT_SECONDS,
            "jti": uuid4().hex,
        }
        return {"role": TENANT_ROLE, "jwt": jwt.encode({"alg": "ES256"}, claims, self._identity)}


@dataclass(frozen=True, slots=True)
class _Kept:
    session: TokenSession
    until: float


class TenantTokens:
    """Sessions limited to one tenant's L2 key, over the connections of `session`."""

    def __init__(self, session: VaultClient, identity_pem: str, process: str = "worker") -> None:
        self._unauthenticated = session.for_token("")
        self._identity = TenantIdentity(identity_pem, process)
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}
        self._limit = _MIN_LIMIT

    def session(self, tenant_id: str) -> TokenSession:
        """Return a session that may encrypt and decrypt with this tenant's key for the next half minute.

        Raises: VaultUnavailable; VaultRefused when the server does not accept the identity.
        """
        now = time.monotonic()
        with self._lock:
            kept = self._kept.get(tenant_id)
        if kept is not None and now < kept.until:
            return kept.session
        auth = self._log_in(tenant_id)
        fresh = _Kept(self._unauthenticated.for_token(auth["client_token"]), now + auth["lease_duration"] * _REUSE)
        with self._lock:
            if len(self._kept) >= self._limit:
                self._kept = {tenant: old for tenant, old in self._kept.items() if now < old.until}
                self._limit = max(_MIN_LIMIT, 2 * len(self._kept))
            self._kept[tenant_id] = fresh
        return fresh.session

    def _log_in(self, tenant_id: str) -> dict[str, Any]:
        try:
            return dict(self._unauthenticated.request("POST", _LOGIN, self._identity.login(tenant_id))["auth"])
        except VaultRejected as rejected:  # the server rejects a login with 400
            raise LoginRefused from rejected


class InlineTenants:
    """Sessions with OpenBao's inline authentication, or with tokens where the server lacks it (Capability.INLINE_AUTH).

    Both use only the tenant's identity, so the choice affects only the speed, never the permissions.
    """

    def __init__(self, session: VaultClient, identity_pem: str, process: str) -> None:
        self._calls = session
        self._identity = TenantIdentity(identity_pem, process)
        self._tokens = TenantTokens(session, identity_pem, process)
        # Threads share it without a lock: it changes once from None to the result, and a second test does no harm.
        self._inline: bool | None = None

    def session(self, tenant_id: str) -> VaultClient:
        """Return a session that may encrypt and decrypt with this tenant's key, for a few calls, by any thread.

        Makes no call unless the server is known to lack inline authentication.
        """
        if self._inline is False:
            return self._tokens.session(tenant_id)
        inline = self._calls.logging_in(_LOGIN, lambda: self._identity.login(tenant_id))
        return inline if self._inline else _Undecided(inline, lambda: self._fallback(tenant_id))

    def _fallback(self, tenant_id: str) -> VaultClient | None:
        """Return a session to try after a denial; None when the server has inline authentication."""
        if self._inline is None:
            self._inline = self._has_inline()
        return None if self._inline else self._tokens.session(tenant_id)

    def _has_inline(self) -> bool:
        """Test with an invalid login: OpenBao rejects the login, other servers the unauthenticated request."""
        try:
            self._calls.logging_in(_LOGIN, dict).read("auth/token/lookup-self")
        except LoginRefused:
            return True
        except (VaultRefused, VaultRejected):
            return False
        return False


class _Undecided(VaultClient):
    """Inline authentication at a server that may lack it, with a fallback."""

    def __init__(self, inline: VaultClient, fallback: Callable[[], VaultClient | None]) -> None:
        self._inline = inline
        self._fallback = fallback

    def request(self, method: str, path: str, data: dict[str, Any] | None = None) -> Answer:
        try:
            return self._inline.request(method, path, data)
        except (VaultRefused, VaultRejected):
            other = self._fallback()
            if other is None:
                raise
        return other.request(method, path, data)


TENANT_ROLE = "tenant"
TOKEN_AUDIENCE = "openkcm-vault"  # noqa: S105 - the audience of the tenant JWTs
TOKEN_ISSUER = "openkcm"  # noqa: S105 - their issuer
