"""Attacks of one service on the objects of others, generated from a seed; every attempt must fail in the same way."""

import random
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from crypto_service.keys.ciphertext import from_text, to_text
from crypto_service.kmip.codec.enums import HashingAlgorithm, Operation, QueryFunction
from crypto_service.kmip.codec.fields import choice, number, octets, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from tests.crypto_service.kmip.messages import batch_item, encoded, message
from tests.crypto_service.kmip.scene import VALUE, a_name, attribute, custom
from tests.e2e.isolation.crypto_api import estates
from tests.e2e.isolation.crypto_api.estates import (
    ABOUT_OBJECTS,
    BY_NAME,
    WITH_CIPHERTEXT,
    WITHOUT_CIPHERTEXT,
    ServiceObjects,
)
from tests.e2e.wires import post

_HASH = structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.HASHING_ALGORITHM, HashingAlgorithm.SHA_256))
_SPELLINGS = ("", "*", "%", "' or '1'='1", "../", "\N{RIGHT-TO-LEFT OVERRIDE}1", "a" * 129, "a" * 20_000)


@dataclass(frozen=True)
class Attempt:
    """`operation` is requested, `kind` says what is wrong; only `operation` may determine the response."""

    operation: str
    kind: str
    request: Any


class Attacks:
    """All attempts of `attacker` against `victims`."""

    def __init__(self, attacker: ServiceObjects, victims: Sequence[ServiceObjects], seed: str) -> None:
        self._attacker, self._victims = attacker, victims
        self._chance = random.Random(seed)  # noqa: S311 - reproducible, not secret

    def _kind(self, victim: ServiceObjects) -> str:
        same = victim.service.tenant_id == self._attacker.service.tenant_id
        return "another service's" if same else "another tenant's"

    def _unknown_id(self) -> str:
        return str(uuid.UUID(int=self._chance.getrandbits(128), version=4))

    # ── KMIP ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def of_nothing(self) -> dict[str, Item]:
        """Return, by operation, the request about an object that never existed."""
        own, never = self._attacker, self._unknown_id()
        asked = {operation.name: estates.about(operation, own, never) for operation in ABOUT_OBJECTS}
        asked |= {operation.name: estates.by_name(operation, never) for operation in BY_NAME}
        asked["GET, wrapped"] = estates.wrapped_under(own.objects["hmac"], never)
        asked["LOCATE"] = batch_item(Operation.LOCATE, a_name(never))
        return asked

    def on_objects(self) -> list[Attempt]:
        """Return every operation on every object of the victims, on variants of their ids, and on guessed ids."""
        made = []
        for kind, owner, object_id in self._ids():
            made += [Attempt(one.name, kind, estates.about(one, owner, object_id)) for one in ABOUT_OBJECTS]
            wrapped = estates.wrapped_under(self._attacker.objects["hmac"], object_id)
            made.append(Attempt("GET, wrapped", kind, wrapped))
        for kind, name in self._template_names():
            made += [Attempt(operation.name, kind, estates.by_name(operation, name)) for operation in BY_NAME]
        self._chance.shuffle(made)
        return made

    def _ids(self) -> Iterator[tuple[str, ServiceObjects, str]]:
        for victim in self._victims:
            for object_id in victim.objects.values():
                yield f"{self._kind(victim)} object", victim, object_id
                yield "a similar id", victim, self._similar_id(object_id)
            yield "a variant of an id", victim, self._variant(victim)
        for spelling in _SPELLINGS:
            yield "a hostile id", self._attacker, spelling
        for _ in range(2):
            yield "a guessed id", self._attacker, self._unknown_id()

    def _similar_id(self, object_id: str) -> str:
        number_of = uuid.UUID(object_id).int
        return str(uuid.UUID(int=number_of ^ (1 << self._chance.randrange(4))))

    def _variant(self, victim: ServiceObjects) -> str:
        object_id = self._chance.choice(list(victim.objects.values()))
        ways = (
            object_id.upper(),
            f"{{{object_id}}}",
            f"{victim.service.tenant_id}/{object_id}",
            f"../{victim.service.name}/{object_id}",
        )
        return self._chance.choice(ways)

    def _template_names(self) -> Iterator[tuple[str, str]]:
        for victim in self._victims:
            for name in (victim.template, victim.template.upper(), victim.objects["template"]):
                yield f"{self._kind(victim)} template", name

    def searches(self) -> list[Attempt]:
        """Return a Locate for each attribute that a victim's objects have and the attacker's do not."""
        own = {attribute for some in self._attacker.attributes.values() for attribute in some}
        made = []
        for victim in self._victims:
            kind = f"{self._kind(victim)} attribute"
            found = [
                *(attribute for some in victim.attributes.values() for attribute in some if attribute not in own),
                a_name(f"%{victim.service.name}%"),
                a_name(victim.template.upper()),
                attribute("Object Group", text(VALUE, victim.service.tenant_id)),
                custom("x-tenant", victim.service.tenant_id),
            ]
            made += [Attempt("LOCATE", kind, batch_item(Operation.LOCATE, _unnumbered(one))) for one in found]
        return made

    def counts(self) -> list[Attempt]:
        """Return the requests that count objects; the count must not include the victims' objects."""
        limits = ((number(Tag.MAXIMUM_ITEMS, 100),), ())
        return [Attempt("LOCATE, all", "every object", batch_item(Operation.LOCATE, *one)) for one in limits]

    # ── HTTPS ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _unknown_ciphertext(self) -> str:
        """Return a well-formed ciphertext that the platform never created."""
        own = from_text(self._attacker.ciphertext)
        return to_text(own[:5] + self._chance.randbytes(len(own) - 5))

    def on_texts(self) -> list[Attempt]:
        """Return every decrypting path with every ciphertext of the victims, also altered, for several resources."""
        made = []
        for victim in self._victims:
            places = (victim.resource, self._attacker.resource, f"../{victim.resource}")
            for what, sealed in (("ciphertext", victim.ciphertext), ("data key", victim.wrapped)):
                kind = f"{self._kind(victim)} {what}"
                texts = [(kind, sealed), *((f"{kind}, altered", text) for text in self._altered(sealed))]
                made += [
                    Attempt(path, how, body(text, place))
                    for how, text in texts
                    for place in places
                    for path, body in WITH_CIPHERTEXT.items()
                ]
        for _ in range(5):
            text = self._unknown_ciphertext()
            made += [
                Attempt(path, "a ciphertext never created", body(text, self._attacker.resource))
                for path, body in WITH_CIPHERTEXT.items()
            ]
        self._chance.shuffle(made)
        return made

    def _altered(self, text: str) -> list[str]:
        sealed = from_text(text)
        place = self._chance.randrange(5, len(sealed))
        mine = from_text(self._attacker.ciphertext)
        return [
            to_text(bytes([3 - sealed[0]]) + sealed[1:]),  # the header of the other purpose
            to_text(sealed[:1] + (2).to_bytes(4) + sealed[5:]),  # the header of a later key version
            to_text(sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :]),
            to_text(mine[:37] + sealed[37:]),  # the victim's data after the attacker's header
        ]


