"""Rows as the application reads them: decrypted, and without the keys that came along for it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hooks import values
from hooks.catalogue import key_value
from hooks.errors import PlainValueFound, ProtectionUnusable, StatementRefused, ValueRefused
from hooks.keys import TAG, CannotOpen, ColumnKeys
from hooks.plans import Plan, Read
from hooks.rewriting import unavailable

MakeRow = Callable[[Sequence[Any]], Any]


class Layout(NamedTuple):
    """Where in the result the protected columns and their keys are, and which columns the application sees."""

    reads: tuple[tuple[int, tuple[int, ...], Read], ...]
    visible: tuple[int, ...]
    leading: bool
    """All that is seen comes first."""


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
    made = Layout(reads, visible, visible == tuple(range(len(visible))))
    plan.layouts[result.nfields] = made
    return made


def row_maker(place: Layout, keys: ColumnKeys, make: MakeRow) -> MakeRow:
    """Return what makes the application's row from what came."""
    reads = [(index, key, _opener(read, keys)) for index, key, read in place.reads]
    visible, count = place.visible, len(place.visible)
    leading = place.leading

    def made(row: Sequence[Any]) -> Any:
        values_ = list(row)
        for index, key, opened in reads:
            if values_[index] is not None:
                values_[index] = opened(values_[index], [row[at] for at in key])
        return make(values_[:count] if leading else [values_[at] for at in visible])

    return made


def _opener(read: Read, keys: ColumnKeys) -> Callable[[Any, list[Any]], Any]:
    table, column = read.table, read.column
    name = (table.schema, table.name, column.name)
    kinds = [one.kind for one in table.key]
    text = column.kind == "text"
    wanted, where = str if text else bytes, f"{table.full_name}.{column.name}"

    def unsealed(stored: Any, key: list[Any]) -> bytes:
        sealed, equality = values.from_text(stored) if text else values.from_bytes(bytes(stored))
        opener = keys.version(name, values.version_of(sealed))
        known = [found for kind, part in zip(kinds, key, strict=True) if (found := key_value(kind, part)) is not None]
        if opener is None or len(known) < len(kinds):
            raise values.DoesNotOpen
        plain = values.unseal(opener, values.row_place(column.place, known), sealed)
        if equality is not None and equality != values.tag(keys.newest(name, TAG), column.place, plain):
            raise values.DoesNotOpen
        return plain

    def opened(stored: Any, key: list[Any]) -> Any:
        if type(stored) is not wanted:
            raise ProtectionUnusable(
                f"{where} is loaded by something of the application's own",
                "remove the loader for this column's type",
            )
        try:
            plain = unsealed(stored, key)
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
