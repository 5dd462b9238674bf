"""The objects of a service in the crypto service, and one request of every kind about them over KMIP and HTTPS."""

import base64
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from crypto_service.kmip.codec.enums import (
    CryptographicAlgorithm,
    DigitalSignatureAlgorithm,
    ObjectType,
    Operation,
    RevocationReasonCode,
    WrappingMethod,
)
from crypto_service.kmip.codec.fields import choice, long, number, octets, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from tests.crypto_service.kmip.messages import batch_item
from tests.crypto_service.kmip.scene import VALUE, a_date, a_name, attribute, custom, gcm
from tests.e2e.connected import Service
from tests.e2e.kmip_wire import ask, value_of
from tests.e2e.wires import HttpsWire, post

DATA = bytes(range(64))
_O = Operation
_EVERY_USE = 0xFFFFF
_SCHEME = structure(
    Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.DIGITAL_SIGNATURE_ALGORITHM, DigitalSignatureAlgorithm.ECDSA_WITH_SHA256)
)
_REASON = structure(
    Tag.REVOCATION_REASON, choice(Tag.REVOCATION_REASON_CODE, RevocationReasonCode.CESSATION_OF_OPERATION)
)


@dataclass(frozen=True)
class ServiceObjects:
    """One service with an object of each kind (`objects`: kind → id), their outputs, and its ciphertexts over HTTPS."""

    service: Service
    objects: dict[str, str]
    sealed: tuple[Item, ...] = field(repr=False)
    signature: bytes = field(repr=False)
    mac: bytes = field(repr=False)
    attributes: dict[str, tuple[Item, ...]] = field(repr=False)
    resource: str = ""
    ciphertext: str = ""
    wrapped: str = ""

    @property
    def name(self) -> str:
        return f"{self.service.tenant_id}/{self.service.name}"

    @property
    def template(self) -> str:
        return _name(self.service, "template")


def create_objects(service: Service) -> ServiceObjects:
    """Create all objects and ciphertexts of a service."""
    with service.open_kmip() as kmip, HttpsWire(service.open_https()) as https:
        objects = {
            "aes": _create(kmip, *_key(service, "aes", CryptographicAlgorithm.AES)),
            "hmac": _create(kmip, *_key(service, "hmac", CryptographicAlgorithm.HMAC_SHA256)),
            "secret": _create(kmip, _O.REGISTER, *_secret(service)),
            "template": _create(kmip, _O.REGISTER, *_template(service)),
        }
        pair = ask(kmip, batch_item(_O.CREATE_KEY_PAIR, *_pair(service)))
        objects["private"] = value_of(pair, Tag.PRIVATE_KEY_UNIQUE_IDENTIFIER)
        objects["public"] = value_of(pair, Tag.PUBLIC_KEY_UNIQUE_IDENTIFIER)
        for kind in ("aes", "hmac", "secret", "private", "public"):
            ask(kmip, batch_item(_O.ACTIVATE, text(Tag.UNIQUE_IDENTIFIER, objects[kind])))
        it = {kind: text(Tag.UNIQUE_IDENTIFIER, object_id) for kind, object_id in objects.items()}
        data = octets(Tag.DATA, DATA)
        sealed = ask(kmip, batch_item(_O.ENCRYPT, it["aes"], gcm(), data)).children()[1:]
        signature = value_of(ask(kmip, batch_item(_O.SIGN, it["private"], _SCHEME, data)), Tag.SIGNATURE_DATA)
        mac = value_of(ask(kmip, batch_item(_O.MAC, it["hmac"], data)), Tag.MAC_DATA)
        attributes = {kind: attributes_of(kmip, object_id) for kind, object_id in objects.items()}
        resource = f"{service.name}/record/1"
        ciphertext = https.ask(post("/v1/encrypt", {"resource": resource, "plaintext": _text(DATA)}))["ciphertext"]
        wrapped = https.ask(post("/v1/data-keys", {"resource": resource}))["wrapped"]
    return ServiceObjects(service, objects, sealed, signature, mac, attributes, resource, ciphertext, wrapped)


def attributes_of(kmip: Any, object_id: str) -> tuple[Item, ...]:
    """Return all attributes of an object as its owner reads them."""
    answer = ask(kmip, batch_item(_O.GET_ATTRIBUTES, text(Tag.UNIQUE_IDENTIFIER, object_id)))
    return tuple(answer.all(Tag.ATTRIBUTE))