def _unnumbered(item: Item) -> Item:
    """Return an attribute without its index, which Locate does not take."""
    return structure(Tag.ATTRIBUTE, *(part for part in item.children() if part.tag != Tag.ATTRIBUTE_INDEX))


def requests_of(service_objects: ServiceObjects) -> Iterator[tuple[str, bytes]]:
    """Yield port and request for every operation and endpoint, as the owner of the objects would send it."""
    items = [
        *(
            estates.about(one, service_objects, service_objects.objects.get(kind, service_objects.objects["aes"]))
            for one, (kind, _) in ABOUT_OBJECTS.items()
        ),
        *(estates.by_name(one, service_objects.template) for one in BY_NAME),
        batch_item(Operation.LOCATE),
        batch_item(Operation.QUERY, choice(Tag.QUERY_FUNCTION, QueryFunction.QUERY_OPERATIONS)),
        batch_item(Operation.DISCOVER_VERSIONS),
        batch_item(Operation.RNG_RETRIEVE, number(Tag.DATA_LENGTH, 32)),
        batch_item(Operation.RNG_SEED, octets(Tag.DATA, bytes(32))),
        batch_item(Operation.HASH, _HASH, octets(Tag.DATA, bytes(32))),
        batch_item(Operation.LOG, text(Tag.LOG_MESSAGE, "a message")),
    ]
    for item in items:
        operation = Operation(item.children()[0].value).name
        yield "kmip", encoded(message(item, **estates.version_of(operation)))
    for path, body in WITH_CIPHERTEXT.items():
        sealed = service_objects.wrapped if path == "/v1/data-keys/open" else service_objects.ciphertext
        yield "https", post(path, body(sealed, service_objects.resource))
    for path, plain in WITHOUT_CIPHERTEXT.items():
        yield "https", post(path, plain)
