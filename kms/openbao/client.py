"""Requests to a customer's OpenBao or Vault with the credentials of a root key, and the meaning of its errors."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from core.errors.keys import (
    CustomerKeyError,
    RootKeyCredentialsRefused,
    RootKeyDenied,
    RootKeyDisabled,
    RootKeyMissing,
    RootKeyServerError,
    RootKeyThrottled,
    RootKeyUnsuitable,
    WrongContext,
)
from core.keys.root_keys import Credentials, OpenBaoKeyRef
from kms.network.http import HttpResponse, Server, Transport
from kms.network.session_cache import Sessions
from openkcm.errors import OpenKcmError

_LONGEST_SESSION = 3600.0
_ACL_REFUSAL = "1 error occurred"
"""The start of a denial by a policy; an invalid token causes only `permission denied`."""


class OpenBaoCalls:
    """Requests for one root key; connections and logins are shared with all others."""

    def __init__(
        self, place: OpenBaoKeyRef, credentials: Credentials, transport: Transport, logins: Sessions[str]
    ) -> None:
        self._place = place
        self._credentials = credentials
        self._transport = transport
        self._logins = logins
        self._server = Server.at(place.address, place.ca_pem)
        identity = json.dumps([place.model_dump_json(), credentials.dump().decode()])
        self._login = hashlib.sha256(identity.encode()).digest()

    def checked(self, answer: HttpResponse) -> Mapping[str, Any]:
        """Return the data of a response; raises the error that a failed response means."""
        if answer.status in {200, 204}:
            found = answer.json().get("data")
            if not isinstance(found, dict):
                raise not_transit()
            return found
        if answer.status == 403:
            self.raise_if_token_is_dead(answer)
            raise RootKeyDenied
        raise _meaning(answer)

    def send(self, method: str, path: str, fields: Mapping[str, Any] | None = None) -> HttpResponse:
        """Send one request; a rejected token of an AppRole is replaced once, because it may have been revoked."""
        token = self._token()
        answer = self._request(method, path, fields, token)
        if answer.status == 403 and self._place.role_id is not None and not _is_policy_denial(answer):
            self._logins.forget(self._login, token)
            answer = self._request(method, path, fields, self._token())
        return answer

    def _request(self, method: str, path: str, fields: Mapping[str, Any] | None, token: str) -> HttpResponse:
        headers = {"Accept": "application/json", "Content-Type": "application/json", "X-Vault-Request": "true"}
        if token:
            headers["X-Vault-Token"] = token
        if self._place.namespace is not None:
            headers["X-Vault-Namespace"] = self._place.namespace
        body = None if fields is None else json.dumps(fields).encode()
        return self._transport.send(self._server, method, f"/v1/{path}", headers, body)

    def _token(self) -> str:
        return self._logins.current(self._login, self._renew if self._place.role_id is None else self._log_in)

    def _renew(self) -> tuple[str, float]:
        """Return the given token, renewed if it is renewable; the following request shows whether it is valid."""
        given = self._credentials.token
        token = "" if given is None else given.get_secret_value()
        answer = self._request("POST", "auth/token/renew-self", {}, token)
        auth = answer.json().get("auth") if answer.status == 200 else None
        return token, _lifetime(auth if isinstance(auth, dict) else {})

    def _log_in(self) -> tuple[str, float]:
        secret_id = self._credentials.secret_id
        fields = {"role_id": self._place.role_id, "secret_id": secret_id.get_secret_value() if secret_id else ""}
        answer = self._request("POST", "auth/approle/login", fields, "")
        if answer.status in {400, 403}:
            raise RootKeyCredentialsRefused("the AppRole login is rejected", "provide a valid role id and secret id")
        if answer.status != 200:
            raise _meaning(answer)
        auth = answer.json().get("auth")
        if not isinstance(auth, dict) or not isinstance(auth.get("client_token"), str):
            raise not_transit()
        return auth["client_token"], _lifetime(auth)

    def raise_if_token_is_dead(self, refusal: HttpResponse) -> None:
        if _is_policy_denial(refusal):
            return
        if self.send("GET", "auth/token/lookup-self").status == 403:
            raise RootKeyCredentialsRefused("the token is not accepted", "it expired or was revoked: provide a new one")


def _lifetime(auth: Mapping[str, Any]) -> float:
    """Return how many seconds a token is used before it is renewed or replaced; a duration of 0 has no end."""
    life = auth.get("lease_duration")
    return min(float(life), _LONGEST_SESSION) if isinstance(life, int) and life > 0 else _LONGEST_SESSION


def _reasons(answer: HttpResponse) -> str:
    """Return the server's error texts, only to classify them; they never appear in a message."""
    errors = answer.json().get("errors")
    return " ".join(str(one) for one in errors) if isinstance(errors, list) else ""


def _is_policy_denial(answer: HttpResponse) -> bool:
    return _ACL_REFUSAL in _reasons(answer)


def not_transit() -> RootKeyServerError:
    return RootKeyServerError(
        "the server at the root key's address has no such Transit mount", "check address and mount"
    )


def soft_deleted() -> RootKeyDisabled:
    return RootKeyDisabled(
        "the root key is soft-deleted", "restore it: bao write -f MOUNT/keys/KEY/soft-delete-restore"
    )


_MEANINGS: tuple[tuple[str, type[CustomerKeyError | WrongContext]], ...] = (
    ("message authentication failed", WrongContext),
    ("invalid ciphertext", WrongContext),
    ("missing ciphertext", WrongContext),
    ("disallowed by policy (too old)", RootKeyDisabled),
    ("soft-deleted", RootKeyDisabled),
    ("key not found", RootKeyMissing),
    ("non-AEAD", RootKeyUnsuitable),
    ("not supported", RootKeyUnsuitable),
    ("missing 'context'", RootKeyUnsuitable),
)


def _meaning(answer: HttpResponse) -> OpenKcmError:
    """Return the error for a failure other than 403; an unknown failure counts as an error of the server."""
    if answer.status == 503 and b"sealed" in answer.body:
        return RootKeyDisabled("the key server is sealed", "unseal it")
    if answer.status == 429:
        return RootKeyThrottled()
    if answer.status == 404:
        return _missing(_reasons(answer))
    reasons = _reasons(answer) if answer.status == 400 else ""
    for part, meaning in _MEANINGS:
        if part in reasons:
            return soft_deleted() if part == "soft-deleted" else meaning()
    return RootKeyServerError()


def _missing(reasons: str) -> RootKeyMissing:
    if "namespace" in reasons:
        return RootKeyMissing("the namespace does not exist", "check the namespace")
    if "no handler" in reasons:
        return RootKeyMissing("no secrets engine is mounted at this path", "check the mount's path and the namespace")
    return RootKeyMissing()
