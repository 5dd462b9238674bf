"""Carrying out a plan: from what psycopg would have sent to what is sent."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

from hooks import values
from hooks.keys import TAG, CannotOpen, ColumnKeys
from hooks.postgresql.catalogue import Column, Table
from hooks.postgresql.errors import KeysUnavailable, ProtectionUnusable
from hooks.postgresql.plans import MADE_TYPES, Constant, Made, Operand, Parameter, Plan, Sealed, Slot, Tagged
from hooks.values import KeyValue
from tenancy.protection import Mode

_BYTEA, _INT8, _INT2, _INT4, _TEXT, _VARCHAR, _UUID = 17, 20, 21, 23, 25, 1043, 2950
_NAME, _TEXT_ARRAY, _BYTEA_ARRAY = 19, 1009, 1001
_INTEGERS = frozenset({_INT2, _INT4, _INT8})
_TEXTS = frozenset({0, _TEXT, _VARCHAR, _NAME})

Buffer = bytes | bytearray | memoryview
Arrays = Callable[[bytes, int, int], Sequence[Any]]
"""Reads an array parameter: bytes, type, format."""


class Rewritten:
    """Stands in for psycopg's query: the same attributes, with the plan by which its rows are read."""

    __slots__ = ("formats", "params", "plan", "query", "types")

    def __init__(
        self, plan: Plan, query: bytes, params: list[Buffer | None] | None, types: tuple[int, ...], formats: Any
    ) -> None:
        self.plan, self.query, self.params, self.types, self.formats = plan, query, params, types, formats


class _Given:
    """The parameters as psycopg dumped them for one execution, and what has been made for it."""

    def __init__(self, query: Any, keys: ColumnKeys, made: Mapping[Made, KeyValue], arrays: Arrays) -> None:
        self.params, self.types, self.formats = query.params or (), query.types, query.formats or ()
        self.keys, self.made, self.arrays = keys, made, arrays

    def parameter(self, number: int) -> tuple[bytes | None, int, int]:
        value = self.params[number - 1]
        raw = value if value is None or type(value) is bytes else bytes(value)
        return raw, self.types[number - 1], int(self.formats[number - 1])


def rewritten(plan: Plan, query: Any, keys: ColumnKeys, made: Mapping[Made, KeyValue], arrays: Arrays) -> Rewritten:
    """Return what is to be sent. Raises KeysUnavailable, ProtectionUnusable."""
    if plan.passes:
        return Rewritten(plan, plan.query, query.params, query.types, query.formats)
    given = _Given(query, keys, made, arrays)
    try:
        if plan.query or not plan.sources:
            sent = [_sent(given, slot) for slot in plan.sources]
            return Rewritten(
                plan,
                plan.query,
                [value for value, _, _ in sent],
                tuple(oid for _, oid, _ in sent),
                [form for _, _, form in sent],
            )
        text = b"".join(
            piece if isinstance(piece, bytes) else _literal(_sent(given, piece), piece) for piece in plan.pieces
        )
        return Rewritten(plan, text, query.params, query.types, query.formats)
    except CannotOpen as failed:
        raise unavailable(failed) from None


def unavailable(failed: CannotOpen) -> KeysUnavailable:
    """Return the application's error, which keeps the crypto service's own code in its text."""
    return KeysUnavailable(
        f"the key of a protected column cannot be opened: {failed.detail} ({failed.code})", failed.hint or None
    )


def _sent(given: _Given, slot: Slot) -> tuple[Any, int, Any]:
    """Return value, type and format of a parameter."""
    if isinstance(slot, Parameter):
        number = slot.number - 1
        return given.params[number], given.types[number], given.formats[number]
    if isinstance(slot, Made):
        return str(given.made[slot]).encode("ascii"), 0, 0
    if isinstance(slot, Sealed):
        return _sealed(given, slot)
    return _tagged(given, slot)


def _sealed(given: _Given, slot: Sealed) -> tuple[Any, int, Any]:
    column, kind = slot.column, slot.column.kind
    plain = _plain(given, slot.value, slot.table, column)
    oid, form = (_TEXT, 0) if kind == "text" else (_BYTEA, 1)
    key = [_key(given, part, slot.table, one) for part, one in zip(slot.key, slot.table.key, strict=True)]
    if plain is None or any(part is None for part in key):
        return None, oid, form  # without a key the database refuses the row, for all it knows
    name = (slot.table.schema, slot.table.name, column.name)
    place = values.row_place(column.place, [part for part in key if part is not None])
    sealed = values.seal(given.keys.newest(name), place, plain)
    equality = None
    if column.mode is Mode.DETERMINISTIC:
        equality = values.tag(given.keys.newest(name, TAG), column.place, plain)
    if kind == "text":
        return values.to_text(sealed, equality).encode("ascii"), oid, form
    return values.to_bytes(sealed, equality), oid, form


