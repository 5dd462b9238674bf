"""Tokens of one tenant: a JWT signed here, alive for 60 s, buys a batch token that reaches that tenant's key alone.

The claim `tenant` names the alias by which the templated policy (policies/tenant.hcl) finds the key; `sub` also says
which process asked, for the server's audit. Whoever holds the signing key can speak for any tenant, so it is a secret
of the few processes that serve all of them.
"""

import threading
import time
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from joserfc import jwt
from joserfc.jwk import ECKey

from tenancy.errors import VaultRefused
from vault.session import TokenSession, VaultCalls, VaultRejected
from vault.setup import TENANT_ROLE, TOKEN_AUDIENCE, TOKEN_ISSUER

_JWT_SECONDS = 60
_REUSE = 0.5
"""Part of a token's life in which it is handed out again; the rest is left for the calls it was handed out for."""
_KEPT = 256
"""Tokens kept; beyond it those that have ended are forgotten."""


@dataclass(frozen=True, slots=True)
class _Kept:
    session: TokenSession
    until: float


class TenantTokens:
    """Sessions limited to one tenant's L2 key, over the connections of `session`."""

    def __init__(self, session: VaultCalls, identity_pem: str, process: str = "worker") -> None:
        self._nobody = session.for_token("")
        self._identity = ECKey.import_key(identity_pem)
        self._process = process
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}

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
            if len(self._kept) >= _KEPT:
                self._kept = {tenant: old for tenant, old in self._kept.items() if now < old.until}
            self._kept[tenant_id] = fresh
        return fresh.session

    def _log_in(self, tenant_id: str) -> dict[str, Any]:
        login = {"role": TENANT_ROLE, "jwt": self._signed(tenant_id)}
        try:
            return dict(self._nobody.request("POST", "auth/jwt/login", login)["auth"])
        except VaultRejected as rejected:  # a login is refused with 400
            raise VaultRefused(
                hint="the public key of the identity must be the one the server was set up with, and both clocks right"
            ) from rejected

    def _signed(self, tenant_id: str) -> str:
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
        return jwt.encode({"alg": "ES256"}, claims, self._identity)
