"""Execution of a plan: replaces the parameters of psycopg's query.

Everything that does not depend on values is prepared once for each plan.
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
"""Returns the elements of an array parameter from bytes, type and format."""

Sent = tuple[bytes | None, int, int]
"""Value, type and format."""


class Execution:
    """The parameters of one execution in psycopg's format, and the values generated for it."""

    __slots__ = ("arrays", "formats", "made", "now", "params", "parts", "types")

    def __init__(self, query: Any, made: Sequence[KeyValue], arrays: Arrays, now: float) -> None:
        self.params, self.types, self.formats = query.params or (), query.types, query.formats or ()
        self.made, self.arrays, self.now = made, arrays, now
        self.parts: list[bytes | None] = []
        """By row, the part of the place for its values; None for a NULL key."""

    def parameter(self, number: int) -> Sent:
        value = self.params[number - 1]
        raw = value if value is None or type(value) is bytes else bytes(value)
        return raw, self.types[number - 1], int(self.formats[number - 1])


Write = Callable[[Execution], tuple[Any, int, Any]]
"""Returns value, type and format of one parameter to send."""


class Writer:
    """Writes the parameters of one plan."""

    def __init__(self, plan: Plan, keys: ColumnKeys, counter: UsageCounter) -> None:
        self._plan, self._keys, self._counter = plan, keys, counter
        self._counted: dict[Name, int] = {name: at for at, name in enumerate(plan.columns)}
        self._made: dict[GeneratedKey, int] = {one: at for at, one in enumerate(plan.made)}
        self._rows: dict[tuple[Table, tuple[Operand, ...]], int] = {}
        self._writes = [self._write(slot) for slot in plan.sources]
        self._parts = [self._part(table, key) for table, key in self._rows]
        by_slot = dict(zip(plan.sources, self._writes, strict=True))
        self._pieces: list[bytes | Callable[[Execution], bytes]] = [
            piece if isinstance(piece, bytes) else partial(_literal, by_slot[piece], piece) for piece in plan.pieces
        ]

    def written(self, query: Any, made: Sequence[KeyValue], arrays: Arrays) -> tuple[bytes, Any, Any, Any]:
        """Return text, parameters, types and formats. Raises KeysUnavailable, ProtectionUnusable."""
        plan = self._plan
        execution = Execution(query, made, arrays, self._keys.clock())
        try:
            execution.parts = [part(execution) for part in self._parts]
            if plan.query:
                sent = [write(execution) for write in self._writes]
                found, types, formats = zip(*sent, strict=True) if sent else ((), (), ())
                return plan.query, list(found), types, list(formats)
            text = b"".join([piece if isinstance(piece, bytes) else piece(execution) for piece in self._pieces])
        except KeyUnwrapError as failed:
            raise unavailable(failed) from None
        return text, query.params, query.types, query.formats

    def _write(self, slot: Slot) -> Write:
        if isinstance(slot, Parameter):
            at = slot.number - 1
            return lambda execution: (execution.params[at], execution.types[at], execution.formats[at])
        if isinstance(slot, GeneratedKey):
            at = self._made[slot]
            return lambda execution: (str(execution.made[at]).encode("ascii"), 0, 0)
        return self._encrypted(slot) if isinstance(slot, EncryptedParameter) else self._equality(slot)

    def _encrypted(self, slot: EncryptedParameter) -> Write:
        table, column, counter = slot.table, slot.column, self._counter
        name, place = (table.schema, table.name, column.name), column.place
        text = column.kind == "text"
        oid, form = (TEXT, 0) if text else (BYTEA, 1)
        row, at = self._rows.setdefault((table, slot.key), len(self._rows)), self._counted[name]
        key, tags = LatestKey(self._keys, name), LatestKey(self._keys, name, TAG)
        tagged, value = column.mode is Mode.DETERMINISTIC, slot.value
        number = value.number - 1 if text and isinstance(value, Parameter) else None

        def write(execution: Execution) -> Sent:
            part = execution.parts[row]
            plain = None if number is None else execution.params[number]
            if number is None or type(plain) is not bytes or execution.types[number] not in _TEXTS:
                plain = plain_value(execution, value, table, column)  # else a text is what that would return
            if plain is None or part is None:
                return None, oid, form  # a NULL key: the database itself rejects the row
            sealed = values.seal(key.key(execution.now), place + part, plain)
            equality = values.tag(tags.key(execution.now), place, plain) if tagged else None
            counter.operations[at] += 1
            counter.bytes[at] += len(plain)
            if text:
                return values.to_ascii(sealed, equality), oid, form
            return values.to_bytes(sealed, equality), oid, form

        return write

    def _equality(self, slot: EqualityTagParameter) -> Write:
        table, column, counter = slot.table, slot.column, self._counter
        name, text = (table.schema, table.name, column.name), slot.column.kind == "text"
        tags, at, value = LatestKey(self._keys, name, TAG), self._counted[name], slot.value
        array = TEXT_ARRAY if text else BYTEA_ARRAY

        def tag(execution: Execution, plain: bytes | None) -> bytes | None:
            if plain is None:
                return None
            counter.operations[at] += 1
            counter.bytes[at] += len(plain)
            found = values.tag(tags.key(execution.now), column.place, plain)
            return values.tag_text(found).encode("ascii") if text else values.tag_bytes(found)

        def one(execution: Execution) -> Sent:
            found = tag(execution, plain_value(execution, value, table, column))
            return found, TEXT if text else BYTEA, 0 if text else 1

        if not slot.many or not isinstance(value, Parameter):
            return one

        def many(execution: Execution) -> Sent:
            elements = array_elements(execution, value, table, column)
            if elements is None:
                return None, array, 0
            listed = [_array_element(tag(execution, element), text=text) for element in elements]
            return b"{" + b",".join(listed) + b"}", array, 0

        return many

    def _part(self, table: Table, key: Sequence[Operand]) -> Callable[[Execution], bytes | None]:
        """Return a function that returns a row's part of a place."""
        if len(key) == 1 and isinstance(key[0], GeneratedKey):
            at = self._made[key[0]]
            return lambda execution: values.row_part((execution.made[at],))
        reads = [self._key(part, table, column) for part, column in zip(key, table.key, strict=True)]
        if len(key) == 1 and isinstance(key[0], Parameter) and table.key[0].kind == "int":
            return _integer_part(key[0].number - 1, reads[0])

        def part(execution: Execution) -> bytes | None:
            found = [read(execution) for read in reads]
            known = [one for one in found if one is not None]
            return values.row_part(known) if len(known) == len(found) else None

        return part

    def _key(self, part: Operand, table: Table, column: Column) -> Callable[[Execution], KeyValue | None]:
        if isinstance(part, GeneratedKey):
            at = self._made[part]
            return lambda execution: execution.made[at]
        return lambda execution: key(execution, part, table, column)