Payload = Callable[[ServiceObjects, Item], Iterable[Item]]
"""Maps the owner's objects and the id of an object to a payload with which the owner succeeds."""

ABOUT_OBJECTS: Mapping[Operation, tuple[str, Payload]] = MappingProxyType(
    {
        _O.CHECK: ("aes", lambda _, it: (it, number(Tag.CRYPTOGRAPHIC_USAGE_MASK, 4))),
        _O.GET: ("aes", lambda _, it: (it,)),
        _O.GET_ATTRIBUTES: ("aes", lambda _, it: (it,)),
        _O.GET_ATTRIBUTE_LIST: ("aes", lambda _, it: (it,)),
        _O.OBTAIN_LEASE: ("aes", lambda _, it: (it,)),
        _O.ENCRYPT: ("aes", lambda _, it: (it, gcm(), octets(Tag.DATA, DATA))),
        _O.DECRYPT: ("aes", lambda service_objects, it: (it, gcm(), *service_objects.sealed)),
        _O.SIGN: ("private", lambda _, it: (it, _SCHEME, octets(Tag.DATA, DATA))),
        _O.SIGNATURE_VERIFY: (
            "public",
            lambda service_objects, it: (
                it,
                _SCHEME,
                octets(Tag.DATA, DATA),
                octets(Tag.SIGNATURE_DATA, service_objects.signature),
            ),
        ),
        _O.MAC: ("hmac", lambda _, it: (it, octets(Tag.DATA, DATA))),
        _O.MAC_VERIFY: (
            "hmac",
            lambda service_objects, it: (it, octets(Tag.DATA, DATA), octets(Tag.MAC_DATA, service_objects.mac)),
        ),
        _O.DERIVE_KEY: ("aes", lambda _, it: _derivation(it)),
        # The operations on one new object, in the order of its life cycle.
        _O.ADD_ATTRIBUTE: ("new", lambda _, it: (it, custom("x-owner", "one owner"))),
        _O.MODIFY_ATTRIBUTE: ("new", lambda _, it: (it, custom("x-owner", "another owner"))),
        _O.DELETE_ATTRIBUTE: ("new", lambda _, it: (it, text(Tag.ATTRIBUTE_NAME, "x-owner"))),
        _O.SET_ATTRIBUTE: ("new", lambda _, it: (it, structure(Tag.NEW_ATTRIBUTE, text(Tag.DESCRIPTION, "one owner")))),
        _O.ADJUST_ATTRIBUTE: (
            "new",
            lambda _, it: (it, choice(Tag.ATTRIBUTE_REFERENCE, Tag.DEACTIVATION_DATE), choice(Tag.ADJUSTMENT_TYPE, 1)),
        ),
        _O.ACTIVATE: ("new", lambda _, it: (it,)),
        _O.GET_USAGE_ALLOCATION: ("new", lambda _, it: (it, long(Tag.USAGE_LIMITS_COUNT, 1))),
        _O.ARCHIVE: ("new", lambda _, it: (it,)),
        _O.RECOVER: ("new", lambda _, it: (it,)),
        _O.REKEY: ("new", lambda _, it: (it,)),
        _O.REVOKE: ("new", lambda _, it: (it, _REASON)),
        _O.DESTROY: ("new", lambda _, it: (it,)),
    }
)
"""Operation on an object → the kind with which its owner succeeds, and the payload; for `new` see `a_new_key`."""

BY_NAME: Mapping[Operation, Callable[[str], Iterable[Item]]] = MappingProxyType(
    {
        _O.CREATE: lambda name: (
            choice(Tag.OBJECT_TYPE, ObjectType.SYMMETRIC_KEY),
            _like(name, Tag.TEMPLATE_ATTRIBUTE),
        ),
        _O.CREATE_KEY_PAIR: lambda name: (_like(name, Tag.COMMON_TEMPLATE_ATTRIBUTE, _ec()),),
        _O.REGISTER: lambda name: (
            choice(Tag.OBJECT_TYPE, ObjectType.SYMMETRIC_KEY),
            _like(name, Tag.TEMPLATE_ATTRIBUTE),
            structure(Tag.SYMMETRIC_KEY, _block(CryptographicAlgorithm.AES)),
        ),
    }
)
"""The operations that name another object (a template) by its name."""

