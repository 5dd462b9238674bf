"""Fuzzing of the HTTPS listener without network: parser, loop, routes and operations, with keys in memory."""

import asyncio
import base64
import json
import random
import time
from collections.abc import Sequence
from typing import Any, cast

from core.errors.services import ObjectNotFound
from core.names import l2_key
from core.tenants.lifecycle import State
from crypto_service.https.schemas import HeartbeatRequest
from crypto_service.https.server import HttpsServer
from crypto_service.interfaces import ClientIdentity
from crypto_service.keys.operations import CryptoOperations
from crypto_service.server.connection import Connection
from database.services.protected_fields import ProtectionRow
from openkcm.contract.client_files import Offer
from tests.benchmarks.fuzzing.in_memory_server import LIMIT, Given, Stand
from tests.benchmarks.fuzzing.run import Account, measure

_RESOURCE = "orders/1"
_TEXTS = ("", "x", "\0", "../..", "' or 1=1 --", "é" * 40, "a" * 5000, "okcm:v1:", "okcm:v1:AAAA", "\ud800")
_NUMBERS = (0, -1, 1, 2**31, 2**63, 2**64, 1e308, -0.0, 10**40)
_REPEATED_BYTES = 2_000
_DEEP: Any = json.loads("[" * 200 + "]" * 200)
_HEADERS = (
    b"content-length: 5\r\n",
    b"content-length: -1\r\n",
    b"content-length: 99999999999999999999\r\n",
    b"transfer-encoding: chunked\r\n",
    b"transfer-encoding: gzip, chunked\r\n",
    b"expect: 100-continue\r\n",
    b"connection: close\r\n",
    b"host: other\r\n",
    b"x-request-id: " + b"a" * 300 + b"\r\n",
    b" folded\r\n",
    b"upgrade: h2c\r\n",
)


class HttpsStand(Stand):
    """`errors` also has the responses that report an internal error."""

    def __init__(self) -> None:
        super().__init__()
        self._server = HttpsServer(
            self._parts,
            self._connections,
            LIMIT,
            cast("Any", self),
            cast("Any", self),
            cast("Any", self),
            Offer("https://localhost:0", "localhost:5696"),
        )

    async def send(self, pieces: Sequence[bytes]) -> bytes:
        answer = await super().send(pieces)
        if b"HTTP/1.1 5" in answer:
            self.errors.append(repr(answer[:200]))
        return answer

    def _protocol(self) -> Connection:
        return self._server.protocol()

    # Stubs for certificates, heartbeats and protected fields.

    async def newest(self, _caller: ClientIdentity) -> Any:
        raise ObjectNotFound

    async def revocation_list(self, _caller: ClientIdentity, **_former: bool) -> bytes:
        raise ObjectNotFound

    async def note(self, _caller: ClientIdentity, _heartbeat: HeartbeatRequest) -> bool:
        return False

    async def of(self, _caller: ClientIdentity) -> ProtectionRow:
        return ProtectionRow(0, [])


