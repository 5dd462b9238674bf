"""Who acts for one tenant: a JWT signed here, alive for 60 s, that reaches that tenant's key alone.

The claim `tenant` names the alias by which the templated policy (policies/tenant.hcl) finds the key; `sub` also says
which process asked, for the server's audit. Whoever holds the signing key can speak for any tenant, so it is a secret
of the few processes that serve all of them.

`TenantTokens` buys a token with it that serves many calls, for who makes several for one tenant in a row.
`InlineTenants` sends it along with every call, for who makes one call now and then: no token, no login before it.
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
"""Part of a token's life in which it is handed out again; the rest is left for the calls it was handed out for."""
_KEPT = 256
"""Tokens kept before those that have ended are forgotten; afterwards there may be twice those that are left."""


class TenantSessions(Protocol):
    """Sessions that may use one tenant's L2 key and nothing else."""

    def session(self, tenant_id: str) -> VaultClient: ...


class TenantIdentity:
    """Speaks for tenants: signs the JWTs."""

    def __init__(self, identity_pem: str, process: str) -> None:
        """Take the private key and the name of this process, which the server's audit shows."""
        self._identity = ECKey.import_key(identity_pem)
        self._process = process

    def login(self, tenant_id: str) -> dict[str, str]:
        """Return the fields of a login as this tenant."""
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
        self._nobody = session.for_token("")
        self._identity = TenantIdentity(identity_pem, process)
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}
        self._most = _KEPT

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
        fresh = _Kept(self._nobody.for_token(auth["client_token"]), now + auth["lease_duration"] * _REUSE)
        with self._lock:
            if len(self._kept) >= self._most:
                self._kept = {tenant: old for tenant, old in self._kept.items() if now < old.until}
                self._most = max(_KEPT, 2 * len(self._kept))
            self._kept[tenant_id] = fresh
        return fresh.session

    def _log_in(self, tenant_id: str) -> dict[str, Any]:
        try:
            return dict(self._nobody.request("POST", _LOGIN, self._identity.login(tenant_id))["auth"])
        except VaultRejected as rejected:  # a login is refused with 400
            raise LoginRefused from rejected


class InlineTenants:
    """The same by OpenBao's inline authentication, and by tokens where the server has none (Capability.INLINE_AUTH).

    Either way a tenant's identity is all that is shown, so which one is taken is a question of speed, never of rights.
    """

    def __init__(self, session: VaultClient, identity_pem: str, process: str) -> None:
        self._calls = session
        self._identity = TenantIdentity(identity_pem, process)
        self._tokens = TenantTokens(session, identity_pem, process)
        # Threads share it without a lock: it is None or the one answer, and asking twice does no harm.
        self._inline: bool | None = None

    def session(self, tenant_id: str) -> VaultClient:
        """Return a session that may encrypt and decrypt with this tenant's key, for one call or a few, by any thread.

        Makes no call where the server is known to have inline authentication, or not known to have none.
        """
        if self._inline is False:
            return self._tokens.session(tenant_id)
        inline = self._calls.logging_in(_LOGIN, lambda: self._identity.login(tenant_id))
        return inline if self._inline else _Undecided(inline, lambda: self._otherwise(tenant_id))

    def _otherwise(self, tenant_id: str) -> VaultClient | None:
        """Return another session to try after a refusal; None when the server did look at the login."""
        if self._inline is None:
            self._inline = self._has_inline()
        return None if self._inline else self._tokens.session(tenant_id)

    def _has_inline(self) -> bool:
        """Find out by a login that cannot succeed: OpenBao says that it tried, others refuse what nobody asks."""
        try:
            self._calls.logging_in(_LOGIN, dict).read("auth/token/lookup-self")
        except LoginRefused:
            return True
        except (VaultRefused, VaultRejected):
            return False
        return False


class _Undecided(VaultClient):
    """Inline authentication at a server that was not yet seen to have it."""

    def __init__(self, inline: VaultClient, otherwise: Callable[[], VaultClient | None]) -> None:
        self._inline = inline
        self._otherwise = otherwise

    def request(self, method: str, path: str, data: dict[str, Any] | None = None) -> Answer:
        try:
            return self._inline.request(method, path, data)
        except (VaultRefused, VaultRejected):
            other = self._otherwise()
            if other is None:
                raise
        return other.request(method, path, data)


TENANT_ROLE = "tenant"
TOKEN_AUDIENCE = "openkcm-vault"  # noqa: S105 - the audience of the tenant JWTs
TOKEN_ISSUER = "openkcm"  # noqa: S105 - their issuer
