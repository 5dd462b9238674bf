"""What the application passed, as values are sealed and rows are known by it."""

from collections.abc import Sequence
from typing import Any, Protocol
from uuid import UUID

from hooks.postgresql.catalogue import Column, Table
from hooks.postgresql.errors import ProtectionUnusable
from hooks.postgresql.plans import Constant, Parameter
from hooks.values import KeyValue

BYTEA, TEXT, BYTEA_ARRAY, TEXT_ARRAY = 17, 25, 1001, 1009
_INT8, _INT2, _INT4, _VARCHAR, _UUID, _NAME = 20, 21, 23, 1043, 2950, 19
_INTEGERS = frozenset({_INT2, _INT4, _INT8})
_TEXTS = frozenset({0, TEXT, _VARCHAR, _NAME})

Sent = tuple[bytes | None, int, int]
"""Value, type and format."""


class Given(Protocol):
    def parameter(self, number: int) -> Sent: ...

    def arrays(self, raw: bytes, oid: int, form: int) -> Sequence[Any]: ...


def plain(given: Given, value: Parameter | Constant, table: Table, column: Column) -> bytes | None:
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


def elements(given: Given, value: Parameter, table: Table, column: Column) -> list[bytes | None] | None:
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


def key(given: Given, part: Parameter | Constant, table: Table, column: Column) -> KeyValue | None:
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
