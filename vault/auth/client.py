"""A logged-in connection to OpenBao or Vault, and the one place where hvac's exceptions become ours.

`VaultSession` is a process's own identity (AppRole), `for_token` lends its connections to another token. Both are
safe to share between threads. For the session itself every policy must allow `auth/token/lookup-self`, by which a
refusal is told from a token that has died: our roles leave out Vault's `default` policy, which allows far more.
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
from openkcm.errors import OpenKcmError
from vault.auth.transport import Answer, PooledAdapter, open_pool

ROLE_PREFIX = "openkcm-"
_RENEW_AT = 2 / 3
"""Part of a token's life after which the next call logs in again: early enough that no call meets a dead token."""


class VaultRejected(OpenKcmError):
    """The server understood the request and will not do it: 400, 404 or another 4xx.

    For this package only: every adapter turns the reasons it knows into errors of the vocabulary. One that escapes
    is an answer nobody foresaw, and is not retried.
    """

    code: ClassVar[str] = "vault_rejected"
    hint = "this version of the key server may be unsupported: see docs/runbook.md#versions-of-the-servers"

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"the key server rejected the request ({status}): {reason}")
        self.status = status
        self.reason = reason


class LoginRefused(VaultRefused):
    """The JWT that speaks for a tenant was not accepted."""

    hint = "the public key of the identity must be the one the server was set up with, and both clocks right"


class VaultServerError(VaultUnavailable):
    """The server answered 500 with a reason: mostly its own trouble, but Transit also says so what it will not do."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason


class VaultClient:
    """Read, write, list and delete with some token. Paths are without `/v1/`."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def request(self, method: str, path: str, data: dict[str, Any] | None = None) -> Answer:
        """Send one request and return the whole answer (`data`, `auth`, `warnings`), `{}` for an empty one.

        Raises: VaultUnavailable, VaultRefused, and VaultRejected for every other 4xx.
        """
        raise NotImplementedError

    def read(self, path: str) -> Answer | None:
        """Return the `data` at `path`, None when there is nothing."""
        try:
            return dict(self.request("GET", path).get("data") or {})
        except VaultRejected as rejected:
            if rejected.status == 404:
                return None
            raise

    def write(self, path: str, data: dict[str, Any] | None = None) -> Answer:
        """Write and return the answer's `data`."""
        return dict(self.request("POST", path, data or {}).get("data") or {})

    def list(self, path: str) -> list[str]:
        """Return the names below `path`, empty when there are none."""
        try:
            return list(self.request("LIST", path)["data"]["keys"])
        except VaultRejected as rejected:
            if rejected.status == 404:
                return []
            raise

    def delete(self, path: str) -> Answer:
        """Delete and return the answer's `data`."""
        return dict(self.request("DELETE", path).get("data") or {})

    def for_token(self, token: str) -> "TokenSession":
        """Return a session over the same connections that acts as `token`."""
        return TokenSession(self._client, token)

    def logging_in(self, path: str, login: Callable[[], Mapping[str, str]]) -> "InlineSession":
        """Return a session over the same connections whose every request logs in by itself (OpenBao only)."""
        return InlineSession(self._client, path, login)

    def _send(self, token: str, method: str, path: str, data: dict[str, Any] | None) -> Answer:
        return self._send_with({"X-Vault-Token": token} if token else {}, method, path, data)

    def _send_with(self, headers: Mapping[str, str], method: str, path: str, data: dict[str, Any] | None) -> Answer:
        try:
            answer: Answer = self._client.adapter.request(method, f"/v1/{path}", headers=dict(headers), json=data)
        except (VaultError, urllib3.exceptions.HTTPError) as foreign:
            raise _ours(foreign) from foreign
        return answer


class TokenSession(VaultClient):
    """Acts as one token that somebody else obtained, or as nobody when the token is empty."""

    def __init__(self, client: Any, token: str) -> None:
        super().__init__(client)
        self._own_token = token

    def request(self, method: str, path: str, data: dict[str, Any] | None = None) -> Answer:
        return self._send(self._own_token, method, path, data)


