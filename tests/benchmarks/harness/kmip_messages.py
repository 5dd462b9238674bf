"""The KMIP messages of the benchmarks, made with the product's codec; all measured servers accept them."""

from crypto_service.kmip.codec.enums import BlockCipherMode, CryptographicAlgorithm, ObjectType, Operation
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item, ItemType, Value, decode, encode

_ENCRYPT_AND_DECRYPT = 0x0C
_KEY_BITS = 256
_SUCCESS = encode(Item(Tag.RESULT_STATUS, ItemType.ENUMERATION, 0))


def create() -> bytes:
    """Return a request for a new AES-256 key."""
    attributes = (
        _attribute(
            "Cryptographic Algorithm", Item(Tag.ATTRIBUTE_VALUE, ItemType.ENUMERATION, CryptographicAlgorithm.AES)
        ),
        _attribute("Cryptographic Length", Item(Tag.ATTRIBUTE_VALUE, ItemType.INTEGER, _KEY_BITS)),
        _attribute("Cryptographic Usage Mask", Item(Tag.ATTRIBUTE_VALUE, ItemType.INTEGER, _ENCRYPT_AND_DECRYPT)),
    )
    return _request(
        Operation.CREATE,
        Item(Tag.OBJECT_TYPE, ItemType.ENUMERATION, ObjectType.SYMMETRIC_KEY),
        _structure(Tag.TEMPLATE_ATTRIBUTE, *attributes),
    )


def get(identifier: str) -> bytes:
    """Return a request for a key."""
    return _request(Operation.GET, Item(Tag.UNIQUE_IDENTIFIER, ItemType.TEXT_STRING, identifier))


def activate(identifier: str) -> bytes:
    """Return a request that activates a key."""
    return _request(Operation.ACTIVATE, Item(Tag.UNIQUE_IDENTIFIER, ItemType.TEXT_STRING, identifier))


def encrypt(identifier: str, data: bytes) -> bytes:
    """Return a request to encrypt with AES-GCM and a nonce from the server."""
    return _request(
        Operation.ENCRYPT,
        Item(Tag.UNIQUE_IDENTIFIER, ItemType.TEXT_STRING, identifier),
        _structure(Tag.CRYPTOGRAPHIC_PARAMETERS, _gcm(), Item(Tag.RANDOM_IV, ItemType.BOOLEAN, value=True)),
        Item(Tag.DATA, ItemType.BYTE_STRING, data),
    )


def decrypt(identifier: str, encrypted: bytes) -> bytes:
    """Return a request to decrypt the ciphertext in a response to `encrypt`."""
    [item] = decode(encrypted).all(Tag.BATCH_ITEM)
    payload = item.first(Tag.RESPONSE_PAYLOAD)
    assert payload is not None
    parts = [payload.first(tag) for tag in (Tag.DATA, Tag.IV_COUNTER_NONCE, Tag.AUTHENTICATED_ENCRYPTION_TAG)]
    return _request(
        Operation.DECRYPT,
        Item(Tag.UNIQUE_IDENTIFIER, ItemType.TEXT_STRING, identifier),
        _structure(Tag.CRYPTOGRAPHIC_PARAMETERS, _gcm()),
        *(part for part in parts if part is not None),
    )


def succeeded(answer: bytes) -> bool:
    """Return whether the response has the status Success; searches the bytes, because decoding is expensive."""
    return _SUCCESS in answer


def found_identifier(answer: bytes) -> str:
    """Return the unique identifier in a response."""
    [item] = decode(answer).all(Tag.BATCH_ITEM)
    payload = item.first(Tag.RESPONSE_PAYLOAD)
    identifier = None if payload is None else payload.first(Tag.UNIQUE_IDENTIFIER)
    if identifier is None:
        raise RuntimeError("the response has no unique identifier")
    return str(identifier.value)


def _gcm() -> Item:
    return Item(Tag.BLOCK_CIPHER_MODE, ItemType.ENUMERATION, BlockCipherMode.GCM)


def _request(operation: Operation, *payload: Item) -> bytes:
    version = _structure(
        Tag.PROTOCOL_VERSION,
        Item(Tag.PROTOCOL_VERSION_MAJOR, ItemType.INTEGER, 1),
        Item(Tag.PROTOCOL_VERSION_MINOR, ItemType.INTEGER, 2),
    )
    return encode(
        _structure(
            Tag.REQUEST_MESSAGE,
            _structure(Tag.REQUEST_HEADER, version, Item(Tag.BATCH_COUNT, ItemType.INTEGER, 1)),
            _structure(
                Tag.BATCH_ITEM,
                Item(Tag.OPERATION, ItemType.ENUMERATION, operation),
                _structure(Tag.REQUEST_PAYLOAD, *payload),
            ),
        )
    )


def _attribute(name: str, value: Item) -> Item:
    return _structure(Tag.ATTRIBUTE, Item(Tag.ATTRIBUTE_NAME, ItemType.TEXT_STRING, name), value)


def _structure(tag: Tag, *items: Item) -> Item:
    value: Value = items
    return Item(tag, ItemType.STRUCTURE, value)