def _integer_part(at: int, read: Callable[[Execution], KeyValue | None]) -> Callable[[Execution], bytes | None]:
    """Return a function that returns the part of a row whose key is one integer, the usual case."""

    def part(execution: Execution) -> bytes | None:
        raw = execution.params[at]
        if type(raw) is bytes and execution.formats[at] and execution.types[at] in _INTEGERS:
            return values.row_part((int.from_bytes(raw, "big", signed=True),))
        found = read(execution)
        return None if found is None else values.row_part((found,))

    return part


def _array_element(element: bytes | None, *, text: bool) -> bytes:
    """Return an element of an array as text."""
    if element is None:
        return b"NULL"
    return b'"' + (element if text else b"\\\\x" + element.hex().encode("ascii")) + b'"'


def _literal(write: Write, slot: Slot, execution: Execution) -> bytes:
    """Return a value as SQL text; ciphertext, numbers and UUIDs contain no character that needs escaping."""
    value, oid, _ = write(execution)
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


def plain_value(execution: ParameterSource, value: Parameter | Constant, table: Table, column: Column) -> bytes | None:
    """Return the bytes that the database would have stored; raises ProtectionUnusable."""
    if isinstance(value, Constant):
        raw, oid, form = None if value.value is None else str(value.value).encode("utf-8"), 0, 0
    else:
        raw, oid, form = execution.parameter(value.number)
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
            raise _wrong_type(table, column) from None
    raise _wrong_type(table, column)


def array_elements(
    execution: ParameterSource, value: Parameter, table: Table, column: Column
) -> list[bytes | None] | None:
    """Return the elements of an array parameter; raises ProtectionUnusable."""
    raw, oid, form = execution.parameter(value.number)
    if raw is None:
        return None
    if not oid and form == 0:
        oid = TEXT_ARRAY if column.kind == "text" else BYTEA_ARRAY
    return [_element(item, table, column) for item in execution.arrays(raw, oid, form)]


def _element(item: object, table: Table, column: Column) -> bytes | None:
    if item is None:
        return None
    if column.kind == "text" and isinstance(item, str):
        return item.encode("utf-8")
    if column.kind == "bytea" and isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    raise _wrong_type(table, column)


def _wrong_type(table: Table, column: Column) -> ProtectionUnusable:
    expected = "text" if column.kind == "text" else "bytes"
    return ProtectionUnusable(
        f"the value for the protected column {table.full_name}.{column.name} is not {expected}",
        f"pass it as {expected}: the decrypted value must equal the original",
    )


def key(execution: ParameterSource, part: Parameter | Constant, table: Table, column: Column) -> KeyValue | None:
    """Return a primary key value in the form for places, None for NULL; raises ProtectionUnusable."""
    if isinstance(part, Constant):
        if part.value is None:
            return None
        raw, oid, form = str(part.value).encode("utf-8"), 0, 0
    else:
        maybe, oid, form = execution.parameter(part.number)
        if maybe is None:
            return None
        raw = maybe
    try:
        found = _read_key(raw, oid, form, column)
    except ValueError:
        found = None
    if found is None or (isinstance(found, str) and 0 < column.longest < len(found)):
        raise ProtectionUnusable(
            f"the value for the primary key {table.full_name}.{column.name} does not have that column's type",
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
