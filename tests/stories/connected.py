"""A customer's service as its owner has it: what `openkcmctl service connect` wrote, and connections made with it."""

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
from tests.stories.stack import Stack
from tests.stories.wires import PATIENCE_SECONDS, dial

ONCE = Options(retry=Retry(attempts=1))
"""A client that sends nothing again, so that no refusal stays unseen."""
AT_ONCE_SECONDS = 30
"""A deadline for what takes milliseconds on a quiet machine; after the cache time, 60 s, it would happen anyway."""


@dataclass(frozen=True)
class Service:
    """One connected service. `answer` is what the command printed."""

    stack: Stack
    tenant_id: str
    name: str
    folder: Path
    answer: dict[str, Any] = field(repr=False)

    @property
    def csfle(self) -> dict[str, Any]:
        """Return the options that a MongoDB driver is to be given."""
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
        """Open a connection to an address with what is in the folder now or with `tls`."""
        return dial(address, tls or self.tls(), session)

    def open_https(self) -> ssl.SSLSocket:
        return self.open(self.answer["https"])

    def open_kmip(self) -> ssl.SSLSocket:
        return self.open(self.answer["kmip"])

    def disconnect(self) -> None:
        self.stack.command("service", "disconnect", self.tenant_id, self.name, "--confirm", self.name)


def connect(stack: Stack, tenant_id: str, kind: str, name: str, folder: Path) -> Service:
    """Connect a service of a tenant into `folder`, as its owner would."""
    words = ("service", "connect", tenant_id, "--kind", kind, "--name", name, "--out", str(folder))
    return Service(stack, tenant_id, name, folder, stack.command(*words))


def command_until_done(stack: Stack, *words: str) -> dict[str, Any]:
    """Run a command again while it is not done in the 30 s that it waits; its hint says that this does no harm."""
    deadline = time.monotonic() + 10 * PATIENCE_SECONDS
    while True:
        done = stack.run(*words, "--json")
        document: dict[str, Any] = json.loads(done.stdout)
        if done.returncode == 0:
            return document
        assert document["error"]["code"] == "not_done_in_time", document
        assert time.monotonic() < deadline, document


def refused(stack: Stack, *words: str) -> str:
    """Run a command that is refused with a hint, and return its code."""
    done = stack.run(*words, "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["hint"]
    return str(error["code"])


@contextmanager
def locked(stack: Stack, tenant_id: str) -> Iterator[None]:
    """Keep the tenant locked; as its workflow will do it, by the worker's role."""
    _move(stack, tenant_id, Transition.LOCK)
    try:
        yield
    finally:
        _move(stack, tenant_id, Transition.UNLOCK, State.ACTIVE)


def _move(stack: Stack, tenant_id: str, move: Transition, back_to: State | None = None) -> None:
    with stack.database().tenant_tx(tenant_id) as tx:
        tx.tenants.move(move, back_to)


def is_closed(connection: ssl.SSLSocket) -> bool:
    """Wait for the other side to end the connection; False when it has not within the connection's patience."""
    with suppress(ConnectionError, ssl.SSLEOFError):
        return connection.recv(1) == b""
    return True
