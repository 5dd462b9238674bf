"""HTTPS client of the isolation checks, without a library, so that it can compare every byte of the answers."""

import base64
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from compliance.isolation.crypto_api.model import CryptoApiFailing, Identity
from compliance.isolation.crypto_api.tls_client import HandshakeRejected, dial, trust
from core.tracing.spans import outgoing

_CHANGING = ("date", "x-request-id")
_IN_TROUBLE = (424, 429, 500, 502, 503, 504)
_OK = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response; `status` 0: the server closed the connection. Equal answers are equal in every byte."""

    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = field(default=b"", repr=False)

    @property
    def worked(self) -> bool:
        return self.status == _OK

    @property
    def code(self) -> str:
        """The error code of a rejection, otherwise empty."""
        return str(self._document().get("code", "")) if self.status and not self.worked else ""

    @property
    def summary(self) -> str:
        """The outcome in one word or phrase."""
        return (self.code or "ok") if self.status else "connection closed"

    def text(self, name: str) -> str:
        """Return a field of a successful answer, otherwise an empty text."""
        return str(self._document().get(name, "")) if self.worked else ""

    def octets(self, name: str) -> bytes:
        return base64.b64decode(self.text(name))

    def _document(self) -> dict[str, Any]:
        try:
            document = json.loads(self.body)
        except ValueError:
            raise CryptoApiFailing("an answer is not JSON") from None
        return document if isinstance(document, dict) else {}


ENDED = Answer(0)


class HttpsProbeClient:
    """One connection of one identity. Each request has a dedicated id, which the audit stream records."""

    def __init__(self, host: str, port: int, identity: Identity) -> None:
        """Connect; raises as `tls_client.dial`."""
        self._host = host
        self._connection = dial(host, port, trust(identity))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def is_open(self) -> bool:
        return self._connection.is_open()

    def post(self, path: str, document: Mapping[str, Any], claims: Mapping[str, str] | None = None) -> Answer:
        """Return the answer; `claims` are additional headers, or replace default headers.

        Raises:
            CryptoApiFailing: the service is overloaded or failing.
        """
        body = json.dumps(document).encode()
        headers = {"host": self._host, "x-request-id": uuid.uuid4().hex} | dict(claims or {})
        if trace := outgoing():
            headers["traceparent"] = trace
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST {path} HTTP/1.1\r\n{lines}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        try:
            self._connection.send(head.encode() + body)
            return self._read()
        except HandshakeRejected:
            return ENDED

    def encrypt(self, resource: str, plaintext: bytes, claims: Mapping[str, str] | None = None) -> Answer:
        document = {"resource": resource, "plaintext": base64.b64encode(plaintext).decode()}
        return self.post("/v1/encrypt", document, claims)

    def decrypt(self, resource: str, ciphertext: str) -> Answer:
        return self.post("/v1/decrypt", {"resource": resource, "ciphertext": ciphertext})

    def rewrap(self, resource: str, ciphertext: str) -> Answer:
        return self.post("/v1/rewrap", {"resource": resource, "ciphertext": ciphertext})

    def new_data_key(self, resource: str) -> Answer:
        return self.post("/v1/data-keys", {"resource": resource})

    def open_data_key(self, resource: str, wrapped: str) -> Answer:
        return self.post("/v1/data-keys/open", {"resource": resource, "wrapped": wrapped})

    def _read(self) -> Answer:
        first, *lines = self._connection.take_until(b"\r\n\r\n").decode("latin-1").split("\r\n")[:-2]
        version, _, rest = first.partition(" ")
        if version != "HTTP/1.1" or not rest[:3].isdecimal():
            raise CryptoApiFailing("an answer is not HTTP/1.1")
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        length = dict(headers).get("content-length", "")
        if not length.isdecimal():
            raise CryptoApiFailing("an answer has no content length")
        answer = Answer(
            int(rest[:3]),
            tuple(header for header in headers if header[0] not in _CHANGING),
            self._connection.take(int(length)),
        )
        if answer.status in _IN_TROUBLE:
            raise CryptoApiFailing(f"the service is failing: {answer.status} {answer.code}")
        return answer
