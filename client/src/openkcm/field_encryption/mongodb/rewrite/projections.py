"""Projections: whether a result contains protected fields, and the `_id` that decryption requires."""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

from openkcm.field_encryption.mongodb.catalog import Field
from openkcm.field_encryption.mongodb.errors import StatementRefused
from openkcm.field_encryption.mongodb.rewrite.request import Request

Projection = Mapping[str, Any]

_CHOICES = frozenset({bool, int, float})
_MAX_SHAPES = 1000
"""Projections of a collection whose analysis is kept."""


class Documents(Enum):
    """The documents of a result."""

    ORIGINAL = auto()
    """Documents of the collection, or parts of them."""
    WITHOUT_ID = auto()
    """The same, and the `_id` must be removed again."""
    OTHERS = auto()
    """Documents without protected fields."""


def projected(request: Request, projection: Projection) -> tuple[Projection, Documents]:
    """Return the projection to send and the kind of its results. Raises StatementRefused."""
    known = request.collection.projections
    shape = tuple(projection.items()) if all([type(one) in _CHOICES for one in projection.values()]) else None  # noqa: C419 - a list is faster
    reads = None if shape is None else known.get(shape)
    if reads is None:
        reads = _documents(request, projection)
        if shape is not None and len(known) < _MAX_SHAPES:
            known[shape] = reads
    if reads is Documents.WITHOUT_ID:
        return {path: wanted for path, wanted in projection.items() if path != "_id"}, reads
    return projection, reads


def _documents(request: Request, projection: Projection) -> Documents:
    flat = dict(_flatten(projection))
    identity = flat.pop("_id", 1)
    for path, wanted in flat.items():
        if not _is_choice(wanted):
            request.require_unprotected(path, "computing")
            request.no_reference(wanted, "computing with")
        elif path not in request.collection.by_path and path not in request.collection.ancestors:
            request.require_unprotected(path, "choosing a part of")
    chosen = any(_is_choice(wanted) and wanted for wanted in flat.values())
    if chosen and not any(_is_named(field, flat) for field in request.collection.fields):
        return Documents.OTHERS
    if not _is_choice(identity):
        raise computed_id()
    return Documents.ORIGINAL if identity else Documents.WITHOUT_ID


def computed_id() -> StatementRefused:
    return StatementRefused("values are bound to the stored _id, not to a computed one", "use another name")


def _flatten(projection: Projection, before: str = "") -> list[tuple[str, Any]]:
    """Return the wanted parts by path, with nested choices as dotted paths."""
    found: list[tuple[str, Any]] = []
    for name, wanted in projection.items():
        path = f"{before}{name}"
        if isinstance(wanted, Mapping) and wanted and not next(iter(wanted)).startswith("$"):
            found += _flatten(wanted, f"{path}.")
        else:
            found.append((path, wanted))
    return found


def _is_choice(wanted: object) -> bool:
    return isinstance(wanted, bool | int | float)


def _is_named(field: Field, flat: Mapping[str, Any]) -> bool:
    paths = (".".join(field.parts[:end]) for end in range(1, len(field.parts) + 1))
    return any(path in flat for path in paths)
