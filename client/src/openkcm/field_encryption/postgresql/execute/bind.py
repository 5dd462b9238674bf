"""Carrying out a plan: from what psycopg would have sent to what is sent.

All that does not depend on the values is settled once for each plan: for a statement only its values are looked at.

What the application passed, as values are sealed and rows are known by it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol
from uuid import UUID

from openkcm.contract.protected_fields import Mode
from openkcm.field_encryption import value_format as values
from openkcm.field_encryption.key_cache import TAG, ColumnKeys, KeyUnwrapError, LatestKey
from openkcm.field_encryption.postgresql.catalog import Column, Table
from openkcm.field_encryption.postgresql.errors import ProtectionUnusable, unavailable
from openkcm.field_encryption.postgresql.plan import (
    MADE_TYPES,
    Constant,
    EncryptedParameter,
    EqualityTagParameter,
    GeneratedKey,
    Name,
    Operand,
    Parameter,
    Plan,
    Slot,
)
from openkcm.field_encryption.usage import UsageCounter
from openkcm.field_encryption.value_format import KeyValue

Buffer = bytes | bytearray | memoryview
Arrays = Callable[[bytes, int, int], Sequence[Any]]
"""Reads an array parameter: bytes, type, format."""

Sent = tuple[bytes | None, int, int]
"""Value, type and format."""


class Given:
    """The parameters as psycopg dumped them for one execution, and what has been made for it."""

    __slots__ = ("arrays", "formats", "made", "now", "params", "parts", "types")

    def __init__(self, query: Any, made: Sequence[KeyValue], arrays: Arrays, now: float) -> None:
        self.params, self.types, self.formats = query.params or (), query.types, query.formats or ()
        self.made, self.arrays, self.now = made, arrays, now
        self.parts: list[bytes | None] = []
        """Of the places that values are sealed for, by row; None where the key is NULL."""

    def parameter(self, number: int) -> Sent:
        value = self.params[number - 1]
        raw = value if value is None or type(value) is bytes else bytes(value)
        return raw, self.types[number - 1], int(self.formats[number - 1])


Write = Callable[[Given], tuple[Any, int, Any]]
"""Returns value, type and format of one parameter to send."""


class Writer:
    """Writes the statements of one plan."""

    def __init__(self, plan: Plan, keys: ColumnKeys, tally: UsageCounter) -> None:
        self._plan, self._keys, self._tally = plan, keys, tally
        self._counted: dict[Name, int] = {name: at for at, name in enumerate(plan.columns)}
        self._made: dict[GeneratedKey, int] = {one: at for at, one in enumerate(plan.made)}
        self._rows: dict[tuple[Table, tuple[Operand, ...]], int] = {}
        self._writes = [self._write(slot) for slot in plan.sources]
        self._parts = [self._part(table, key) for table, key in self._rows]
        by_slot = dict(zip(plan.sources, self._writes, strict=True))
        self._pieces: list[bytes | Callable[[Given], bytes]] = [
            piece if isinstance(piece, bytes) else partial(_literal, by_slot[piece], piece) for piece in plan.pieces
        ]

    def written(self, query: Any, made: Sequence[KeyValue], arrays: Arrays) -> tuple[bytes, Any, Any, Any]:
        """Return text, parameters, types and formats. Raises KeysUnavailable, ProtectionUnusable."""
        plan = self._plan
        given = Given(query, made, arrays, self._keys.clock())
        try:
            given.parts = [part(given) for part in self._parts]
            if plan.query:
                sent = [write(given) for write in self._writes]
                found, types, formats = zip(*sent, strict=True) if sent else ((), (), ())
                return plan.query, list(found), types, list(formats)
            text = b"".join([piece if isinstance(piece, bytes) else piece(given) for piece in self._pieces])
        except KeyUnwrapError as failed:
            raise unavailable(failed) from None
        return text, query.params, query.types, query.formats

    def _write(self, slot: Slot) -> Write:
        if isinstance(slot, Parameter):
            at = slot.number - 1
            return lambda given: (given.params[at], given.types[at], given.formats[at])
        if isinstance(slot, GeneratedKey):
            at = self._made[slot]
            return lambda given: (str(given.made[at]).encode("ascii"), 0, 0)
        return self._sealed(slot) if isinstance(slot, EncryptedParameter) else self._tagged(slot)

    def _sealed(self, slot: EncryptedParameter) -> Write:
        table, column, tally = slot.table, slot.column, self._tally
        name, place = (table.schema, table.name, column.name), column.place
        text = column.kind == "text"
        oid, form = (TEXT, 0) if text else (BYTEA, 1)
        row, at = self._rows.setdefault((table, slot.key), len(self._rows)), self._counted[name]
        key, tags = LatestKey(self._keys, name), LatestKey(self._keys, name, TAG)
        tagged, value = column.mode is Mode.DETERMINISTIC, slot.value

        def write(given: Given) -> Sent:
            plain, part = plain_value(given, value, table, column), given.parts[row]
            if plain is None or part is None:
                return None, oid, form  # without a key the database refuses the row, for all it knows
            sealed = values.seal(key.key(given.now), place + part, plain)
            equality = values.tag(tags.key(given.now), place, plain) if tagged else None
            tally.operations[at] += 1
            tally.bytes[at] += len(plain)
            if text:
                return values.to_ascii(sealed, equality), oid, form
            return values.to_bytes(sealed, equality), oid, form

        return write

    def _tagged(self, slot: EqualityTagParameter) -> Write:
        table, column, tally = slot.table, slot.column, self._tally
        name, text = (table.schema, table.name, column.name), slot.column.kind == "text"
        tags, at, value = LatestKey(self._keys, name, TAG), self._counted[name], slot.value
        array = TEXT_ARRAY if text else BYTEA_ARRAY

        def tag(given: Given, plain: bytes | None) -> bytes | None:
            if plain is None:
                return None
            tally.operations[at] += 1
            tally.bytes[at] += len(plain)
            found = values.tag(tags.key(given.now), column.place, plain)
            return values.tag_text(found).encode("ascii") if text else values.tag_bytes(found)

        def one(given: Given) -> Sent:
            found = tag(given, plain_value(given, value, table, column))
            return found, TEXT if text else BYTEA, 0 if text else 1

        if not slot.many or not isinstance(value, Parameter):
            return one

        def many(given: Given) -> Sent:
            elements = array_elements(given, value, table, column)
            if elements is None:
                return None, array, 0
            listed = [_listed(tag(given, element), text=text) for element in elements]
            return b"{" + b",".join(listed) + b"}", array, 0

        return many

    def _part(self, table: Table, key: Sequence[Operand]) -> Callable[[Given], bytes | None]:
        """Return what reads a row's part of a place."""
        if len(key) == 1 and isinstance(key[0], GeneratedKey):
            at = self._made[key[0]]
            return lambda given: values.row_part((given.made[at],))
        reads = [self._key(part, table, column) for part, column in zip(key, table.key, strict=True)]

        def part(given: Given) -> bytes | None:
            found = [read(given) for read in reads]
            known = [one for one in found if one is not None]
            return values.row_part(known) if len(known) == len(found) else None

        return part

    def _key(self, part: Operand, table: Table, column: Column) -> Callable[[Given], KeyValue | None]:
        if isinstance(part, GeneratedKey):
            at = self._made[part]
            return lambda given: given.made[at]
        return lambda given: key(given, part, table, column)