ABOUT_NOTHING = frozenset({_O.QUERY, _O.DISCOVER_VERSIONS, _O.RNG_RETRIEVE, _O.RNG_SEED, _O.HASH, _O.LOG})
OF_VERSION_2 = frozenset({_O.SET_ATTRIBUTE, _O.ADJUST_ATTRIBUTE, _O.LOG})
"""The operations whose requests have the form of KMIP 2.1; those of all others have that of 1.4."""
SEARCHES = frozenset({_O.LOCATE})


def version_of(operation: str) -> dict[str, int]:
    """Return the version of requests for an operation, by its name."""
    of_2 = operation in {one.name for one in OF_VERSION_2}
    return {"major": 2, "minor": 1} if of_2 else {"major": 1, "minor": 4}


def about(operation: Operation, owner: ServiceObjects, object_id: str) -> Item:
    """Return the request about an object, with the other objects of `owner` that it needs."""
    return batch_item(operation, *ABOUT_OBJECTS[operation][1](owner, text(Tag.UNIQUE_IDENTIFIER, object_id)))


def by_name(operation: Operation, name: str) -> Item:
    """Return the request that uses the template `name`."""
    return batch_item(operation, *BY_NAME[operation](name))


def wrapped_under(own: str, wrapping: str) -> Item:
    """Return a Get of an own object that requests a wrap by another object."""
    information = structure(
        Tag.ENCRYPTION_KEY_INFORMATION,
        text(Tag.UNIQUE_IDENTIFIER, wrapping),
        structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.BLOCK_CIPHER_MODE, 0x0D)),
    )
    how = structure(Tag.KEY_WRAPPING_SPECIFICATION, choice(Tag.WRAPPING_METHOD, WrappingMethod.ENCRYPT), information)
    return batch_item(_O.GET, text(Tag.UNIQUE_IDENTIFIER, own), how)


def a_new_key(service: Service) -> Item:
    """Return the request for the key on which all changes are made."""
    return batch_item(*_key(service, "", CryptographicAlgorithm.AES))


def _create(kmip: Any, operation: int, *payload: Item) -> str:
    return value_of(ask(kmip, batch_item(operation, *payload)), Tag.UNIQUE_IDENTIFIER)


def _name(service: Service, kind: str) -> str:
    return f"{service.tenant_id} {service.name} {kind}"


def _described(service: Service, kind: str, *more: Item) -> Item:
    """Return attributes that no object of another service has."""
    name = _name(service, kind)
    unique = (a_name(name), custom("x-owner", name), attribute("Object Group", text(VALUE, f"{name} group")))
    return structure(Tag.TEMPLATE_ATTRIBUTE, *(unique if kind else ()), *more)


def _uses(mask: int = _EVERY_USE) -> Item:
    return attribute("Cryptographic Usage Mask", number(VALUE, mask))


def _key(service: Service, kind: str, algorithm: int) -> tuple[int, Item, Item]:
    limits = structure(VALUE, long(Tag.USAGE_LIMITS_TOTAL, 1 << 40), choice(Tag.USAGE_LIMITS_UNIT, 1))
    described = _described(
        service,
        kind,
        attribute("Cryptographic Algorithm", choice(VALUE, algorithm)),
        attribute("Cryptographic Length", number(VALUE, 256)),
        attribute("Contact Information", text(VALUE, f"{_name(service, kind)} contact")),
        attribute("Usage Limits", limits),
        a_date("Deactivation Date", 2_000_000_000 + sum(_name(service, kind).encode())),
        _uses(),
    )
    return _O.CREATE, choice(Tag.OBJECT_TYPE, ObjectType.SYMMETRIC_KEY), described


def _secret(service: Service) -> tuple[Item, ...]:
    value = structure(Tag.SECRET_DATA, choice(Tag.SECRET_DATA_TYPE, 1), _block(None))
    return choice(Tag.OBJECT_TYPE, ObjectType.SECRET_DATA), _described(service, "secret", _uses(0)), value


