"""What pymongo's clients and options do not tell in public."""

from collections.abc import Mapping
from typing import Any

from bson import CodecOptions
from bson.raw_bson import RawBSONDocument

KNOWN = (4, 20)
"""The minor version of pymongo whose inside the hook knows."""


def arguments(client: Any) -> Mapping[str, Any]:
    """Return what a client was made with. A password may be in it."""
    made: Mapping[str, Any] = client._init_kwargs
    return made


def cursor_key(client: Any, cursor: int) -> tuple[Any, int]:
    """Return what tells a cursor from those of other clients."""
    return client._topology_id, cursor


def encrypts_itself(client: Any) -> bool:
    return client._encrypter is not None


def is_opaque(codec: CodecOptions[Any]) -> bool:
    """Say whether documents of these options are made of something that fields cannot be exchanged in."""
    return issubclass(codec.document_class, RawBSONDocument) or bool(codec.type_registry._decoder_map)
