"""Rows as the application reads them: decrypted, and without the keys that came along for it.

Opens the values of one protected column.

Nearly all values are well and of a session that is known: `rows` opens those in its own loop with `ciphers`. What is
otherwise comes here, where every check is made and said why a value does not open.
"""

from binascii import a2b_base64
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from openkcm.field_encryption import value_format as values
from openkcm.field_encryption.key_cache import TAG, ColumnKeys, KeyUnwrapError, LatestKey
from openkcm.field_encryption.postgresql.catalog import Column, Table, key_value
from openkcm.field_encryption.postgresql.errors import (
    PlainValueFound,
    ProtectionUnusable,
    StatementRefused,
    ValueRefused,
    unavailable,
)
from openkcm.field_encryption.postgresql.plan import Plan
from openkcm.field_encryption.usage import PLAIN, UsageCounter, UsageReporter
from openkcm.field_encryption.value_format import (
    BYTES_PREFIX,
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


class ColumnDecryptor:
    """Safe to use from several threads."""

    __slots__ = ("_column", "_keys", "_name", "_tags", "_where", "is_text", "lent", "place")

    def __init__(self, keys: ColumnKeys, table: Table, column: Column) -> None:
        self._keys, self._column = keys, column
        self._name = (table.schema, table.name, column.name)
        self._where = f"{table.full_name}.{column.name}"
        self._tags = LatestKey(keys, self._name, TAG)
        self.place, self.is_text = column.place, column.kind == "text"
        self.lent: tuple[float, dict[bytes, AESGCM], int] = (float("-inf"), {}, -1)
        """Until when it may be used, what opens a value by how it starts, and `ended` of the keys; replaced whole."""

    def renew(self, ended: int) -> None:
        """Ask for keys again: they may not be used any more without."""
        self.lent = (float("inf"), {}, ended)

    def tag(self, plain: bytes) -> bytes:
        """Return what values have in common that equal this one. Raises KeyUnwrapError."""
        return values.tag(self._tags.key(self._keys.clock()), self.place, plain)

    def opened_bytes(self, stored: Any, part: bytes | None) -> bytes | None:
        """Return a value of a bytea column, None when it is plain and may be; raises as `looked_at`."""
        try:
            if part is not None and stored[:6] == _BYTES:
                start, nonce = stored[6 : 6 + START], stored[6 + START : 6 + HEAD]
                return self.lent[1][start].decrypt(nonce, stored[6 + HEAD :], start + self.place + part)
        except UNUSUAL:
            pass
        return self.looked_at(stored, part)

    def looked_at(self, stored: Any, part: bytes | None) -> bytes | None:
        """Open one value of the row with this key, with every check; None when it is plain and may be.

        Raises: PlainValueFound, ValueRefused, KeysUnavailable, ProtectionUnusable.
        """
        if type(stored) is not (str if self.is_text else bytes):  # a subclass may be anything
            raise ProtectionUnusable(
                f"{self._where} is loaded by something of the application's own",
                "remove the loader for this column's type",
            )
        try:
            read: Callable[[Any], tuple[Any, Any]] = values.from_text if self.is_text else values.from_bytes
            return self._unsealed(*read(stored), part)
        except values.NotEncrypted:
            if self._column.plain_allowed:
                return None
            raise PlainValueFound(f"{self._where} holds a value that is not encrypted") from None
        except values.DecryptionFailed:
            raise ValueRefused(
                f"a value of {self._where} does not open in its row: it was altered, moved, or encrypted by another"
                " service"
            ) from None
        except KeyUnwrapError as failed:
            raise unavailable(failed) from None

    def _unsealed(self, sealed: bytes, equality: bytes | None, part: bytes | None) -> bytes:
        before = self.lent
        lent = self._keys.lend_version(self._name, values.version_of(sealed))
        if lent is None or part is None:
            raise values.DecryptionFailed
        key, until = lent
        plain = values.unseal(key, self.place + part, sealed)
        if equality is not None and equality != self.tag(plain):
            raise values.DecryptionFailed
        self._learn(before, sealed[:START], key.cipher(sealed[START - 16 : START]), until)
        return plain

    def _learn(self, lent: tuple[float, dict[bytes, AESGCM], int], start: bytes, cipher: AESGCM, until: float) -> None:
        """Keep what opens values among what was lent before it was asked for, which a refusal since then has ended."""
        usable, ciphers, ended = lent
        if until < usable:  # a key that must go earlier than those that are known: they go with it
            ciphers = dict(ciphers)
            self.lent = (until, ciphers, ended)
        if len(ciphers) >= _SESSIONS_KEPT:
            ciphers.clear()
        ciphers[start] = cipher


class RowReader:
    """Reads the rows of one statement's results; where things are in them is known by their origin."""

    def __init__(  # noqa: PLR0913, PLR0917 - what a statement's work is made of
        self,
        plan: Plan,
        result: Any,
        keys: ColumnKeys,
        openers: Callable[..., ColumnDecryptor],
        tally: UsageCounter,
        uses: UsageReporter,
    ) -> None:
        """Raises StatementRefused when the result is not as understood."""
        self._keys, self._tally, self._uses = keys, tally, uses
        columns = range(result.nfields)
        names = [(result.fname(index) or b"").decode("utf-8") for index in columns]
        positions = {name: index for index, name in enumerate(names)}
        self.visible = tuple(index for index in columns if names[index] not in plan.hidden)
        self._leading = self.visible == tuple(range(len(self.visible)))
        groups: dict[tuple[int, tuple[int, ...]], tuple[_RowKey, list[tuple[int, int, ColumnDecryptor]]]] = {}
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


UNUSUAL = (KeyError, ValueError, TypeError, InvalidTag, KeyUnwrapError)
"""What becomes of a value that is not of the usual kind where it is taken for one."""

_BYTES = BYTES_PREFIX[0]
_SESSIONS_KEPT = 4096