def _template(service: Service) -> tuple[Item, ...]:
    template = structure(Tag.TEMPLATE, *_creation().children())
    return choice(Tag.OBJECT_TYPE, ObjectType.TEMPLATE), _described(service, "template"), template


def _creation() -> Item:
    return structure(
        Tag.TEMPLATE_ATTRIBUTE,
        attribute("Cryptographic Algorithm", choice(VALUE, CryptographicAlgorithm.AES)),
        attribute("Cryptographic Length", number(VALUE, 256)),
        _uses(),
    )


def _pair(service: Service) -> tuple[Item, ...]:
    def of(tag: int, kind: str, mask: int) -> Item:
        return structure(tag, *_described(service, kind, _uses(mask)).children())

    return (
        structure(Tag.COMMON_TEMPLATE_ATTRIBUTE, _ec()),
        of(Tag.PRIVATE_KEY_TEMPLATE_ATTRIBUTE, "private", 1),
        of(Tag.PUBLIC_KEY_TEMPLATE_ATTRIBUTE, "public", 2),
    )


def _ec() -> Item:
    return attribute("Cryptographic Algorithm", choice(VALUE, CryptographicAlgorithm.ECDSA))


def _like(name: str, tag: int, *more: Item) -> Item:
    return structure(tag, structure(Tag.NAME, text(Tag.NAME_VALUE, name), choice(Tag.NAME_TYPE, 1)), *more)


def _block(algorithm: int | None) -> Item:
    algorithm_fields = (
        ()
        if algorithm is None
        else (choice(Tag.CRYPTOGRAPHIC_ALGORITHM, algorithm), number(Tag.CRYPTOGRAPHIC_LENGTH, 256))
    )
    value = structure(Tag.KEY_VALUE, octets(Tag.KEY_MATERIAL, DATA[:32]))
    return structure(Tag.KEY_BLOCK, choice(Tag.KEY_FORMAT_TYPE, 1), value, *algorithm_fields)


def _derivation(it: Item) -> tuple[Item, ...]:
    parameters = structure(
        Tag.DERIVATION_PARAMETERS,
        structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.HASHING_ALGORITHM, 6)),
        octets(Tag.DERIVATION_DATA, b"data"),
    )
    return (
        choice(Tag.OBJECT_TYPE, ObjectType.SYMMETRIC_KEY),
        it,
        choice(Tag.DERIVATION_METHOD, 3),
        parameters,
        _creation(),
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


Texts = Callable[[str, str], dict[str, Any]]
WITH_CIPHERTEXT: Mapping[str, Texts] = MappingProxyType(
    {
        "/v1/decrypt": lambda text, resource: {"ciphertext": text, "resource": resource},
        "/v1/rewrap": lambda text, resource: {"ciphertext": text, "resource": resource},
        "/v1/data-keys/open": lambda text, resource: {"wrapped": text, "resource": resource},
        "/v1/decrypt:batch": lambda text, resource: {"items": [{"ciphertext": text, "resource": resource}]},
        "/v1/rewrap:batch": lambda text, resource: {"items": [{"ciphertext": text, "resource": resource}]},
    }
)
"""The paths that take a ciphertext, and their bodies."""
WITHOUT_CIPHERTEXT: Mapping[str, Any] = MappingProxyType(
    {
        "/v1/encrypt": {"resource": "r", "plaintext": _text(DATA)},
        "/v1/encrypt:batch": {"items": [{"resource": "r", "plaintext": _text(DATA)}]},
        "/v1/data-keys": {"resource": "r"},
        "/v1/data-keys:batch": {"items": [{"resource": "r"}]},
        "/v1/heartbeat": {"instance": "host-1", "agent_version": "1", "not_after": "2026-01-01T00:00:00Z"},
        "/v1/certificate": None,
        "/v1/protection": None,
        "/.well-known/openkcm": None,
        "/.well-known/openkcm/crl": None,
        "/.well-known/openkcm/crl/former": None,
        "/healthz": None,
        "/openapi.json": None,
    }
)
"""The other paths: they create or return data of the caller; without a body the request is a GET."""
OPTIONAL_PATHS = frozenset({"/.well-known/openkcm/crl", "/.well-known/openkcm/crl/former"})
"""Paths that may respond with 404: no CRL has been published yet, or the tenant has no former CA."""
