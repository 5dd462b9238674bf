"""Private properties of pymongo's clients and options."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from bson import CodecOptions
from bson.binary import Binary
from bson.raw_bson import RawBSONDocument

KNOWN = (4, 20)
"""The minor version of pymongo whose internals are supported."""


def arguments(client: Any) -> Mapping[str, Any]:
    """Return the arguments with which a client was created, which may include a password."""
    found: Mapping[str, Any] = client._init_kwargs
    return found


def cursor_key(client: Any, cursor: int) -> tuple[Any, int]:
    """Return a key that distinguishes a cursor from those of other clients."""
    return client._topology_id, cursor


def encrypts_itself(client: Any) -> bool:
    return client._encrypter is not None


def is_opaque(codec: CodecOptions[Any]) -> bool:
    """Return whether documents with these options have a form in which fields cannot be replaced."""
    kind = codec.document_class
    return (kind is not dict and issubclass(kind, RawBSONDocument)) or bool(codec.type_registry._decoder_map)


subtype = attrgetter("_Binary__subtype")
"""Returns the subtype of a Binary without the call of its property."""


def binary(content: bytes, subtype: int) -> Binary:
    """Return a Binary without the checks of its constructor, which take as long as an encryption."""
    found = bytes.__new__(Binary, content)
    found._Binary__subtype = subtype  # type: ignore[attr-defined]  # a private attribute
    return found
