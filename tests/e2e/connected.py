"""A customer's service: the files that `openkcmctl service connect` wrote, and connections with them."""

import json
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509

from core.tenants.lifecycle import State, Transition
from openkcm.sdk.client import Options
from openkcm.sdk.protocol import Retry
from tests.e2e.stack import Stack
from tests.e2e.wires import TIMEOUT_SECONDS, dial

ONCE = Options(retry=Retry(attempts=1))
"""A client without retries, so that no rejection is hidden."""
AT_ONCE_SECONDS = 30
"""A deadline for an effect that takes milliseconds on an idle machine; it must be below the cache time of 60 s."""


@dataclass(frozen=True)
class Service:
    """One connected service; `answer` is the document that the command printed."""

    stack: Stack
    tenant_id: str
    name: str
    folder: Path
    answer: dict[str, Any] = field(repr=False)

    @property
    def csfle(self) -> dict[str, Any]:
        """Return the options for a MongoDB driver."""
        options: dict[str, Any] = json.loads((self.folder / "csfle.json").read_text())
        return options

    @property
    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.folder / "client.pem").read_bytes())

    def tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        context.load_cert_chain(self.folder / "client.pem", self.folder / "client.key")
        return context

    def open(
        self, address: str, tls: ssl.SSLContext | None = None, session: ssl.SSLSession | None = None
    ) -> ssl.SSLSocket:
        """Connect to an address with the current files of the folder or with `tls`."""
        return dial(address, tls or self.tls(), session)

    def open_https(self) -> ssl.SSLSocket:
        return self.open(self.answer["https"])

    def open_kmip(self) -> ssl.SSLSocket:
        return self.open(self.answer["kmip"])

    def disconnect(self) -> None:
        self.stack.command("service", "disconnect", self.tenant_id, self.name, "--confirm", self.name)


def connect(stack: Stack, tenant_id: str, kind: str, name: str, folder: Path) -> Service:
    """Connect a service of a tenant by the command and write its files to `folder`."""
    words = ("service", "connect", tenant_id, "--kind", kind, "--name", name, "--out", str(folder))
    return Service(stack, tenant_id, name, folder, stack.command(*words))


def command_until_done(stack: Stack, *words: str) -> dict[str, Any]:
    """Repeat a command until it is done within its 30 s; its hint states that a repetition is safe."""
    deadline = time.monotonic() + 10 * TIMEOUT_SECONDS
    while True:
        done = stack.run(*words, "--json")
        document: dict[str, Any] = json.loads(done.stdout)
        if done.returncode == 0:
            return document
        assert document["error"]["code"] in {"operation_timeout", "operation_queued"}, document
        assert time.monotonic() < deadline, document


def rejection_code(stack: Stack, *words: str) -> str:
    """Run a command that must be rejected with a hint, and return the error code."""
    done = stack.run(*words, "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["hint"]
    return str(error["code"])


@contextmanager
def hold_lock(stack: Stack, tenant_id: str) -> Iterator[None]:
    """Lock the tenant during the block, with the database role of the worker."""
    _move(stack, tenant_id, Transition.LOCK)
    try:
        yield
    finally:
        _move(stack, tenant_id, Transition.UNLOCK, State.ACTIVE)


def _move(stack: Stack, tenant_id: str, move: Transition, back_to: State | None = None) -> None:
    with stack.database().tenant_tx(tenant_id) as tx:
        tx.tenants.move(move, back_to)


def is_closed(connection: ssl.SSLSocket) -> bool:
    """Wait until the other side closes the connection; return False after the timeout of the connection."""
    with suppress(ConnectionError, ssl.SSLEOFError):
        return connection.recv(1) == b""
    return True
