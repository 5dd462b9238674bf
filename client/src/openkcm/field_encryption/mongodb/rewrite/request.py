"""One command on a protected collection: its keys, its errors, and its usage counts.

The counts are added to the program's sums when the command is complete.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from openkcm.field_encryption.mongodb import encryption as sealing
from openkcm.field_encryption.mongodb.catalog import Collection, Field
from openkcm.field_encryption.mongodb.encryption import Codec, DatabaseKeys, FieldKeys
from openkcm.field_encryption.mongodb.errors import ProtectionUnusable, StatementRefused
from openkcm.field_encryption.usage import UsageReporter

_WHOLE = ("$$ROOT", "$$CURRENT")
_BY_NAME = ("$getField", "$setField", "$unsetField")


class Count:
    """Counts of one command, from its start; not shared between threads."""

    __slots__ = ("_begun", "_done", "_plain", "_spent", "_uses")

    def __init__(self, uses: UsageReporter) -> None:
        self._uses, self._begun, self._spent = uses, time.perf_counter_ns(), 0
        self._done: dict[str, list[int]] = {}
        self._plain: dict[str, int] = {}

    def values(self, field: Field, number: int, size: int) -> None:
        """Count encrypted or decrypted values by their number and their bytes."""
        done = self._done.get(field.counted)
        if done is None:
            self._done[field.counted] = [number, size]
        else:
            done[0] += number
            done[1] += size

    def plain(self, field: Field) -> None:
        """Count a value that was read unencrypted."""
        name = field.counted
        self._plain[name] = self._plain.get(name, 0) + 1

    def prepared(self) -> None:
        """Count the time until now as encryption."""
        self._spent += time.perf_counter_ns() - self._begun

    def ended(self, reply: Any = None, decrypting_since: int | None = None) -> Any:
        """Add the counts and the total time to the sums, and return the reply.

        The time since `decrypting_since`, by `time.perf_counter_ns`, counts as encryption.
        """
        now = time.perf_counter_ns()
        lasted = now - self._begun
        if decrypting_since is not None:
            self._spent += now - decrypting_since
        for name, number in self._plain.items():
            self._uses.plain(name, number)
        if self._done:
            self._uses.request(self._done, self._spent, lasted)
        self._done, self._plain = {}, {}
        return reply


@dataclass(slots=True)
class Request:
    collection: Collection
    keys: DatabaseKeys
    codec: Codec
    count: Count

    def identity(self, value: object) -> bytes:
        """Return the identity to which values of a document are bound. Raises ProtectionUnusable."""
        found = sealing.identity(value, self.codec)
        if found is None:
            raise ProtectionUnusable(
                f"the _id of a document in {self.collection.full_name} is a {type(value).__name__}, "
                "to which protected values cannot be bound",
                "use an ObjectId, a string, an integer, a UUID or bytes",
            )
        return found

    def seal(self, field: Field, identity: bytes, value: object) -> Any:
        """Return the encrypted value to store. Raises ProtectionUnusable, KeyUnwrapError."""
        stored, size = sealing.seal(self.keys.of(field), field, identity, value, self.codec)
        self.count.values(field, 1, size)
        return stored

    def decrypted(self, field: Field, keys: FieldKeys, identity: bytes | None, stored: Any, codec: Codec) -> Any:
        """Return the decrypted value. Raises KeyUnwrapError, PlainValueFound, ValueRefused."""
        value = sealing.decrypted(keys, field, identity, stored, codec)
        if value is stored:
            self.count.plain(field)
        else:
            self.count.values(field, 1, sealing.size_of(stored))
        return value

    def tag(self, field: Field, value: object) -> Any:
        """Return the tag for an equality query. Raises ProtectionUnusable, KeyUnwrapError."""
        return sealing.tag_of(self.keys.of(field), field, value, self.codec)

    def is_document(self, value: object) -> bool:
        return sealing.is_document(value, self.codec)

    def require_unprotected(self, path: str, doing: str) -> None:
        """Reject a path that is protected, contains protected fields, or is inside of one."""
        field = self.collection.affected_field(path)
        if field is not None:
            raise refusal(field, doing)

    def no_reference(self, expression: object, doing: str) -> None:
        """Reject an expression that reads a protected field."""
        for path in _references(expression):
            if path in _WHOLE:
                raise StatementRefused(
                    f"{doing} the whole document would include ciphertext of {self.collection.full_name}",
                    "name the fields that are not protected",
                )
            named = path.removeprefix("$$ROOT.").removeprefix("$$CURRENT.").removeprefix("$")
            if not named.startswith("$"):  # a variable was checked where it was bound
                self.require_unprotected(named, doing)


def refusal(field: Field, doing: str) -> StatementRefused:
    return StatementRefused(
        f"{doing} the protected field {field.full_name} is not possible: the database has only its ciphertext",
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
                if isinstance(value, Mapping):  # the document is only read, not included
                    yield from _references({key: one for key, one in value.items() if one not in _WHOLE})
            elif name != "$literal":
                yield from _references(value)
    elif isinstance(expression, list | tuple):
        for value in expression:
            yield from _references(value)
