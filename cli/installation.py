"""`openkcmctl doctor`: check an installation from the host of an operator, with the addresses in the settings.

It connects to the servers with the operator's identity, and to the addresses that clients use, which may be those of
load balancers. It needs no port of a process and no secret of another role.
"""

import json
import re
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cryptography import x509

from cli.connections import Ask, operator_database, operator_vault
from config.settings import Settings
from core.errors.compliance import CanaryMissing
from core.errors.tls import OPENSSL_FAULTS, TlsFault, find_tls_fault
from core.names import CANARY_TENANT_ID
from database.connection.database import Database
from database.postgres.access import encrypted_address
from openkcm.errors import OpenKcmError, os_reason

if TYPE_CHECKING:
    from workflows.client.workflow_client import WorkflowClient

_SECONDS = 5.0
_LEAST_PART = 6
"""A certificate of which less than this part of its lifetime is left is late, as in the alerts."""
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
"""PostgreSQL's message SSLRequest; the server answers with one byte, S if it uses TLS."""
_REASON = re.compile(r"[a-z_]{1,64}")

HTTPS_PORT = 443
RENEW_HINT = "renew the certificate of this server"
PROXY_HINT = (
    "let the load balancer send X-Forwarded-For (proxy_networks) instead of the PROXY protocol, which only the crypto"
    " service understands"
)
BALANCER_HINT = "check the load balancer, the instances behind it (docs/production.md#checks-and-stop), and the setting"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check; `hint` is the next step if it failed."""

    name: str
    ok: bool
    detail: str
    hint: str = ""


def check_installation(settings: Settings, ask: Ask) -> Sequence[Check]:
    """Return the results of all checks; nothing is changed."""
    checks: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("database", partial(_database, settings)),
        ("key server", partial(_key_server, settings)),
        ("workflow service", partial(_workflow_service, settings, ask)),
        ("marketplace", partial(_readiness, "marketplace", settings.enrolment_url, "marketplace_base_url")),
        ("dashboard", partial(_readiness, "dashboard", settings.dashboard_url, "base_url")),
        ("crypto service", partial(_crypto_service, settings)),
    ]
    return [result for name, check in checks for result in _guarded(name, check)]


def _guarded(name: str, check: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from check()
    except OpenKcmError as failed:
        yield Check(name, ok=False, detail=failed.message, hint=failed.hint)


def _database(settings: Settings) -> Iterator[Check]:
    with operator_database(settings) as database:
        database.require_ready()
    yield Check("database", ok=True, detail="responds, and its schema suits this version")
    address = encrypted_address(settings.postgres_url)
    if address is not None:
        yield from _validity("database", *address, _greet_postgresql)


def _key_server(settings: Settings) -> Iterator[Check]:
    operator_vault(settings).read("auth/token/lookup-self")
    yield Check("key server", ok=True, detail="responds, and accepts the operator")
    place = urlsplit(settings.vault_url)
    if place.scheme == "https":
        yield from _validity("key server", place.hostname or "", place.port or HTTPS_PORT)


def _workflow_service(settings: Settings, ask: Ask) -> Iterator[Check]:
    polls, address = False, None

    async def look_for_workers(gateway: "WorkflowClient") -> None:
        nonlocal polls, address
        polls, address = await gateway.has_workers(), gateway.encrypted_address

    ask(settings, look_for_workers)
    yield Check("workflow service", ok=True, detail="responds")
    detail = "polls for tasks" if polls else "none has polled for tasks within five minutes"
    yield Check("worker", polls, detail, "" if polls else "start a worker, and read the line `waiting` in its log")
    if address is not None:
        yield from _validity("workflow service", *address)


def _readiness(name: str, url: str, setting: str) -> Iterator[Check]:
    """Ask for the readiness under the address that clients use, which must be trusted as browsers do."""
    place, hint = urlsplit(url), f"{BALANCER_HINT} {setting}"
    host, port = place.hostname or "", place.port
    connection = HTTPConnection(host, port, timeout=_SECONDS)
    if place.scheme == "https":
        connection = HTTPSConnection(host, port, timeout=_SECONDS, context=ssl.create_default_context())
    try:
        connection.request("GET", f"{place.path}/readyz")
        tls = connection.sock
        certificate = tls.getpeercert(binary_form=True) if isinstance(tls, ssl.SSLSocket) else None
        response = connection.getresponse()
        status, body = response.status, response.read(65_536)
    except (OSError, HTTPException) as failed:
        yield Check(name, ok=False, detail=f"{url}: {_reason(failed)}", hint=hint)
        return
    finally:
        connection.close()
    if status == HTTPStatus.BAD_REQUEST:
        hint = PROXY_HINT
    ready = status == HTTPStatus.OK
    detail = f"{url} is ready" if ready else f"{url}/readyz returns {status} {_reasons(body)}".rstrip()
    yield Check(name, ready, detail, "" if ready else hint)
    if certificate is not None:
        yield _valid(f"certificate of {name}", x509.load_der_x509_certificate(certificate))


def _crypto_service(settings: Settings) -> Iterator[Check]:
    with operator_database(settings) as database:
        root = _platform_root(database)
    # The root of the platform alone, as in the files of a service. Without a client certificate the service ends the
    # connection only after this side of the handshake.
    context = ssl.create_default_context(cadata=root)
    for name, port in zip(("crypto service HTTPS", "crypto service KMIP"), settings.crypto_ports, strict=True):
        address = f"{settings.crypto_name}:{port}"
        try:
            certificate = _presented(settings.crypto_name, port, context)
        except OSError as failed:
            hint = f"{BALANCER_HINT}s crypto_names, crypto_proxy_networks and the public ports"
            yield Check(name, ok=False, detail=f"{address}: {_reason(failed)}", hint=hint)
        else:
            yield Check(name, ok=True, detail=f"{address} responds with a certificate of this installation")
            yield _valid(f"certificate of {name}", certificate)


def _platform_root(database: Database) -> str:
    """Return the root of the platform's certificates, PEM, which each tenant's chain ends with."""
    with database.tenant_tx(CANARY_TENANT_ID) as tx:
        authority = tx.certificates.authority()
    if authority is None:
        raise CanaryMissing
    return authority.chain_pem


def _validity(name: str, host: str, port: int, greet: Callable[[socket.socket], None] | None = None) -> Iterator[Check]:
    """Report the certificate of a server which the check before has verified: this reads only its dates and names."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        yield _valid(f"certificate of {name}", _presented(host, port, context, greet))
    except OSError as failed:
        yield Check(f"certificate of {name}", ok=False, detail=f"{host}:{port}: {_reason(failed)}", hint=RENEW_HINT)


