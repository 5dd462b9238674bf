"""Rows as the application reads them: decrypted, and without the key columns that were added.

Nearly all values are valid and belong to a known session; the loop of `RowReader` decrypts these without a call.
`ColumnDecryptor` handles all others with every check, and raises the reason if a value cannot be decrypted.
"""

from binascii import a2b_base64
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any

from cryptography.exceptions import InvalidTag

from openkcm.field_encryption import value_format as values
from openkcm.field_encryption.key_cache import TAG, ColumnKeys, KeyUnwrapError, LatestKey, LentCiphers
from openkcm.field_encryption.postgresql.catalog import Column, Table, key_value
from openkcm.field_encryption.postgresql.errors import (
    PlainValueFound,
    ProtectionUnusable,
    StatementRefused,
    ValueRefused,
    unavailable,
)
from openkcm.field_encryption.postgresql.plan import Plan
from openkcm.field_encryption.usage import UsageCounter, UsageReporter
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
"""The length of each text prefix, after which the ciphertext starts."""
_BATCH_ROWS = 1000
"""Rows that are decrypted together; a key may expire during that time only."""


class Visible:
    """A result without its hidden columns, for row factories."""

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


class ColumnDecryptor(LentCiphers):
    """Decrypts the values of one protected column; thread-safe."""

    __slots__ = ("_plaintext_allowed", "_tags", "_where", "is_text")

    def __init__(self, keys: ColumnKeys, table: Table, column: Column) -> None:
        super().__init__(keys, (table.schema, table.name, column.name), column.place)
        self._plaintext_allowed = column.plaintext_allowed
        self._where = f"{table.full_name}.{column.name}"
        self._tags = LatestKey(keys, self._column, TAG)
        self.is_text = column.kind == "text"

    def tag(self, plain: bytes) -> bytes:
        """Return the tag of all values that equal this one. Raises KeyUnwrapError."""
        return values.tag(self._tags.key(self._keys.clock()), self.place, plain)

    def decrypt_bytes(self, stored: Any, part: bytes | None) -> bytes | None:
        """Return a value of a bytea column, None for an allowed plain value; raises as `decrypt`."""
        try:
            if part is not None and stored[:6] == _BYTES:
                start, nonce = stored[6 : 6 + START], stored[6 + START : 6 + HEAD]
                decrypt, shared = self.lent[1][start]
                return decrypt(nonce, stored[6 + HEAD :], shared + part)
        except UNUSUAL:
            pass
        return self.decrypt(stored, part)

    def decrypt(self, stored: Any, part: bytes | None) -> bytes | None:
        """Decrypt one value of the row with this key, with every check; None for an allowed plain value.

        Raises: PlainValueFound, ValueRefused, KeysUnavailable, ProtectionUnusable.
        """
        if type(stored) is not (str if self.is_text else bytes):  # a subclass may be anything
            raise ProtectionUnusable(
                f"{self._where} is loaded by a custom loader of the application",
                "remove the loader for this column's type",
            )
        try:
            read: Callable[[Any], tuple[Any, Any]] = values.from_text if self.is_text else values.from_bytes
            return self._unseal(*read(stored), part)
        except values.NotEncrypted:
            if self._plaintext_allowed:
                return None
            raise PlainValueFound(f"{self._where} contains a value that is not encrypted") from None
        except values.DecryptionFailed:
            raise ValueRefused(
                f"a value of {self._where} cannot be decrypted in its row: "
                "it was altered, moved, or encrypted by another service"
            ) from None
        except KeyUnwrapError as failed:
            raise unavailable(failed) from None

    def _unseal(self, sealed: bytes, equality: bytes | None, part: bytes | None) -> bytes:
        if part is None:
            raise values.DecryptionFailed
        plain = self.unseal(sealed, part)
        if equality is not None and equality != self.tag(plain):
            raise values.DecryptionFailed
        return plain


