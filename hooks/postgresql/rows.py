"""Rows as the application reads them: decrypted, and without the keys that came along for it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hooks import values
from hooks.keys import TAG, CannotOpen, ColumnKeys
from hooks.postgresql.catalogue import Table, key_value
from hooks.postgresql.errors import PlainValueFound, ProtectionUnusable, StatementRefused, ValueRefused
from hooks.postgresql.plans import Plan, Read
from hooks.postgresql.rewriting import unavailable
from hooks.values import ColumnKey

_ASKED_AGAIN = 1.0

MakeRow = Callable[[Sequence[Any]], Any]


class Layout(NamedTuple):
    """Where in the result the protected columns and their keys are, and which columns the application sees."""

    reads: tuple[tuple[int, tuple[int, ...], Read], ...]
    visible: tuple[int, ...]
    leading: bool
    """All that is seen comes first."""
    opening: dict[ColumnKeys, list[tuple["_RowKey", list[tuple[int, Any]]]]]
    """What opens the values, made at the first row."""


class Visible:
    """A result without its hidden columns, as row factories look at one."""

    def __init__(self, result: Any, visible: Sequence[int]) -> None:
        self._result, self._visible = result, visible
        self.nfields = len(visible)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._result, name)
        if name in {"fname", "ftype", "fmod", "fsize", "ftable", "ftablecol", "fformat"}:
            return lambda index: found(self._visible[index])
        return found


def layout(plan: Plan, result: Any) -> Layout:
    """Return where things are, known by their origin; raises StatementRefused when that is not as understood."""
    known = plan.layouts.get(result.nfields)
    if isinstance(known, Layout):
        return known
    numbers = {(read.table.oid, read.column.number) for read in plan.reads}
    tables = {read.table.oid: read.table for read in plan.reads}
    protected = {(oid, one.number) for oid, table in tables.items() for one in table.protected.values()} | numbers
    columns = range(result.nfields)
    found = [index for index in columns if (result.ftable(index), result.ftablecol(index)) in protected]
    origins = [(result.ftable(index), result.ftablecol(index)) for index in found]
    if origins != [(read.table.oid, read.column.number) for read in plan.reads]:
        raise StatementRefused(
            "the result's protected columns are not those that the statement was understood to have",
            "write the schema before its tables, and name the columns",
        )
    names = {(result.fname(index) or b"").decode("utf-8"): index for index in columns}
    reads = tuple(
        (index, tuple(names[key] for key in read.key), read) for index, read in zip(found, plan.reads, strict=True)
    )
    visible = tuple(i for i in columns if (result.fname(i) or b"").decode("utf-8") not in plan.hidden)
    made = Layout(reads, visible, visible == tuple(range(len(visible))), {})
    plan.layouts[result.nfields] = made
    return made


def row_maker(place: Layout, keys: ColumnKeys, make: MakeRow) -> MakeRow:
    """Return what makes the application's row from what came."""
    rows_of = place.opening.get(keys)
    if rows_of is None:
        rows_of = place.opening[keys] = _opening(place, keys)
    visible, count, leading = place.visible, len(place.visible), place.leading

    def made(row: Sequence[Any]) -> Any:
        found = list(row)
        for key, columns in rows_of:
            part = key.part(row)
            for index, opened in columns:
                if found[index] is not None:
                    found[index] = opened(found[index], part)
        return make(found[:count] if leading else [found[at] for at in visible])

    return made


def _opening(place: Layout, keys: ColumnKeys) -> list[tuple["_RowKey", list[tuple[int, Any]]]]:
    """Return for each row in a result's row where its key is, and its protected columns with what opens them."""
    groups: dict[tuple[int, tuple[int, ...]], tuple[_RowKey, list[tuple[int, Any]]]] = {}
    for index, key, read in place.reads:
        group = groups.setdefault((read.table.oid, key), (_RowKey(read.table, key), []))
        group[1].append((index, _opener(read, keys)))
    return list(groups.values())


class _RowKey:
    """Reads a row's primary key from the columns that came along."""

    __slots__ = ("_kinds", "_positions")

    def __init__(self, table: Table, positions: tuple[int, ...]) -> None:
        self._positions, self._kinds = positions, [one.kind for one in table.key]

    def part(self, row: Sequence[Any]) -> bytes | None:
        """Return the row's part of a place, None when there is no row, as in an outer join."""
        known = []
        for position, kind in zip(self._positions, self._kinds, strict=True):
            value = row[position]
            found = value if kind == "int" and type(value) is int else key_value(kind, value)
            if found is None:
                return None
            known.append(found)
        return values.row_part(known)


class _LastKey:
    """Asks for a column's key once a second: a result may be read for longer than a key may be used."""

    __slots__ = ("_keys", "_last", "_name")

    def __init__(self, keys: ColumnKeys, name: tuple[str, str, str]) -> None:
        self._keys, self._name = keys, name
        self._last: tuple[int, ColumnKey | None, float] = (-1, None, 0.0)

    def of(self, version: int) -> ColumnKey | None:
        known, key, until = self._last  # one object, which threads read and replace as a whole
        now = self._keys.clock()
        if known != version or now >= until:
            key = self._keys.version(self._name, version)
            self._last = version, key, now + _ASKED_AGAIN
        return key


def _opener(read: Read, keys: ColumnKeys) -> Callable[[Any, bytes | None], Any]:
    table, column = read.table, read.column
    name = (table.schema, table.name, column.name)
    text = column.kind == "text"
    wanted, where = str if text else bytes, f"{table.full_name}.{column.name}"
    begin = column.place
    key_of = _LastKey(keys, name).of

    def unsealed(stored: Any, part: bytes | None) -> bytes:
        sealed, equality = values.from_text(stored) if text else values.from_bytes(stored)
        opener = key_of(values.version_of(sealed))
        if opener is None or part is None:
            raise values.DoesNotOpen
        plain = values.unseal(opener, begin + part, sealed)
        if equality is not None and equality != values.tag(keys.newest(name, TAG), begin, plain):
            raise values.DoesNotOpen
        return plain

    def opened(stored: Any, part: bytes | None) -> Any:
        if type(stored) is not wanted:
            raise ProtectionUnusable(
                f"{where} is loaded by something of the application's own",
                "remove the loader for this column's type",
            )
        try:
            plain = unsealed(stored, part)
        except values.NotOurs:
            if column.plain_allowed:
                return stored
            raise PlainValueFound(f"{where} holds a value that is not encrypted") from None
        except values.DoesNotOpen:
            raise ValueRefused(
                f"a value of {where} does not open in its row: it was altered, moved, or encrypted by another service"
            ) from None
        except CannotOpen as failed:
            raise unavailable(failed) from None
        return plain.decode("utf-8") if text else plain

    return opened
