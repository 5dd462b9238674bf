"""hvac's transport over one urllib3 pool instead of requests: 0.3 ms of CPU a call where requests takes 0.7.

Provisioning one tenant is about 25 calls, so at 300 tenants in half a minute the client's CPU is what runs out first.
Nothing else changes: hvac builds the calls and its exceptions say how they failed.
"""

import json
from typing import Any
from urllib.parse import urlsplit

import urllib3
from hvac.adapters import Adapter
from hvac.exceptions import VaultError

from core import correlation

Answer = dict[str, Any]

POOL_SIZE = 32
CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 5
CORRELATION_HEADER = "X-Correlation-ID"
"""What is being done, as our audit stream names it; the server's audit log shows it (vault/setup.py)."""
PROCESS_HEADER = "X-OpenKCM-Process"
"""Which of our processes asks, whatever identity it shows; shown there as well."""
_LONGEST_ID = 128
"""More than our longest id, a workflow's of one service."""
_INLINE_AUTH_FAILED = "X-Vault-Inline-Auth-Failed"
"""OpenBao's mark on the answer to a request that it did not even look at, because its login was refused."""


def open_pool(url: str, ca_file: str | None) -> urllib3.HTTPConnectionPool:
    """Return the keep-alive pool for the server at `url`; TLS is verified against `ca_file` or the system's store."""
    options: dict[str, Any] = {} if not url.startswith("https://") else {"ca_certs": ca_file, "cert_reqs": "REQUIRED"}
    return urllib3.connection_from_url(
        url,
        maxsize=POOL_SIZE,
        block=True,
        retries=False,
        timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=ANSWER_SECONDS),
        **options,
    )


class PooledAdapter(Adapter):  # type: ignore[misc]  # hvac ships no types
    """What hvac.Client calls to send a request. The pool is handed in as hvac's `session`.

    Environment variables (proxies, VAULT_TOKEN, client certificates) are ignored and redirects are not followed: a
    token goes to the configured address and nowhere else.
    """

    def __init__(
        self,
        base_uri: str,
        *,
        session: urllib3.HTTPConnectionPool,
        process: str,
        namespace: str | None = None,
        **_unused: Any,
    ) -> None:
        self.base_uri = base_uri
        self.session = session
        self.namespace = namespace
        self.token = ""
        self._prefix = urlsplit(base_uri).path.rstrip("/")
        self._headers = {"X-Vault-Request": "true", "Content-Type": "application/json", PROCESS_HEADER: process}
        if namespace:
            self._headers["X-Vault-Namespace"] = namespace

    def get_login_token(self, response: Answer) -> str:
        """Return the token of a login's answer."""
        return str(response["auth"]["client_token"])

    def request(
        self,
        method: str,
        url: str,
        headers: dict[str, str] | None = None,
        raise_exception: bool = True,  # noqa: ARG002, FBT001, FBT002 - hvac's signature
        **options: Any,
    ) -> Answer:
        """Send one request and return its JSON, `{}` when there is none.

        Raises: hvac's VaultError with the HTTP status as `status`, and `logged_in` false when it is the request's own
            login that was refused; urllib3's HTTPError when no answer came.
        """
        body = options.get("json")
        doing = correlation.shown(_LONGEST_ID)
        sent = self._headers | ({CORRELATION_HEADER: doing} if doing else {}) | (headers or {})
        response = self.session.urlopen(
            method.upper(),
            self._prefix + url,
            body=None if body is None else json.dumps(body).encode(),
            headers=sent,
            redirect=False,
            pool_timeout=ANSWER_SECONDS,
        )
        try:
            answer = json.loads(response.data) if response.data else {}
        except ValueError:
            answer = {}
        if response.status >= 300:
            failure = VaultError.from_status(
                response.status, "no reason given", errors=answer.get("errors"), method=method, url=url
            )
            failure.status = response.status
            failure.logged_in = _INLINE_AUTH_FAILED not in response.headers
            raise failure
        return dict(answer)