class RowReader:
    """Reads the rows of one statement's results; columns are identified by their origin."""

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of a prepared statement
        self,
        plan: Plan,
        result: Any,
        keys: ColumnKeys,
        decryptors: Callable[..., ColumnDecryptor],
        counter: UsageCounter,
        uses: UsageReporter,
    ) -> None:
        """Raises StatementRefused for unexpected columns."""
        self._keys, self._counter, self._uses = keys, counter, uses
        columns = range(result.nfields)
        names = [(result.fname(index) or b"").decode("utf-8") for index in columns]
        positions = {name: index for index, name in enumerate(names)}
        self.visible = tuple(index for index in columns if names[index] not in plan.hidden)
        self._leading = self.visible == tuple(range(len(self.visible)))
        groups: dict[tuple[int, tuple[int, ...]], tuple[_RowKey, list[tuple[int, int, ColumnDecryptor, bool]]]] = {}
        counted = {name: at for at, name in enumerate(plan.columns)}
        for index, read in zip(_protected_positions(plan, result), plan.reads, strict=True):
            key = tuple(positions[name] for name in read.key)
            group = groups.setdefault((read.table.oid, key), (_RowKey(read.table, key), []))
            name = (read.table.schema, read.table.name, read.column.name)
            decryptor = decryptors(read.table, read.column)
            group[1].append((index, counted[name], decryptor, decryptor.is_text))
        self._groups = [(key.position, key.part, columns_of_key) for key, columns_of_key in groups.values()]
        self._decryptors = [decryptor for _, columns_of_key in groups.values() for *_, decryptor, _ in columns_of_key]

    def read(  # noqa: C901, PLR0912, PLR0915 - a call for each value would cost as much as its decryption
        self, rows: Sequence[tuple[Any, ...]], make: MakeRow, *, timed: bool
    ) -> list[Any]:
        """Return the application's rows; `timed` says that their request is counted.

        Values that are ordinary are decrypted in this loop.
        """
        begun = perf_counter_ns()
        groups, counter = self._groups, self._counter
        operations, sizes = counter.operations, counter.bytes
        count, visible = len(self.visible), None if self._leading else self.visible
        made: list[Any] = []
        left = 0
        for row in rows:
            if not left:
                left = _BATCH_ROWS
                self._keys.discard_expired(self._decryptors)
            left -= 1
            found = list(row)
            for position, part_of, columns_of_key in groups:
                part: bytes | None
                if position is not None and type(row[position]) is int:
                    number = b"i%d" % row[position]
                    part = LENGTHS[len(number)] + number
                else:
                    part = part_of(row)
                for index, at, decryptor, is_text in columns_of_key:
                    stored = row[index]
                    if stored is None:
                        continue
                    plain = None
                    if is_text:
                        try:
                            body = _BODY[stored[:8]]
                            sealed = a2b_base64(stored[body:], strict_mode=True)
                            last = stored[-1]  # only the canonical encoding, as in values.from_text
                            if not (len(stored) - body) & 3 and (
                                last != "="
                                or stored[-2] in ONE_BYTE_LESS
                                or (stored[-2] == "=" and stored[-3] in TWO_BYTES_LESS)
                            ):
                                decrypt, shared = decryptor.lent[1][sealed[:START]]
                                place = shared + part  # type: ignore[operator]  # for None as well
                                plain = decrypt(sealed[START:HEAD], sealed[HEAD:], place)
                                if body == TAG_TEXT and stored[:TAG_TEXT] != tag_text(decryptor.tag(plain)):
                                    plain = None
                        except UNUSUAL:
                            pass
                        if plain is None:
                            plain = decryptor.decrypt(stored, part)
                        if plain is not None:
                            found[index] = plain.decode()
                    else:
                        plain = found[index] = decryptor.decrypt_bytes(stored, part)
                    if plain is None:
                        found[index] = stored
                        self._uses.plain(counter.places[at], 1)
                    else:
                        operations[at] += 1
                        sizes[at] += len(plain)
            made.append(make(found[:count] if visible is None else [found[at] for at in visible]))
        if timed:
            lasted = perf_counter_ns() - begun
            counter.nanoseconds += lasted
            counter.request_nanoseconds += lasted
        return made


def _protected_positions(plan: Plan, result: Any) -> list[int]:
    """Return the positions of the protected columns in the result."""
    expected = [(read.table.oid, read.column.number) for read in plan.reads]
    tables = {read.table.oid: read.table for read in plan.reads}
    protected = {(oid, one.number) for oid, table in tables.items() for one in table.protected.values()}
    protected.update(expected)
    origins = [(result.ftable(index), result.ftablecol(index)) for index in range(result.nfields)]
    found = [index for index, origin in enumerate(origins) if origin in protected]
    if [origins[index] for index in found] != expected:
        raise StatementRefused(
            "the result has other protected columns than the analysis of the statement expects",
            "qualify tables with their schema, and name the columns",
        )
    return found


class _RowKey:
    """Reads a row's primary key from the columns that were added."""

    def __init__(self, table: Table, positions: tuple[int, ...]) -> None:
        self._positions, self._kinds = positions, [one.kind for one in table.key]
        self.position = positions[0] if self._kinds == ["int"] else None
        """The position of a key that is one integer, the usual case."""

    def part(self, row: tuple[Any, ...]) -> bytes | None:
        """Return the row's part of a place, None where an outer join has no row."""
        known = []
        for position, kind in zip(self._positions, self._kinds, strict=True):
            found = key_value(kind, row[position])
            if found is None:
                return None
            known.append(found)
        return values.row_part(known)


UNUSUAL = (KeyError, ValueError, TypeError, InvalidTag, KeyUnwrapError)
"""Errors of the fast path for a value that is not an ordinary one."""

_BYTES = BYTES_PREFIX[0]
