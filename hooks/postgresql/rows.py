"""Rows as the application reads them: decrypted, and without the keys that came along for it."""

from binascii import a2b_base64
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any

from hooks import values
from hooks.keys import ColumnKeys
from hooks.postgresql.catalogue import Table, key_value
from hooks.postgresql.errors import StatementRefused
from hooks.postgresql.opening import UNUSUAL, Opener
from hooks.postgresql.plans import Plan
from hooks.uses import PLAIN, Tally, Uses
from hooks.values import (
    HEAD,
    LENGTHS,
    ONE_BYTE_LESS,
    START,
    TAG_TEXT,
    TEXT_PREFIX,
    TWO_BYTES_LESS,
    tag_text,
)

MakeRow = Callable[[Sequence[Any]], Any]
_BODY = {TEXT_PREFIX[0]: len(TEXT_PREFIX[0]), TEXT_PREFIX[1]: TAG_TEXT}
"""By how a text begins, where its ciphertext does."""
_AT_ONCE = 1000
"""Rows that are opened together: the keys may be used no longer than that takes."""


class Visible:
    """A result without its hidden columns, as row factories look at one."""

    def __init__(self, result: Any, visible: Sequence[int]) -> None:
        self._result, self._visible = result, visible
        self.nfields, self.status = len(visible), result.status

    def fname(self, index: int) -> Any:
        return self._result.fname(self._visible[index])

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._result, name)
        if name in {"ftype", "fmod", "fsize", "ftable", "ftablecol", "fformat"}:
            return lambda index: found(self._visible[index])
        return found


class RowReader:
    """Reads the rows of one statement's results; where things are in them is known by their origin."""

    def __init__(  # noqa: PLR0913, PLR0917 - what a statement's work is made of
        self, plan: Plan, result: Any, keys: ColumnKeys, openers: Callable[..., Opener], tally: Tally, uses: Uses
    ) -> None:
        """Raises StatementRefused when the result is not as understood."""
        self._keys, self._tally, self._uses = keys, tally, uses
        columns = range(result.nfields)
        names = [(result.fname(index) or b"").decode("utf-8") for index in columns]
        positions = {name: index for index, name in enumerate(names)}
        self.visible = tuple(index for index in columns if names[index] not in plan.hidden)
        self._leading = self.visible == tuple(range(len(self.visible)))
        groups: dict[tuple[int, tuple[int, ...]], tuple[_RowKey, list[tuple[int, int, Opener]]]] = {}
        counted = {name: at for at, name in enumerate(plan.columns)}
        for index, read in zip(_found(plan, result), plan.reads, strict=True):
            key = tuple(positions[name] for name in read.key)
            group = groups.setdefault((read.table.oid, key), (_RowKey(read.table, key), []))
            name = (read.table.schema, read.table.name, read.column.name)
            group[1].append((index, counted[name], openers(read.table, read.column)))
        self._groups = [(key.position, key.part, opening) for key, opening in groups.values()]
        self._openers = [opener for _, opening in groups.values() for _, _, opener in opening]

    def read(self, rows: Sequence[tuple[Any, ...]], make: MakeRow, *, timed: bool) -> list[Any]:
        """Return the application's rows; `timed` says that the request is counted in which they were asked for."""
        begun = perf_counter_ns()
        made: list[Any] = []
        for at in range(0, len(rows), _AT_ONCE):
            now, ended = self._keys.clock(), self._keys.ended
            for opener in self._openers:
                if now >= opener.lent[0] or ended != opener.lent[2]:
                    opener.renew(ended)
            self._read(rows[at : at + _AT_ONCE], make, made.append)
        if timed:
            lasted = perf_counter_ns() - begun
            self._tally.nanoseconds += lasted
            self._tally.request_nanoseconds += lasted
        return made

    def _read(  # noqa: C901, PLR0912 - a call for each value would cost as much as opening it
        self, rows: Sequence[tuple[Any, ...]], make: MakeRow, add: Callable[[Any], None]
    ) -> None:
        """Open what is protected: one loop without a call of ours for a value of the usual kind."""
        groups, operations, sizes = self._groups, self._tally.operations, self._tally.bytes
        count, visible = len(self.visible), None if self._leading else self.visible
        for row in rows:
            found = list(row)
            for position, part_of, opening in groups:
                part: bytes | None
                if position is not None and type(row[position]) is int:
                    number = b"i%d" % row[position]
                    part = LENGTHS[len(number)] + number
                else:
                    part = part_of(row)
                for index, at, opener in opening:
                    stored = row[index]
                    if stored is None:
                        continue
                    plain = None
                    if opener.is_text:
                        try:
                            body = _BODY[stored[:8]]
                            sealed = a2b_base64(stored[body:], strict_mode=True)
                            last = stored[-1]  # the one spelling of these bytes, as values.from_text
                            if not (len(stored) - body) & 3 and (
                                last != "=" or stored[-2:] in ONE_BYTE_LESS or stored[-3:] in TWO_BYTES_LESS
                            ):
                                start = sealed[:START]
                                place = start + opener.place + part  # type: ignore[operator]  # for None as well
                                plain = opener.lent[1][start].decrypt(sealed[START:HEAD], sealed[HEAD:], place)
                                if body == TAG_TEXT and stored[:TAG_TEXT] != tag_text(opener.tag(plain)):
                                    plain = None
                        except UNUSUAL:
                            pass
                        if plain is None:
                            plain = opener.looked_at(stored, part)
                        if plain is not None:
                            found[index] = plain.decode("utf-8")
                    else:
                        plain = found[index] = opener.opened_bytes(stored, part)
                    if plain is None:
                        found[index] = stored
                        self._uses.note(self._tally.places[at] + PLAIN, 1, 0, 0)
                    else:
                        operations[at] += 1
                        sizes[at] += len(plain)
            add(make(found[:count] if visible is None else [found[at] for at in visible]))


def _found(plan: Plan, result: Any) -> list[int]:
    """Return where the protected columns of the result are."""
    expected = [(read.table.oid, read.column.number) for read in plan.reads]
    tables = {read.table.oid: read.table for read in plan.reads}
    protected = {(oid, one.number) for oid, table in tables.items() for one in table.protected.values()}
    protected.update(expected)
    origins = [(result.ftable(index), result.ftablecol(index)) for index in range(result.nfields)]
    found = [index for index, origin in enumerate(origins) if origin in protected]
    if [origins[index] for index in found] != expected:
        raise StatementRefused(
            "the result's protected columns are not those that the statement was understood to have",
            "write the schema before its tables, and name the columns",
        )
    return found


class _RowKey:
    """Reads a row's primary key from the columns that came along."""

    def __init__(self, table: Table, positions: tuple[int, ...]) -> None:
        self._positions, self._kinds = positions, [one.kind for one in table.key]
        self.position = positions[0] if self._kinds == ["int"] else None
        """Of a key that is one integer, as nearly all are."""

    def part(self, row: tuple[Any, ...]) -> bytes | None:
        """Return the row's part of a place, None where there is no row, as in an outer join."""
        known = []
        for position, kind in zip(self._positions, self._kinds, strict=True):
            found = key_value(kind, row[position])
            if found is None:
                return None
            known.append(found)
        return values.row_part(known)
