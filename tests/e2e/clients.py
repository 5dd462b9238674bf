"""A service as a running program with an HTTPS and a KMIP connection, and the result of each kind of request."""

import base64
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from ssl import SSLError, SSLSocket
from typing import Any, TypeVar

from crypto_service.kmip.codec.enums import Operation
from crypto_service.kmip.codec.fields import choice, octets, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from tests.crypto_service.kmip.messages import batch_item, encoded, message
from tests.crypto_service.kmip.scene import creation, gcm
from tests.e2e.connected import Service, connect
from tests.e2e.kmip_wire import activated_key, send
from tests.e2e.stack import Stack
from tests.e2e.wires import HttpsWire, KmipWire, post

OK = "ok"
SERVICE = "ledger"
Answer = TypeVar("Answer")
_RESOURCE = "record/1"
_PLAINTEXT = base64.b64encode(b"a record").decode()


def data_key(resource: str, correlation: str = "") -> bytes:
    """Return the request for a data key."""
    headers = {"x-request-id": correlation} if correlation else {}
    return post("/v1/data-keys", {"resource": resource}, headers)


def get(object_id: str, correlation: str = "") -> bytes:
    """Return the request for an object."""
    header = (text(Tag.CLIENT_CORRELATION_VALUE, correlation),) if correlation else ()
    return encoded(message(batch_item(Operation.GET, text(Tag.UNIQUE_IDENTIFIER, object_id)), header=header))


class Program:
    """`prepare` creates the needed objects; `probe` sends one request of each kind and returns the results."""

    def __init__(self, service: Service, object_id: str = "", ciphertext: str = "") -> None:
        self.service, self.object_id, self._ciphertext = service, object_id, ciphertext
        self._wires: dict[type[Any], Any] = {}

    def prepare(self) -> None:
        """Create an active key over KMIP and a ciphertext over HTTPS."""
        with self.service.open_kmip() as kmip:
            self.object_id = activated_key(kmip)
        with HttpsWire(self.service.open_https()) as https:
            body = {"resource": _RESOURCE, "plaintext": _PLAINTEXT}
            self._ciphertext = https.ask(post("/v1/encrypt", body))["ciphertext"]

    def hang_up(self) -> None:
        """Close both connections; the next request opens new ones."""
        while self._wires:
            self._wires.popitem()[1].socket.close()

    def probe(self, *names: str) -> dict[str, str]:
        """Return, by request, `ok` or the error code (HTTPS) or error message (KMIP); without names, of all requests.

        The requests over HTTPS and KMIP run at the same time.
        """
        it = text(Tag.UNIQUE_IDENTIFIER, self.object_id)
        requests = {
            "encrypt": post("/v1/encrypt", {"resource": _RESOURCE, "plaintext": _PLAINTEXT}),
            "decrypt": post("/v1/decrypt", {"resource": _RESOURCE, "ciphertext": self._ciphertext}),
            "data key": data_key(_RESOURCE),
        }
        items = {
            "Get": batch_item(Operation.GET, it),
            "Encrypt": batch_item(Operation.ENCRYPT, it, gcm(), octets(Tag.DATA, b"data")),
            "Create": batch_item(*creation()),
            "Get Attributes": batch_item(Operation.GET_ATTRIBUTES, it),
            "Locate": batch_item(Operation.LOCATE),
            "Query": batch_item(Operation.QUERY, choice(Tag.QUERY_FUNCTION, 1)),
        }

        def ask_all(ask: Callable[[Any], str], wanted: Mapping[str, Any]) -> dict[str, str]:
            return {name: ask(one) for name, one in wanted.items() if not names or name in names}

        with ThreadPoolExecutor(2) as both:
            https, kmip = both.submit(ask_all, self.https, requests), both.submit(ask_all, self.kmip, items)
            return https.result() | kmip.result()

    def works(self) -> bool:
        return set(self.probe().values()) == {OK}

    def refuses_all(self) -> bool:
        """Return whether every request is rejected; a connection that the change closes does not count."""
        try:
            return OK not in self.probe().values()
        except (EOFError, OSError):
            return False

    def https(self, request: bytes) -> str:
        (reply,) = self._with_reconnect(lambda wire: list(wire.all([request])), HttpsWire, self.service.open_https)
        return OK if reply.status == 200 else str(reply.json["code"])

    def kmip(self, item: Item) -> str:
        (answer,) = self._with_reconnect(lambda wire: send(wire.socket, item), KmipWire, self.service.open_kmip)
        error = answer.first(Tag.RESULT_MESSAGE)
        return OK if error is None else str(error.value)

    def _with_reconnect(
        self, ask: Callable[[Any], Answer], kind: type[Any], open_connection: Callable[[], SSLSocket]
    ) -> Answer:
        """Send on the open connection, or on a new one if the server has closed it, which is allowed."""
        if kind in self._wires:
            with suppress(ConnectionError, EOFError, SSLError):
                return ask(self._wires[kind])
            self._wires.pop(kind).socket.close()
        self._wires[kind] = kind(open_connection())
        return ask(self._wires[kind])


def start_program(stack: Stack, tenant_id: str, folder: Path, name: str = SERVICE) -> Program:
    """Connect a service of a tenant and encrypt data with it."""
    program = Program(connect(stack, tenant_id, "microservice", name, folder / name))
    program.prepare()
    return program