def _listed(element: bytes | None, *, text: bool) -> bytes:
    """Return an element of an array as text."""
    if element is None:
        return b"NULL"
    return b'"' + (element if text else b"\\\\x" + element.hex().encode("ascii")) + b'"'


def _literal(write: Write, slot: Slot, given: Given) -> bytes:
    """Write a value into the text: ciphertext, numbers and UUIDs hold nothing that would need escaping."""
    value, oid, _ = write(given)
    if value is None:
        return b"NULL"
    if isinstance(slot, GeneratedKey):
        return b"'" + bytes(value) + b"'" + MADE_TYPES[slot.column.kind]
    return b"'" + bytes(value) + b"'" if oid == TEXT else b"'\\x" + bytes(value).hex().encode("ascii") + b"'::bytea"


BYTEA, TEXT, BYTEA_ARRAY, TEXT_ARRAY = 17, 25, 1001, 1009
_INT8, _INT2, _INT4, _VARCHAR, _UUID, _NAME = 20, 21, 23, 1043, 2950, 19
_INTEGERS = frozenset({_INT2, _INT4, _INT8})
_TEXTS = frozenset({0, TEXT, _VARCHAR, _NAME})


class ParameterSource(Protocol):
    def parameter(self, number: int) -> Sent: ...

    def arrays(self, raw: bytes, oid: int, form: int) -> Sequence[Any]: ...