def _tagged(given: _Given, slot: Tagged) -> tuple[Any, int, Any]:
    column, name = slot.column, (slot.table.schema, slot.table.name, slot.column.name)
    text = column.kind == "text"

    def one(plain: bytes | None) -> bytes | None:
        if plain is None:
            return None
        found = values.tag(given.keys.newest(name, TAG), column.place, plain)
        return values.tag_text(found).encode("ascii") if text else values.tag_bytes(found)

    if not slot.many or isinstance(slot.value, Constant):
        return one(_plain(given, slot.value, slot.table, column)), _TEXT if text else _BYTEA, 0 if text else 1
    raw, oid, form = given.parameter(slot.value.number)
    if raw is None:
        return None, _TEXT_ARRAY if text else _BYTEA_ARRAY, 0
    if not oid and form == 0:
        oid = _TEXT_ARRAY if text else _BYTEA_ARRAY
    elements = [one(_element(item, slot.table, column)) for item in given.arrays(raw, oid, form)]
    listed = [
        b"NULL" if item is None else b'"' + (item if text else b"\\\\x" + item.hex().encode()) + b'"'
        for item in elements
    ]
    return b"{" + b",".join(listed) + b"}", _TEXT_ARRAY if text else _BYTEA_ARRAY, 0


def _element(item: object, table: Table, column: Column) -> bytes | None:
    if item is None:
        return None
    if column.kind == "text" and isinstance(item, str):
        return item.encode("utf-8")
    if column.kind == "bytea" and isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    raise _unfit(table, column)


def _plain(given: _Given, value: Parameter | Constant, table: Table, column: Column) -> bytes | None:
    """Return what the database would have stored."""
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
    elif oid == _BYTEA and form == 1:
        return raw
    elif oid in {0, _BYTEA} and raw.startswith(b"\\x"):
        try:
            return bytes.fromhex(raw[2:].decode("ascii"))
        except ValueError:
            raise _unfit(table, column) from None
    raise _unfit(table, column)


def _unfit(table: Table, column: Column) -> ProtectionUnusable:
    wanted = "text" if column.kind == "text" else "bytes"
    return ProtectionUnusable(
        f"the value for the protected column {table.full_name}.{column.name} is not {wanted}",
        f"pass it as {wanted}: what is encrypted must be what is read again",
    )


def _key(given: _Given, part: Operand, table: Table, column: Column) -> KeyValue | None:
    """Return a primary key value as places hold it, None for NULL."""
    if isinstance(part, Made):
        return given.made[part]
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
    if column.kind == "int" and oid in {0, *_INTEGERS}:
        return int(raw) if form == 0 else int.from_bytes(raw, "big", signed=True)
    if column.kind == "text" and oid in _TEXTS:
        return raw.decode("utf-8")
    if column.kind == "uuid" and oid in {0, _UUID}:
        return UUID(raw.decode("ascii")) if form == 0 else UUID(bytes=raw)
    if column.kind == "bytea":
        if oid == _BYTEA and form == 1:
            return raw
        if oid in {0, _BYTEA} and raw.startswith(b"\\x"):
            return bytes.fromhex(raw[2:].decode("ascii"))
    return None


def _literal(sent: tuple[Any, int, Any], slot: Slot) -> bytes:
    """Write a value into the text: ciphertext, numbers and UUIDs hold nothing that would need escaping."""
    value, oid, _ = sent
    if value is None:
        return b"NULL"
    if isinstance(slot, Made):
        return b"'" + bytes(value) + b"'" + MADE_TYPES[slot.column.kind]
    return b"'" + bytes(value) + b"'" if oid == _TEXT else b"'\\x" + bytes(value).hex().encode("ascii") + b"'::bytea"


def made_for(plan: Plan, ids: Mapping[str, Iterator[int]]) -> dict[Made, KeyValue]:
    """Return the primary key values that the plan makes; `ids` gives those of each sequence."""
    return {
        one: next(ids[one.column.sequence]) if one.column.made_by_database == "sequence" else uuid4()
        for one in plan.made
    }
