"""A service under load: it sends requests over HTTPS and KMIP all the time and verifies every response."""

import base64
import random
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from crypto_service.keys.ciphertext import from_text, header
from crypto_service.kmip.codec.enums import Operation
from crypto_service.kmip.codec.fields import octets, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from openkcm.sdk.client import Client
from openkcm.sdk.errors import ClientError
from tests.crypto_service.kmip.messages import batch_item
from tests.crypto_service.kmip.scene import gcm
from tests.e2e.connected import ONCE, Service
from tests.e2e.kmip_wire import activated_key, ask, value_of
from tests.e2e.wires import HttpsWire, post

_PAUSE_SECONDS = 0.004
"""Seconds between two requests, so that the load does not exhaust the machine, which also runs the server."""
_OBJECTS = 40
_BATCH = 500


@dataclass(frozen=True)
class Text:
    """A ciphertext with its plaintext and resource."""

    resource: str
    sealed: str
    plain: bytes = field(repr=False)

    @property
    def version(self) -> int:
        """The version of the service key in the ciphertext's header."""
        return header(from_text(self.sealed)).key_version


class BusyService:
    """`problems` are rejected or wrong responses. Threads append to the lists and never remove from them."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.texts: list[Text] = []
        self.data_keys: list[Text] = []
        self.objects: dict[str, bytes] = {}
        self.sealed: list[tuple[str, tuple[Item, ...], bytes]] = []
        self.problems: list[str] = []
        self.requests = Counter[str]()
        self._stop = threading.Event()

    @contextmanager
    def under_load(self) -> Iterator[None]:
        """Send requests over HTTPS and KMIP until the block ends."""
        self._stop.clear()
        threads = [threading.Thread(target=self._run, args=(one,)) for one in (self._https, self._kmip)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def decrypt_all(self) -> int:
        """Decrypt all ciphertexts, compare the plaintexts and return their number; the load may be running."""
        found = self.answers(list(self.texts)) + self.answers_to_data_keys(list(self.data_keys))
        assert set(found) == {"open"}, found
        return found.total() + self.check_objects()

    def check_objects(self) -> int:
        """Get every object, decrypt all its ciphertexts, compare them and return their number."""
        objects, encrypted = dict(self.objects), list(self.sealed)
        with self.service.open_kmip() as kmip:
            for object_id, material in objects.items():
                assert _material(kmip, object_id) == material
            for object_id, sealed, plain in encrypted:
                assert _decrypted(kmip, object_id, sealed) == plain
        return len(objects) + len(encrypted)

    def answers(self, texts: list[Text]) -> Counter[str]:
        """Decrypt ciphertexts and count the results: `open`, `wrong`, or the error code."""
        found = Counter[str]()
        with Client.from_folder(self.service.folder, ONCE) as client:
            for first in range(0, len(texts), _BATCH):
                some = texts[first : first + _BATCH]
                results = client.decrypt_many([(one.sealed, one.resource) for one in some])
                found.update(
                    got.code if isinstance(got, ClientError) else "open" if got == one.plain else "wrong"
                    for one, got in zip(some, results, strict=True)
                )
        return found

    def answers_to_data_keys(self, wrapped: list[Text]) -> Counter[str]:
        """Unwrap data keys and count the results in the same way."""
        found = Counter[str]()
        with Client.from_folder(self.service.folder, ONCE) as client:
            for one in wrapped:
                try:
                    found["open" if client.open_data_key(one.sealed, one.resource) == one.plain else "wrong"] += 1
                except ClientError as refused:
                    found[refused.code] += 1
        return found

    def rewrap(self, texts: list[Text]) -> list[Text]:
        """Re-encrypt ciphertexts with the active version by the endpoint rewrap; raises ClientError."""
        with Client.from_folder(self.service.folder, ONCE) as client:
            return [Text(one.resource, client.rewrap(one.sealed, one.resource), one.plain) for one in texts]

    def _run(self, work: Callable[[], Iterator[str]]) -> None:
        try:
            for what in work():
                self.requests[what] += 1
                if self._stop.wait(_PAUSE_SECONDS):
                    return
        except Exception as error:  # noqa: BLE001 - every error is a failure of the test
            self.problems.append(f"{self.service.name}: {type(error).__name__} {error}")

    def _https(self) -> Iterator[str]:
        """Encrypt, decrypt an earlier ciphertext, create a data key, unwrap an earlier one; repeat."""
        with HttpsWire(self.service.open_https()) as wire:
            while True:
                resource, plain = f"record/{len(self.texts)}", secrets.token_bytes(24)
                made = wire.ask(post("/v1/encrypt", {"resource": resource, "plaintext": _text(plain)}))
                self.texts.append(Text(resource, made["ciphertext"], plain))
                yield "encrypt"
                one = _any(self.texts)
                got = wire.ask(post("/v1/decrypt", {"resource": one.resource, "ciphertext": one.sealed}))
                assert got["plaintext"] == _text(one.plain), "another plaintext"
                yield "decrypt"
                made = wire.ask(post("/v1/data-keys", {"resource": resource}))
                self.data_keys.append(Text(resource, made["wrapped"], base64.b64decode(made["plaintext"])))
                yield "data key"
                one = _any(self.data_keys)
                got = wire.ask(post("/v1/data-keys/open", {"resource": one.resource, "wrapped": one.sealed}))
                assert got["plaintext"] == _text(one.plain), "another data key"
                yield "open a data key"

    def _kmip(self) -> Iterator[str]:
        """Create an object from time to time; get, locate, encrypt and decrypt with earlier objects; repeat."""
        with self.service.open_kmip() as kmip:
            while True:
                if len(self.objects) < _OBJECTS or not len(self.sealed) % 20:
                    object_id = activated_key(kmip)
                    self.objects[object_id] = _material(kmip, object_id)
                    yield "Create"
                object_id = _any(list(self.objects))
                assert _material(kmip, object_id) == self.objects[object_id], "another key"
                yield "Get"
                located = {str(one.value) for one in ask(kmip, batch_item(Operation.LOCATE)).all(Tag.UNIQUE_IDENTIFIER)}
                assert located >= self.objects.keys(), "an object is not found"
                yield "Locate"
                plain = secrets.token_bytes(24)
                it = text(Tag.UNIQUE_IDENTIFIER, object_id)
                made = ask(kmip, batch_item(Operation.ENCRYPT, it, gcm(), octets(Tag.DATA, plain)))
                self.sealed.append((object_id, made.children()[1:], plain))
                yield "Encrypt"
                object_id, sealed, plain = _any(self.sealed)
                assert _decrypted(kmip, object_id, sealed) == plain, "another plaintext"
                yield "Decrypt"


def _any(kept: list[Any]) -> Any:
    return random.choice(kept)  # noqa: S311 - the choice is not security-relevant


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _material(kmip: Any, object_id: str) -> bytes:
    key = ask(kmip, batch_item(Operation.GET, text(Tag.UNIQUE_IDENTIFIER, object_id))).children()[-1]
    return bytes(value_of(key, Tag.KEY_BLOCK, Tag.KEY_VALUE, Tag.KEY_MATERIAL))


def _decrypted(kmip: Any, object_id: str, sealed: tuple[Item, ...]) -> bytes:
    payload = (text(Tag.UNIQUE_IDENTIFIER, object_id), gcm(), *sealed)
    return bytes(value_of(ask(kmip, batch_item(Operation.DECRYPT, *payload)), Tag.DATA))
