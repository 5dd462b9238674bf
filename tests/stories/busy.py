"""A service at work: it asks over both fronts all the time, keeps what it was given, and checks every answer."""

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
from tests.stories.connected import ONCE, Service
from tests.stories.kmip_wire import activated_key, ask, value_of
from tests.stories.wires import HttpsWire, post

_BREATH = 0.004
"""Seconds between two rounds: a load and not a flood, on a machine that serves it as well."""
_OBJECTS = 40
_BATCH = 500


@dataclass(frozen=True)
class Text:
    """Something that was encrypted, and what it opens to."""

    resource: str
    sealed: str
    plain: bytes = field(repr=False)

    @property
    def version(self) -> int:
        """The version of the service's key that it says it lies under."""
        return header(from_text(self.sealed)).key_version


class Busy:
    """`problems` are answers that were refused or wrong. What is kept is added to by threads and never taken from."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.texts: list[Text] = []
        self.data_keys: list[Text] = []
        self.objects: dict[str, bytes] = {}
        self.sealed: list[tuple[str, tuple[Item, ...], bytes]] = []
        self.problems: list[str] = []
        self.asked = Counter[str]()
        self._over = threading.Event()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Work over both fronts until the block ends."""
        self._over.clear()
        threads = [threading.Thread(target=self._until_over, args=(one,)) for one in (self._https, self._kmip)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def still_open(self) -> int:
        """Decrypt everything there is by now, each answer compared; return how much that was. It may be at work."""
        found = self.answers(list(self.texts)) + self.answers_to_data_keys(list(self.data_keys))
        assert set(found) == {"open"}, found
        return found.total() + self.objects_open()

    def objects_open(self) -> int:
        """Ask for every object and decrypt everything that they encrypted; return how much that was."""
        objects, encrypted = dict(self.objects), list(self.sealed)
        with self.service.open_kmip() as kmip:
            for object_id, material in objects.items():
                assert _material(kmip, object_id) == material
            for object_id, sealed, plain in encrypted:
                assert _decrypted(kmip, object_id, sealed) == plain
        return len(objects) + len(encrypted)

    def answers(self, texts: list[Text]) -> Counter[str]:
        """Return what asking for texts comes to now: `open`, `wrong`, or the code of the refusal."""
        found = Counter[str]()
        with Client.from_folder(self.service.folder, ONCE) as client:
            for first in range(0, len(texts), _BATCH):
                some = texts[first : first + _BATCH]
                opened = client.decrypt_many([(one.sealed, one.resource) for one in some])
                found.update(
                    got.code if isinstance(got, ClientError) else "open" if got == one.plain else "wrong"
                    for one, got in zip(some, opened, strict=True)
                )
        return found

    def answers_to_data_keys(self, wrapped: list[Text]) -> Counter[str]:
        """Return the same of wrapped data keys."""
        found = Counter[str]()
        with Client.from_folder(self.service.folder, ONCE) as client:
            for one in wrapped:
                try:
                    found["open" if client.open_data_key(one.sealed, one.resource) == one.plain else "wrong"] += 1
                except ClientError as refused:
                    found[refused.code] += 1
        return found

    def rewrapped(self, texts: list[Text]) -> list[Text]:
        """Bring texts under the active version by the endpoint that is there for it; raises ClientError."""
        with Client.from_folder(self.service.folder, ONCE) as client:
            return [Text(one.resource, client.rewrap(one.sealed, one.resource), one.plain) for one in texts]

    def _until_over(self, work: Callable[[], Iterator[str]]) -> None:
        try:
            for what in work():
                self.asked[what] += 1
                if self._over.wait(_BREATH):
                    return
        except Exception as error:  # noqa: BLE001 - any at all is what must not happen
            self.problems.append(f"{self.service.name}: {type(error).__name__} {error}")

    def _https(self) -> Iterator[str]:
        """Encrypt, decrypt something of before, take a data key, open one of before; for ever."""
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
        """Create an object now and then; get, locate, encrypt and decrypt with those of before; for ever."""
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
    return random.choice(kept)  # noqa: S311 - which is asked for guards nothing


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _material(kmip: Any, object_id: str) -> bytes:
    key = ask(kmip, batch_item(Operation.GET, text(Tag.UNIQUE_IDENTIFIER, object_id))).children()[-1]
    return bytes(value_of(key, Tag.KEY_BLOCK, Tag.KEY_VALUE, Tag.KEY_MATERIAL))


def _decrypted(kmip: Any, object_id: str, sealed: tuple[Item, ...]) -> bytes:
    payload = (text(Tag.UNIQUE_IDENTIFIER, object_id), gcm(), *sealed)
    return bytes(value_of(ask(kmip, batch_item(Operation.DECRYPT, *payload)), Tag.DATA))