class HttpsMutator:
    """Deterministic for its seed, so that findings are reproducible."""

    def __init__(self, requests: Sequence[tuple[str, Any]], seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - reproducible on purpose, not secret
        self._requests = requests

    def pieces(self, number: int) -> list[bytes]:
        """Return a request with damaged bytes (a third) or a changed document, in pieces."""
        path, document = self._random.choice(self._requests)
        if number % 3 == 0:
            data = bytearray(_request(path, document))
            for _ in range(self._random.choice((1, 1, 2, 8))):
                self._damage(data)
            return self._cut(bytes(data))
        for _ in range(self._random.choice((1, 1, 2, 4))):
            document = self._changed(document)
        return self._cut(_request(path, document))

    def _cut(self, data: bytes) -> list[bytes]:
        places = sorted(self._random.randrange(len(data) + 1) for _ in range(self._random.randrange(4)))
        return [data[begin:end] for begin, end in zip([0, *places], [*places, len(data)], strict=True)]

    def _changed(self, value: Any) -> Any:
        if isinstance(value, dict) and value and self._random.random() < 0.8:
            name = self._random.choice(list(value))
            what = self._random.random()
            if what < 0.7:
                return value | {name: self._changed(value[name])}
            rest = {key: one for key, one in value.items() if key != name}
            return rest if what < 0.85 else rest | {self._random.choice(("x", "items", "", "tenant")): value[name]}
        if isinstance(value, list) and value and self._random.random() < 0.8:
            one, times = self._changed(self._random.choice(value)), self._random.choice((0, 1, 2, 1001))
            # Lists in repeated lists would have millions of items, which only the fuzzer would process.
            return [one] * (times if len(json.dumps(one)) < _REPEATED_BYTES else min(times, 2))
        if isinstance(value, str) and value and self._random.random() < 0.5:
            place = self._random.randrange(len(value))
            return value[:place] + self._random.choice(("A", "=", " ", "\n", "é", "")) + value[place + 1 :]
        return self._random.choice((None, True, *_NUMBERS, *_TEXTS, [], {}, _DEEP, self._random.choice(self._requests)))

    def _damage(self, data: bytearray) -> None:
        place = self._random.randrange(len(data) + 1)
        match self._random.randrange(6):
            case 0 if data:
                data[place % len(data)] ^= 1 << self._random.randrange(8)
            case 1:
                del data[place:]
            case 2:
                data[place:place] = self._random.randbytes(self._random.choice((1, 8, 64)))
            case 3:
                end_of_line = data.find(b"\r\n") + 2
                data[end_of_line:end_of_line] = self._random.choice(_HEADERS)
            case 4:
                other = _request(*self._random.choice(self._requests))
                data[place:] = other[self._random.randrange(len(other)) :]
            case _:
                data[place : place + 8] = b""


def _request(path: str, document: Any) -> bytes:
    """Return a POST of a document, or with None a GET."""
    body = b"" if document is None else json.dumps(document).encode("utf-8", "surrogatepass")
    head = f"{'GET' if document is None else 'POST'} {path} HTTP/1.1\r\nhost: localhost\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


async def _requests() -> list[tuple[str, Any]]:
    """Return a valid request of every endpoint; the ciphertexts are of the stand's key."""
    given = Given()
    operations = CryptoOperations(given, given, given)
    caller = ClientIdentity("fuzz-corp", "orders", l2_key("fuzz-corp"), "eu-west-1", "1a2b", State.ACTIVE)
    sealed = {"ciphertext": await operations.encrypt(caller, _RESOURCE, b"Jane Roe"), "resource": _RESOURCE}
    wrapped = (await operations.new_data_key(caller, _RESOURCE, with_plaintext=False)).wrapped
    plain = {"plaintext": base64.b64encode(b"Jane Roe").decode(), "resource": _RESOURCE}
    use = {"place": "public.t.c", "operations": 1, "bytes": 8, "microseconds": 9}
    agent = {"instance": "host-1", "agent_version": "1", "not_after": "2030-01-01T00:00:00Z"}
    uses = [use | {"requests": 1, "request_microseconds": 5}]
    backfills = [{"place": "public.t.c", "done": 1, "remaining": 2, "state": "running"}]
    return [
        ("/v1/encrypt", plain),
        ("/v1/encrypt:batch", {"items": [plain]}),
        ("/v1/decrypt", sealed),
        ("/v1/decrypt:batch", {"items": [sealed]}),
        ("/v1/rewrap", sealed),
        ("/v1/rewrap:batch", {"items": [sealed]}),
        ("/v1/data-keys", {"resource": _RESOURCE, "wrapped_only": True}),
        ("/v1/data-keys:batch", {"items": [{"resource": _RESOURCE}]}),
        ("/v1/data-keys/open", {"wrapped": wrapped, "resource": _RESOURCE}),
        ("/v1/heartbeat", agent | {"problem": "not_reloaded", "uses": uses, "backfills": backfills}),
        *((path, None) for path in ("/v1/certificate", "/v1/protection", "/.well-known/openkcm", "/healthz")),
        *((path, None) for path in ("/.well-known/openkcm/crl", "/.well-known/openkcm/crl/former", "/openapi.json")),
    ]


def fuzz_https(inputs: int, seed: int) -> Account:
    """Send `inputs` requests, most of them well-formed with invalid documents."""

    async def run() -> Account:
        stand = HttpsStand()
        try:
            began = time.perf_counter()
            account = await measure(stand, HttpsMutator(await _requests(), seed).pieces, inputs, lambda _answer: None)
            account.seconds = time.perf_counter() - began
        finally:
            stand.stop()
        return account

    return asyncio.run(run())
