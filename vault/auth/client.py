"""Sessions at OpenBao or Vault, and the conversion of hvac's exceptions.

`VaultSession` has the identity of a process (AppRole); `for_token` uses its connections with another token. Both are
safe to share between threads. Every policy must allow `auth/token/lookup-self`, which distinguishes a denial from an
invalid token: OpenKCM's roles do not have Vault's `default` policy, which allows far more.
"""

import base64
import json
import threading
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import hvac
import urllib3
from hvac.exceptions import VaultError

from core.errors.platform import VaultRefused, VaultUnavailable
from core.errors.tls import OPENSSL_FAULTS, TlsFault, with_tls_fault
from openkcm.errors import OpenKcmError
from vault.auth.transport import PLAIN_HTTP, Answer, PooledAdapter, open_pool

ROLE_PREFIX = "openkcm-"
_RENEW_AT = 2 / 3
"""Part of a token's lifetime after which the next call logs in again, so that no token expires during a call."""
_TLS_FAULTS = {
    **OPENSSL_FAULTS,
    "No such file or directory": TlsFault.CA_FILE,
    PLAIN_HTTP: TlsFault.TLS_REQUIRED,
}
_VALID_SECONDS = 1.0
"""How long a token that was looked up counts as valid: an isolation assessment causes some thirty denials in a row.

A token that is revoked in this time makes one call fail; the caller's retry logs in again.
"""


class VaultRejected(OpenKcmError):
    """The server rejected the request with 400, 404 or another 4xx.

    For this package only: every adapter converts the reasons that it knows. An unconverted one is an unexpected
    response and is not retried.
    """

    code: ClassVar[str] = "vault_rejected"
    hint = "this version of the key server may be unsupported: see docs/runbook.md#versions-of-the-servers"

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"the key server rejected the request ({status}): {reason}")
        self.status = status
        self.reason = reason


class LoginRefused(VaultRefused):
    """The server rejected the JWT of a tenant."""

    hint = "check that the server has the public key of this identity, and that both clocks are correct"


class VaultServerError(VaultUnavailable):
    """The server responded with 500 and a reason: mostly an internal error, but Transit also rejects requests so."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason


class VaultClient:
    """A client that reads, writes, lists and deletes with some token; paths are without `/v1/`."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def request(self, method: str, path: str, data: dict[str, Any] | None = None) -> Answer:
        """Send one request and return the whole response (`data`, `auth`, `warnings`), `{}` for an empty one.

        Raises: VaultUnavailable, VaultRefused, and VaultRejected for every other 4xx.
        """
        raise NotImplementedError

    def read(self, path: str) -> Answer | None:
        """Return the `data` at `path`; None for 404."""
        try:
            return dict(self.request("GET", path).get("data") or {})
        except VaultRejected as rejected:
            if rejected.status == 404:
                return None
            raise

    def write(self, path: str, data: dict[str, Any] | None = None) -> Answer:
        """Write and return the response's `data`."""
        return dict(self.request("POST", path, data or {}).get("data") or {})

    def list(self, path: str) -> list[str]:
        """Return the names below `path`; empty for 404."""
        try:
            return list(self.request("LIST", path)["data"]["keys"])
        except VaultRejected as rejected:
            if rejected.status == 404:
                return []
            raise

    def delete(self, path: str) -> Answer:
        """Delete and return the response's `data`."""
        return dict(self.request("DELETE", path).get("data") or {})

    def for_token(self, token: str) -> "TokenSession":
        """Return a session with `token` over the same connections."""
        return TokenSession(self._client, token)

    def logging_in(self, path: str, login: Callable[[], Mapping[str, str]]) -> "InlineSession":
        """Return a session over the same connections in which each request contains its login (OpenBao only)."""
        return InlineSession(self._client, path, login)

    def _send(self, token: str, method: str, path: str, data: dict[str, Any] | None) -> Answer:
        return self._send_with({"X-Vault-Token": token} if token else {}, method, path, data)

    def _send_with(self, headers: Mapping[str, str], method: str, path: str, data: dict[str, Any] | None) -> Answer:
        try:
            answer: Answer = self._client.adapter.request(method, f"/v1/{path}", headers=dict(headers), json=data)
        except (VaultError, urllib3.exceptions.HTTPError) as foreign:
            raise _error_for(foreign) from foreign
        return answer


class TokenSession(VaultClient):
    """A session with a token from elsewhere; without identity when the token is empty."""

    def __init__(self, client: Any, token: str) -> None:
        super().__init__(client)
        self._own_token = token

    def request(self, method: str, path: str, data: dict[str, Any] | None = None) -> Answer:
        return self._send(self._own_token, method, path, data)