def plain_value(given: ParameterSource, value: Parameter | Constant, table: Table, column: Column) -> bytes | None:
    """Return what the database would have stored; raises ProtectionUnusable."""
    if isinstance(value, Constant):
        raw, oid, form = None if value.value is None else str(value.value).encode("utf-8"), 0, 0
    else:
        raw, oid, form = given.parameter(value.number)
    if raw is None:
        return None
    if column.kind == "text":
        if oid in _TEXTS:
            return raw
        if oid in _INTEGERS:
            return raw if form == 0 else str(int.from_bytes(raw, "big", signed=True)).encode("ascii")
    elif oid == BYTEA and form == 1:
        return raw
    elif oid in {0, BYTEA} and raw.startswith(b"\\x"):
        try:
            return bytes.fromhex(raw[2:].decode("ascii"))
        except ValueError:
            raise _unfit(table, column) from None
    raise _unfit(table, column)


def array_elements(given: ParameterSource, value: Parameter, table: Table, column: Column) -> list[bytes | None] | None:
    """Return the elements of an array of such values; raises ProtectionUnusable."""
    raw, oid, form = given.parameter(value.number)
    if raw is None:
        return None
    if not oid and form == 0:
        oid = TEXT_ARRAY if column.kind == "text" else BYTEA_ARRAY
    return [_element(item, table, column) for item in given.arrays(raw, oid, form)]


def _element(item: object, table: Table, column: Column) -> bytes | None:
    if item is None:
        return None
    if column.kind == "text" and isinstance(item, str):
        return item.encode("utf-8")
    if column.kind == "bytea" and isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    raise _unfit(table, column)


def _unfit(table: Table, column: Column) -> ProtectionUnusable:
    wanted = "text" if column.kind == "text" else "bytes"
    return ProtectionUnusable(
        f"the value for the protected column {table.full_name}.{column.name} is not {wanted}",
        f"pass it as {wanted}: what is encrypted must be what is read again",
    )


def key(given: ParameterSource, part: Parameter | Constant, table: Table, column: Column) -> KeyValue | None:
    """Return a primary key value as places hold it, None for NULL; raises ProtectionUnusable."""
    if isinstance(part, Constant):
        if part.value is None:
            return None
        raw, oid, form = str(part.value).encode("utf-8"), 0, 0
    else:
        maybe, oid, form = given.parameter(part.number)
        if maybe is None:
            return None
        raw = maybe
    try:
        found = _read_key(raw, oid, form, column)
    except ValueError:
        found = None
    if found is None or (isinstance(found, str) and 0 < column.longest < len(found)):
        raise ProtectionUnusable(
            f"the value for the primary key {table.full_name}.{column.name} is not of that column's type",
            f"pass it as {column.kind}",
        )
    return found


def _read_key(raw: bytes, oid: int, form: int, column: Column) -> KeyValue | None:
    if column.kind == "int" and (oid == 0 or oid in _INTEGERS):
        return int(raw) if form == 0 else int.from_bytes(raw, "big", signed=True)
    if column.kind == "text" and oid in _TEXTS:
        return raw.decode("utf-8")
    if column.kind == "uuid" and oid in {0, _UUID}:
        return UUID(raw.decode("ascii")) if form == 0 else UUID(bytes=raw)
    if column.kind == "bytea":
        if oid == BYTEA and form == 1:
            return raw
        if oid in {0, BYTEA} and raw.startswith(b"\\x"):
            return bytes.fromhex(raw[2:].decode("ascii"))
    return None
