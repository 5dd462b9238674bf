"""Webhooks of tenants: signed CloudEvents to addresses that a customer chose.

A customer must not reach internal services through this process (server-side request forgery). So a connection goes
only to an address that the egress policy allows, and the address that was checked is the one that is used: a second
answer of the customer's name server has no effect. Redirects are not followed, no proxy of the environment is used, and
nothing of a response is shown except its status.
"""

import ssl
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from urllib.parse import urlsplit

import urllib3
from standardwebhooks import Webhook
from urllib3.exceptions import HTTPError, NameResolutionError, SSLError

from activities.notifications.events import signed_request
from core.errors.platform import NotificationUndelivered
from core.notifications import Notification
from kms.network.pinned_connections import AddressNotAllowed, BoundedPool, BoundedTlsPool, tls_context

_CONNECT_SECONDS = 2.0
"""Time to resolve the name, connect and finish the TLS handshake, and again as much to send the request."""
_RESPONSE_SECONDS = 5.0
"""Time from the end of the request to the end of what is read of the response."""
_LONGEST_RESPONSE = 4096
"""Bytes of a response that are read before the connection is closed."""


def _now() -> datetime:
    return datetime.now(UTC)


class WebhookSender:
    """Posts to webhooks of tenants; each message has a separate connection. Safe to share between threads."""

    def __init__(
        self,
        allows: Callable[[str, bool], bool],
        base_url: str,
        clock: Callable[[], datetime] = _now,
        response_seconds: float = _RESPONSE_SECONDS,
    ) -> None:
        """`allows` decides whether an IP address may be connected to, with TLS or without.

        `base_url` is the dashboard's address.
        """
        self._allows = allows
        self._base_url = base_url
        self._clock = clock
        self._timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=response_seconds)
        self._tls: ssl.SSLContext | None = None

    def send_to(self, notification: Notification, url: str, secrets: Sequence[str]) -> int:
        """Send a message with a signature for each secret, and return the status, 2xx.

        Raises:
            NotificationUndelivered: the receiver did not accept it; the text has no address and no response.
        """
        body, headers = signed_request(
            notification, self._base_url, [Webhook(secret) for secret in secrets], self._clock()
        )
        try:
            status = self._post(url, body, dict(headers))
        except (HTTPError, OSError, ValueError) as foreign:
            raise NotificationUndelivered(_problem(foreign)) from None
        if 300 <= status < 400:
            raise NotificationUndelivered(
                f"the receiver responded with {status}: redirects are not followed; use the address of the redirect"
            )
        if not 200 <= status < 300:
            raise NotificationUndelivered(f"the receiver responded with {status}")
        return status

    def _post(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        parts = urlsplit(url)
        encrypted = parts.scheme == "https"
        host, target = parts.hostname or "", (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

        def allows(address: str) -> bool:
            return self._allows(address, encrypted)

        pool: urllib3.HTTPConnectionPool
        if encrypted:
            pool = BoundedTlsPool(
                host, parts.port or 443, timeout=self._timeout, allows=allows, ssl_context=self._tls_context()
            )
        else:
            pool = BoundedPool(host, parts.port or 80, timeout=self._timeout, allows=allows)
        with pool:
            response = pool.urlopen(
                "POST",
                target,
                body=body,
                headers=headers | {"user-agent": "openkcm", "connection": "close"},
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            try:
                response.read(_LONGEST_RESPONSE)
            except (HTTPError, OSError):
                pass  # the status is known, and the body is not used
            finally:
                response.close()
            return int(response.status)

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = tls_context(None)
        return self._tls


def _problem(foreign: Exception) -> str:
    match foreign:
        case AddressNotAllowed():
            return "the host is at an address that may not be connected to: use https and a public address"
        case NameResolutionError():
            return "no address found for the host name"
        case SSLError() | ssl.SSLError():
            return "the certificate of the receiver is not trusted, or it does not use TLS"
        case _:
            return "the receiver does not respond"
