"""hvac's transport over one urllib3 pool instead of requests: 0.3 ms of CPU per call instead of 0.7 ms.

The provisioning of one tenant makes about 25 calls, so at 300 tenants in half a minute the client's CPU is the limit.
Nothing else changes: hvac builds the calls and raises its exceptions.
"""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import urllib3
from hvac.adapters import Adapter
from hvac.exceptions import VaultError

from core import correlation

Answer = dict[str, Any]

POOL_SIZE = 32
CONNECT_SECONDS = 1.0
RESPONSE_SECONDS = 5
CORRELATION_HEADER = "X-Correlation-ID"
"""The correlation id of the operation, as in the audit stream; the server's audit log contains it (vault/setup.py)."""
PROCESS_HEADER = "X-OpenKCM-Process"
"""The name of the calling process, independent of its identity; the server's audit log contains it too."""
_MAX_ID_LENGTH = 128
"""More than the longest id, that of a service's workflow."""
_ROOT_NAMESPACE = ("/v1/sys/health", "/v1/sys/config/auditing/")
"""Paths that the server has in the root namespace only."""
_INLINE_AUTH_FAILED = "X-Vault-Inline-Auth-Failed"
"""OpenBao's header in the response to a request whose inline login was rejected."""

PLAIN_HTTP = "Client sent an HTTP request to an HTTPS server"
"""Go's response, in plain text, to a client that does not use TLS."""


def open_pool(url: str, ca_file: str | None) -> urllib3.HTTPConnectionPool:
    """Return the keep-alive pool for the server at `url`; TLS is verified against `ca_file` or the system's store."""
    options: dict[str, Any] = {} if not url.startswith("https://") else {"ca_certs": ca_file, "cert_reqs": "REQUIRED"}
    return urllib3.connection_from_url(
        url,
        maxsize=POOL_SIZE,
        block=True,
        retries=False,
        timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=RESPONSE_SECONDS),
        **options,
    )


class PooledAdapter(Adapter):  # type: ignore[misc]  # hvac ships no types
    """The adapter by which hvac.Client sends requests; the pool is hvac's `session`.

    It ignores environment variables (proxies, VAULT_TOKEN, client certificates) and follows no redirect, so that a
    token is sent only to the configured address.
    """

    def __init__(
        self,
        base_uri: str,
        *,
        session: urllib3.HTTPConnectionPool,
        process: str,
        on_response: Callable[[], None] | None = None,
        namespace: str | None = None,
        **_unused: Any,
    ) -> None:
        self.base_uri = base_uri
        self.session = session
        self.namespace = namespace
        self.token = ""
        self._on_response = on_response
        self._prefix = urlsplit(base_uri).path.rstrip("/")
        self._headers = {"X-Vault-Request": "true", "Content-Type": "application/json", PROCESS_HEADER: process}

    def get_login_token(self, response: Answer) -> str:
        """Return the token in a login's response."""
        return str(response["auth"]["client_token"])

    def request(
        self,
        method: str,
        url: str,
        headers: dict[str, str] | None = None,
        raise_exception: bool = True,  # noqa: ARG002, FBT001, FBT002 - hvac's signature
        **options: Any,
    ) -> Answer:
        """Send one request and return the JSON of its response, `{}` for an empty one.

        Raises: hvac's VaultError with the HTTP status as `status`, and `logged_in` false when the inline login was
            rejected; urllib3's HTTPError when no response arrived.
        """
        body = options.get("json")
        correlation_id = correlation.shown(_MAX_ID_LENGTH)
        sent = self._headers | ({CORRELATION_HEADER: correlation_id} if correlation_id else {}) | (headers or {})
        if self.namespace and not url.startswith(_ROOT_NAMESPACE):
            sent["X-Vault-Namespace"] = self.namespace
        response = self.session.urlopen(
            method.upper(),
            self._prefix + url,
            body=None if body is None else json.dumps(body).encode(),
            headers=sent,
            redirect=False,
            pool_timeout=RESPONSE_SECONDS,
        )
        if self._on_response is not None:
            self._on_response()
        try:
            answer = json.loads(response.data) if response.data else {}
        except ValueError:
            answer = {}
        if response.status == 400 and response.data.startswith(PLAIN_HTTP.encode()):
            raise urllib3.exceptions.ProtocolError(PLAIN_HTTP)
        if response.status >= 300:
            failure = VaultError.from_status(
                response.status, "no reason given", errors=answer.get("errors"), method=method, url=url
            )
            failure.status = response.status
            failure.logged_in = _INLINE_AUTH_FAILED not in response.headers
            raise failure
        return dict(answer)