class InlineSession(VaultClient):
    """A session with OpenBao's inline authentication: login and request in one call, without a token to leak or expire.

    A server without this feature, such as Vault, ignores the headers and rejects the unauthenticated request.
    """

    def __init__(self, client: Any, path: str, login: Callable[[], Mapping[str, str]]) -> None:
        """`path` is the login's path, and `login` returns its fields for each request."""
        super().__init__(client)
        self._path = path
        self._login = login

    def request(self, method: str, path: str, data: dict[str, Any] | None = None) -> Answer:
        """Send one request as `VaultClient.request`; raises LoginRefused when the server rejects the login."""
        headers = {"X-Vault-Inline-Auth-Path": self._path}
        for number, (name, value) in enumerate(self._login().items()):
            field = json.dumps({"key": name, "value": value}).encode()
            headers[f"X-Vault-Inline-Auth-Parameter-{number}"] = base64.urlsafe_b64encode(field).decode().rstrip("=")
        return self._send_with(headers, method, path, data)


class VaultSession(VaultClient):
    """A session of the process `role`: logs in on the first call, before the token expires, and when it is invalid."""

    def __init__(  # noqa: PLR0913 - one for each setting
        self,
        url: str,
        role: str,
        secret_id: str,
        *,
        ca_file: Path | None = None,
        namespace: str | None = None,
        on_response: Callable[[], None] | None = None,
    ) -> None:
        """`on_response` is called after each response, also for the sessions that share these connections."""
        super().__init__(_client(url, role, ca_file, namespace, on_response))
        self._role_id = ROLE_PREFIX + role
        self._secret_id = secret_id
        self._lock = threading.Lock()
        self._own_token = ""
        self._renew_at = 0.0
        self._looking_up = threading.Lock()
        self._valid_until = ("", 0.0)

    def request(self, method: str, path: str, data: dict[str, Any] | None = None) -> Answer:
        token = self._valid_token()
        try:
            return self._send(token, method, path, data)
        except VaultRefused:
            if self._is_valid(token):
                raise
        return self._send(self._valid_token(invalid=token), method, path, data)

    def _valid_token(self, invalid: str | None = None) -> str:
        # The lock is held during the login, so that only one of many threads with an invalid token logs in.
        with self._lock:
            if time.monotonic() >= self._renew_at or self._own_token == invalid:
                self._log_in()
            return self._own_token

    def _log_in(self) -> None:
        try:
            answer = self._client.auth.approle.login(self._role_id, self._secret_id, use_token=False)
        except (VaultError, urllib3.exceptions.HTTPError) as foreign:
            failure = _error_for(foreign)
            # 400 "invalid role or secret ID" means the same as a 403. The cause is not chained, because it is about
            # the secret id.
            raise VaultRefused if isinstance(failure, VaultRejected) else failure from None
        self._own_token = answer["auth"]["client_token"]
        self._renew_at = time.monotonic() + answer["auth"]["lease_duration"] * _RENEW_AT

    def _is_valid(self, token: str) -> bool:
        with self._looking_up:
            found, until = self._valid_until
            if found == token and time.monotonic() < until:
                return True
            try:
                self._send(token, "GET", "auth/token/lookup-self", None)
            except VaultRefused:
                return False
            self._valid_until = (token, time.monotonic() + _VALID_SECONDS)
            return True


def token_session(url: str, token: str, *, ca_file: Path | None = None, namespace: str | None = None) -> TokenSession:
    """Return a session with a given token, such as an administrator's for `setup.apply`."""
    return TokenSession(_client(url, "administrator", ca_file, namespace), token)


def _client(
    url: str,
    process: str,
    ca_file: Path | None,
    namespace: str | None,
    on_response: Callable[[], None] | None = None,
) -> Any:
    pool = open_pool(url, None if ca_file is None else str(ca_file))
    adapter = partial(PooledAdapter, process=process, on_response=on_response)
    return hvac.Client(url, token="", verify=True, session=pool, adapter=adapter, namespace=namespace)


def _error_for(foreign: Exception) -> OpenKcmError:
    """Return the OpenKcmError for an error of hvac or urllib3.

    No response, 5xx (sealed is 503), 429 (standby, quota), 472 and 473 (replicas) and redirects to another node are
    retryable; only a 403 is a denial by a policy.
    """
    status = getattr(foreign, "status", 0)
    if status == 403:
        return VaultRefused()
    if status == 400 and not getattr(foreign, "logged_in", True):
        return LoginRefused()
    reason = " ".join(", ".join(getattr(foreign, "errors", None) or ["no reason given"]).split())
    if 400 <= status < 500 and status not in (429, 472, 473):
        return VaultRejected(status, reason)
    if status == 500:
        return VaultServerError(reason)
    return with_tls_fault(VaultUnavailable, "the key server", str(foreign), _TLS_FAULTS)


class Capability(StrEnum):
    """The features that OpenBao has and Vault's community edition lacks."""

    SOFT_DELETE = "soft-delete"
    INLINE_AUTH = "inline authentication"
