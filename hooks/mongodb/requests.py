"""One command about one protected collection, while it is being understood."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hooks.keys import ColumnKeys
from hooks.mongodb import sealing
from hooks.mongodb.catalogue import Collection, Field
from hooks.mongodb.counting import Count
from hooks.mongodb.errors import ProtectionUnusable, StatementRefused
from hooks.mongodb.sealing import Codec

_WHOLE = ("$$ROOT", "$$CURRENT")
_BY_NAME = ("$getField", "$setField", "$unsetField")


@dataclass(frozen=True, slots=True)
class Request:
    collection: Collection
    keys: ColumnKeys
    codec: Codec
    count: Count

    def identity(self, value: object) -> bytes:
        """Return what binds to a document. Raises ProtectionUnusable."""
        found = sealing.identity(value, self.codec)
        if found is None:
            raise ProtectionUnusable(
                f"the _id of a document in {self.collection.full_name} is a {type(value).__name__}, "
                "to which protected values cannot be bound",
                "use an ObjectId, a string, an integer, a UUID or bytes",
            )
        return found

    def seal(self, field: Field, identity: bytes, value: object) -> Any:
        """Return what is stored. Raises ProtectionUnusable, CannotOpen."""
        stored = sealing.seal(self.keys, field, identity, value, self.codec)
        self.count.value(field, sealing.size_of(stored))
        return stored

    def opened(self, field: Field, identity: bytes | None, stored: Any, codec: Codec) -> Any:
        """Return the value that was stored. Raises CannotOpen, PlainValueFound, ValueRefused."""
        value = sealing.opened(self.keys, field, identity, stored, codec)
        if value is stored:
            self.count.plain(field)
        else:
            self.count.value(field, sealing.size_of(stored))
        return value

    def tag(self, field: Field, value: object) -> Any:
        """Return what equality is asked by. Raises ProtectionUnusable, CannotOpen."""
        return sealing.tag_of(self.keys, field, value, self.codec)

    def is_document(self, value: object) -> bool:
        return sealing.is_document(value, self.codec)

    def untouched(self, path: str, doing: str) -> None:
        """Refuse a path that is protected, holds what is, or is inside of it."""
        field = self.collection.touched(path)
        if field is not None:
            raise refusal(field, doing)

    def no_reference(self, expression: object, doing: str) -> None:
        """Refuse an expression that reads a protected field."""
        for path in _references(expression):
            if path in _WHOLE:
                raise StatementRefused(
                    f"{doing} the whole document would take along ciphertext of {self.collection.full_name}",
                    "name the fields that are not protected",
                )
            named = path.removeprefix("$$ROOT.").removeprefix("$$CURRENT.").removeprefix("$")
            if not named.startswith("$"):  # a variable holds what was looked at where it was bound
                self.untouched(named, doing)


def refusal(field: Field, doing: str) -> StatementRefused:
    return StatementRefused(
        f"{doing} the protected field {field.full_name} is not possible: the database sees its ciphertext",
        "read the documents and do it in the application" if field.deterministic else None,
    )


def _references(expression: object) -> Iterator[str]:
    if isinstance(expression, str):
        if expression.startswith("$"):
            yield expression
    elif isinstance(expression, Mapping):
        for name, value in expression.items():
            if name in _BY_NAME:
                asked = value.get("field") if isinstance(value, Mapping) else value
                yield f"${asked}" if isinstance(asked, str) else "$$ROOT"
                if isinstance(value, Mapping):  # the document is looked into, not taken along
                    yield from _references({key: one for key, one in value.items() if one not in _WHOLE})
            elif name != "$literal":
                yield from _references(value)
    elif isinstance(expression, list | tuple):
        for value in expression:
            yield from _references(value)