class InlineSession(VaultClient):
    """Acts with OpenBao's inline authentication: login and request in one call, and no token that could leak or die.

    A server that does not know the headers, such as Vault, sees a request of nobody and refuses it.
    """

    def __init__(self, client: Any, path: str, login: Callable[[], Mapping[str, str]]) -> None:
        """Take the login's path and a function that returns its fields, called for each request."""
        super().__init__(client)
        self._path = path
        self._login = login

    def request(self, method: str, path: str, data: dict[str, Any] | None = None) -> Answer:
        """Send one request, see `VaultClient.request`; raises LoginRefused when it was the login that was refused."""
        headers = {"X-Vault-Inline-Auth-Path": self._path}
        for number, (name, value) in enumerate(self._login().items()):
            field = json.dumps({"key": name, "value": value}).encode()
            headers[f"X-Vault-Inline-Auth-Parameter-{number}"] = base64.urlsafe_b64encode(field).decode().rstrip("=")
        return self._send_with(headers, method, path, data)


class VaultSession(VaultClient):
    """Acts as the process `role`: logs in with the first call and again before the token ends or when it has died."""

    def __init__(
        self, url: str, role: str, secret_id: str, *, ca_file: Path | None = None, namespace: str | None = None
    ) -> None:
        super().__init__(_client(url, role, ca_file, namespace))
        self._role_id = ROLE_PREFIX + role
        self._secret_id = secret_id
        self._lock = threading.Lock()
        self._own_token = ""
        self._renew_at = 0.0

    def request(self, method: str, path: str, data: dict[str, Any] | None = None) -> Answer:
        token = self._live_token()
        try:
            return self._send(token, method, path, data)
        except VaultRefused:
            if self._lives(token):
                raise
        return self._send(self._live_token(dead=token), method, path, data)

    def _live_token(self, dead: str | None = None) -> str:
        # The lock is held during the login: of many threads that find the token dead, one logs in.
        with self._lock:
            if time.monotonic() >= self._renew_at or self._own_token == dead:
                self._log_in()
            return self._own_token

    def _log_in(self) -> None:
        try:
            answer = self._client.auth.approle.login(self._role_id, self._secret_id, use_token=False)
        except (VaultError, urllib3.exceptions.HTTPError) as foreign:
            failure = _ours(foreign)
            # 400 "invalid role or secret ID" says the same as a 403 and is acted on alike. The cause is not chained:
            # it is about the secret id.
            raise VaultRefused if isinstance(failure, VaultRejected) else failure from None
        self._own_token = answer["auth"]["client_token"]
        self._renew_at = time.monotonic() + answer["auth"]["lease_duration"] * _RENEW_AT

    def _lives(self, token: str) -> bool:
        try:
            self._send(token, "GET", "auth/token/lookup-self", None)
        except VaultRefused:
            return False
        return True


def token_session(url: str, token: str, *, ca_file: Path | None = None, namespace: str | None = None) -> TokenSession:
    """Return a session for a token obtained elsewhere: an administrator's, for `setup.apply`."""
    return TokenSession(_client(url, "administrator", ca_file, namespace), token)


def _client(url: str, process: str, ca_file: Path | None, namespace: str | None) -> Any:
    pool = open_pool(url, None if ca_file is None else str(ca_file))
    adapter = partial(PooledAdapter, process=process)
    return hvac.Client(url, token="", verify=True, session=pool, adapter=adapter, namespace=namespace)


def _ours(foreign: Exception) -> OpenKcmError:
    """Return our error for hvac's or urllib3's.

    No answer, 5xx (sealed is 503), 429 (standby, quota), 472 and 473 (replicas) and redirects to another node mean
    that trying again can help; only a 403 is a policy's no.
    """
    status = getattr(foreign, "status", 0)
    if status == 403:
        return VaultRefused()
    if status == 400 and not getattr(foreign, "logged_in", True):
        return LoginRefused()
    reason = " ".join(", ".join(getattr(foreign, "errors", None) or ["no reason given"]).split())
    if 400 <= status < 500 and status not in (429, 472, 473):
        return VaultRejected(status, reason)
    return VaultServerError(reason) if status == 500 else VaultUnavailable()


class Capability(StrEnum):
    """What OpenBao has and Vault's community edition has not."""

    SOFT_DELETE = "soft-delete"
    INLINE_AUTH = "inline authentication"
