"""The protected fields of each collection, by their dotted paths."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from openkcm.contract.protected_fields import Mode, ProtectedField, Store
from openkcm.field_encryption import value_format as values
from openkcm.field_encryption.usage import place


@dataclass(frozen=True, slots=True)
class Field:
    path: str
    parts: tuple[str, ...]
    deterministic: bool
    plaintext_allowed: bool
    column: tuple[str, str, str]
    place: bytes
    full_name: str
    counted: str
    """The field's name in usage reports."""
    nested: bool


@dataclass(frozen=True, slots=True)
class Collection:
    database: str
    name: str
    fields: tuple[Field, ...]
    problem: str = ""
    """Why it cannot be protected as listed."""
    by_path: Mapping[str, Field] = field(default_factory=dict, hash=False)
    ancestors: Mapping[str, Field] = field(default_factory=dict, hash=False)
    """Paths of documents that contain protected fields."""
    projections: dict[Any, Any] = field(default_factory=dict, hash=False, compare=False, repr=False)
    """The kinds of results of projections that were analysed before, see rewrite/projections.py."""

    @property
    def full_name(self) -> str:
        return f"{self.database}.{self.name}"

    def affected_field(self, path: str) -> Field | None:
        """Return the protected field that a path names, contains or is inside of; array indexes are ignored."""
        found = self.by_path.get(path) or self.ancestors.get(path)
        if found is not None or "." not in path:
            return found
        names = [name for name in path.split(".") if not (name.isdigit() or name.startswith("$"))]
        for end in range(1, len(names)):
            found = self.by_path.get(".".join(names[:end]))
            if found is not None:
                return found
        whole = ".".join(names)
        return self.by_path.get(whole) or self.ancestors.get(whole)


Catalogue = Mapping[tuple[str, str], Collection]


def catalogue(fields: Iterable[ProtectedField]) -> Catalogue:
    listed: dict[tuple[str, str], list[ProtectedField]] = {}
    for one in fields:
        if one.store is Store.MONGODB:
            database, _, name = one.place.partition(".")
            listed.setdefault((database, name), []).append(one)
    return {place: _collection(*place, chosen) for place, chosen in listed.items()}


def _collection(database: str, name: str, listed: list[ProtectedField]) -> Collection:
    fields = tuple(_field(database, name, one) for one in listed)
    ancestors = {".".join(one.parts[:end]): one for one in fields for end in range(1, len(one.parts))}
    problem = next(filter(None, (_problem(one, ancestors) for one in fields)), "")
    return Collection(
        database,
        name,
        fields,
        f"{database}.{name}: {problem}" if problem else "",
        {one.path: one for one in fields},
        ancestors,
    )


def _field(database: str, name: str, one: ProtectedField) -> Field:
    parts = tuple(one.field.split("."))
    return Field(
        one.field,
        parts,
        one.mode is Mode.DETERMINISTIC,
        one.plaintext_allowed,
        (database, name, one.field),
        values.column_place(Store.MONGODB, database, name, one.field),
        f"{database}.{name}.{one.field}",
        place(Store.MONGODB, database, name, one.field),
        len(parts) > 1,
    )


def _problem(one: Field, ancestors: Mapping[str, Field]) -> str:
    if one.path in ancestors:
        return f"{one.path} is protected as a whole, and so is {ancestors[one.path].path} inside of it"
    if one.parts[0] == "_id":
        return "the _id cannot be protected: each value is bound to it"
    if any(not part or part.startswith("$") or part.isdigit() for part in one.parts):
        return f"{one.path} is not a path of field names"
    return ""