def _presented(
    host: str, port: int, context: ssl.SSLContext, greet: Callable[[socket.socket], None] | None = None
) -> x509.Certificate:
    with socket.create_connection((host, port), timeout=_SECONDS) as plain:
        if greet is not None:
            greet(plain)
        with context.wrap_socket(plain, server_hostname=host) as encrypted:
            return x509.load_der_x509_certificate(encrypted.getpeercert(binary_form=True) or b"")


def _greet_postgresql(plain: socket.socket) -> None:
    plain.sendall(_SSL_REQUEST)
    if plain.recv(1) != b"S":
        raise ConnectionError(0, TlsFault.NO_TLS)


def _valid(name: str, certificate: x509.Certificate) -> Check:
    now, begin, end = datetime.now(UTC), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = ", ".join(str(one.value) for one in found)
    except x509.ExtensionNotFound:
        names = "no name"
    is_late = end - now < (end - begin) / _LEAST_PART
    return Check(name, not is_late, f"valid until {end:%Y-%m-%d %H:%M} UTC for {names}", RENEW_HINT if is_late else "")


def _reason(failed: Exception) -> str:
    """Return why a connection failed, without text from the other side."""
    if isinstance(failed, ssl.SSLEOFError | ConnectionResetError):
        return "the other side ends the connection"
    if isinstance(failed, ssl.SSLError):
        return find_tls_fault(str(failed), OPENSSL_FAULTS) or "the TLS handshake failed"
    if isinstance(failed, TimeoutError):
        return f"no response within {_SECONDS:g} s"
    return os_reason(failed) if isinstance(failed, OSError) else "it does not speak HTTP"


def _reasons(body: bytes) -> str:
    """Return the reasons of an instance that is not ready; a load balancer without one sends another page."""
    try:
        reasons = json.loads(body)["reasons"]
    except (ValueError, KeyError, TypeError):
        return ""
    if not isinstance(reasons, list):
        return ""
    return ", ".join(reason for reason in reasons if isinstance(reason, str) and _REASON.fullmatch(reason))
