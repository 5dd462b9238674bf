"""Requests to a customer's key server: limited in time and size, without redirects and retries.

Connection failures become errors of `core.errors.keys`; the provider interprets the responses.
"""

import json
import ssl
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError, NameResolutionError, ReadTimeoutError, SSLError

from core.errors.keys import CustomerKeyError, RootKeyServerError, RootKeyTimeout, RootKeyUnreachable
from kms.network.pinned_connections import AddressNotAllowed, BoundedPool, BoundedTlsPool, tls_context

LARGEST_RESPONSE = 65_536
_POOLS = 1024
_shared_context = lru_cache(maxsize=256)(tls_context)


@dataclass(frozen=True, slots=True)
class Server:
    """An origin and its trusted CA certificates (None: those of the system)."""

    scheme: str
    host: str
    port: int
    ca_pem: str | None = field(default=None, repr=False)

    @classmethod
    def at(cls, address: str, ca_pem: str | None = None) -> "Server":
        """Return the origin of `address`, a validated http or https URL."""
        parts = urlsplit(address)
        return cls(parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80), ca_pem)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """Return the JSON object in the body, `{}` for an empty body; raises RootKeyServerError for any other body."""
        if not self.body:
            return {}
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise RootKeyServerError("the server at the root key's address is not its key server", "check the address")
        return found


class Transport:
    """Connections to many servers, shared by all their root keys and by threads; `send` connects on demand."""

    def __init__(self, timeout_seconds: float, allows: Callable[[str, bool], bool], kept: int = 48) -> None:
        """`allows` decides whether an address may be connected to, with TLS or without.

        `kept` is the maximum number of idle connections to one server.
        """
        self._timeout = timeout_seconds
        self._kept = kept
        self._allows = allows
        self._pools: OrderedDict[Server, urllib3.HTTPConnectionPool] = OrderedDict()
        self._lock = threading.Lock()

    def send(
        self, server: Server, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> HttpResponse:
        """Return the response, regardless of its status.

        Raises: RootKeyUnreachable, RootKeyTimeout, RootKeyServerError.
        """
        try:
            response = self._pool(server).urlopen(
                method,
                path,
                body=body,
                headers=dict(headers),
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            content = response.read(LARGEST_RESPONSE + 1)
            if len(content) > LARGEST_RESPONSE:
                response.close()
        except (HTTPError, OSError, ValueError) as foreign:
            raise _error_for(foreign, server) from None
        if len(content) > LARGEST_RESPONSE:
            raise RootKeyServerError("the response of the root key's server is too long", "check the address")
        if 300 <= response.status < 400:
            raise RootKeyUnreachable(
                "the root key's server redirects, which is not followed", "use the address of the redirect"
            )
        return HttpResponse(response.status, response.headers, content)

    def _pool(self, server: Server) -> urllib3.HTTPConnectionPool:
        with self._lock:
            pool = self._pools.get(server)
            if pool is None:
                pool = self._pools[server] = self._new_pool(server)
                if len(self._pools) > _POOLS:
                    self._pools.popitem(last=False)[1].close()
            self._pools.move_to_end(server)
            return pool

    def _new_pool(self, server: Server) -> urllib3.HTTPConnectionPool:
        kind: Callable[..., urllib3.HTTPConnectionPool] = BoundedPool
        encrypted = server.scheme == "https"
        more: dict[str, Any] = {"allows": lambda address: self._allows(address, encrypted)}
        if encrypted:
            kind, more["ssl_context"] = BoundedTlsPool, _shared_context(server.ca_pem)
        timeout = urllib3.Timeout(connect=self._timeout, read=self._timeout)
        return kind(server.host, server.port, timeout=timeout, maxsize=self._kept, block=False, **more)


def _error_for(foreign: Exception, server: Server) -> CustomerKeyError:
    match foreign:
        case AddressNotAllowed():
            return RootKeyUnreachable(
                f"{server.host} is not at an address that may be connected to",
                "use https and a public address, or ask the operator to allow the network",
            )
        case NameResolutionError():
            return RootKeyUnreachable(f"no address found for {server.host}", "check the host name in the address")
        case ReadTimeoutError() | TimeoutError():
            return RootKeyTimeout()
        case SSLError() | ssl.SSLError():
            return RootKeyUnreachable(
                f"the certificate of {server.host} is not trusted, or it does not speak TLS",
                "provide the CA certificates, and check that the server's certificate contains the address",
            )
        case _:
            return RootKeyUnreachable(f"{server.host}:{server.port} does not answer")
