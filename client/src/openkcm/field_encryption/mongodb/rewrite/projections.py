"""Projections: whether protected fields come back, and the `_id` without which they do not open."""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

from openkcm.field_encryption.mongodb.catalog import Field
from openkcm.field_encryption.mongodb.errors import StatementRefused
from openkcm.field_encryption.mongodb.rewrite.request import Request

Projection = Mapping[str, Any]


class Documents(Enum):
    """What comes back."""

    THEIRS = auto()
    """Documents of the collection, or parts of them."""
    WITHOUT_ID = auto()
    """The same, and the `_id` has to be taken away from them again."""
    OTHERS = auto()
    """Documents without protected fields."""


def projected(request: Request, projection: Projection) -> tuple[Projection, Documents]:
    """Return a projection as it is sent and what comes of it. Raises StatementRefused."""
    flat = dict(_flat(projection))
    identity = flat.pop("_id", 1)
    for path, wanted in flat.items():
        if not _is_choice(wanted):
            request.untouched(path, "computing")
            request.no_reference(wanted, "computing with")
        elif path not in request.collection.by_path and path not in request.collection.above:
            request.untouched(path, "choosing a part of")
    chosen = any(_is_choice(wanted) and wanted for wanted in flat.values())
    if chosen and not any(_is_named(field, flat) for field in request.collection.fields):
        return projection, Documents.OTHERS
    if not _is_choice(identity):
        raise computed_id()
    if identity:
        return projection, Documents.THEIRS
    return {path: wanted for path, wanted in projection.items() if path != "_id"}, Documents.WITHOUT_ID


def computed_id() -> StatementRefused:
    return StatementRefused("an _id that is computed is not the one that values are bound to", "name it otherwise")


def _flat(projection: Projection, before: str = "") -> list[tuple[str, Any]]:
    """Return path → what is wanted of it, with documents of choices as dotted paths."""
    found: list[tuple[str, Any]] = []
    for name, wanted in projection.items():
        path = f"{before}{name}"
        if isinstance(wanted, Mapping) and wanted and not next(iter(wanted)).startswith("$"):
            found += _flat(wanted, f"{path}.")
        else:
            found.append((path, wanted))
    return found


def _is_choice(wanted: object) -> bool:
    return isinstance(wanted, bool | int | float)


def _is_named(field: Field, flat: Mapping[str, Any]) -> bool:
    paths = (".".join(field.parts[:end]) for end in range(1, len(field.parts) + 1))
    return any(path in flat for path in paths)
