"""The rows of a long result are not decrypted with a key that has ended since the result arrived."""

from types import SimpleNamespace
from typing import Any

import pytest

from openkcm.contract.protected_fields import Mode, Store
from openkcm.field_encryption import value_format as values
from openkcm.field_encryption.key_cache import ColumnKeys, KeyErrorScope, KeyUnwrapError
from openkcm.field_encryption.postgresql.catalog import Column, Table
from openkcm.field_encryption.postgresql.errors import KeysUnavailable
from openkcm.field_encryption.postgresql.execute.rows import ColumnDecryptor, RowReader
from openkcm.field_encryption.postgresql.plan import DecryptedColumn, Plan
from openkcm.field_encryption.usage import UsageCounter, UsageReporter
from tests.client.field_encryption.stand import MemoryKeys, MemoryKeyStore

ID = Column("id", 1, "int")
KINDS = ("text", "bytea")
KEY_SECONDS = 60.0
NAMES = (b"id", b"note")


class Process:
    """One reader of a table with an id and a protected column."""

    def __init__(self, kind: str) -> None:
        self.now, self.source = 1000.0, MemoryKeys()
        self.keys = ColumnKeys(Store.POSTGRESQL, self.source, MemoryKeyStore(), KEY_SECONDS, lambda: self.now)
        note = Column("note", 2, kind, Mode.RANDOMISED, place=values.column_place("postgresql", "public", "t", "note"))
        table = Table(1, "public", "t", True, (ID, note), (ID,), "t_pkey", "", {"note": note})  # noqa: FBT003 - `alone`
        plan = Plan((), (DecryptedColumn(table, note, ("id",)),), columns=(("public", "t", "note"),))
        result = SimpleNamespace(
            nfields=2, fname=NAMES.__getitem__, ftable=lambda _: 1, ftablecol=lambda index: index + 1
        )
        counter, uses = UsageCounter(("note",)), UsageReporter(lambda _: 60.0)
        decryptor = ColumnDecryptor(self.keys, table, note)
        self.reader = RowReader(plan, result, self.keys, lambda *_: decryptor, counter, uses)
        place = note.place + values.row_part((1,))
        sealed = values.seal(self.keys.newest(("public", "t", "note")), place, b"flu")
        self.stored: Any = values.to_text(sealed, None) if kind == "text" else values.to_bytes(sealed, None)
        self.plain: Any = "flu" if kind == "text" else b"flu"
        self.made = 0

    def read(self, rows: int, at: int, what: Any) -> list[Any]:
        """Return the rows of a result; call `what` when row number `at` was made."""

        def make(row: Any) -> Any:
            self.made += 1
            if self.made == at:
                what()
            return tuple(row)

        return self.reader.read([(1, self.stored)] * rows, make, timed=True)

    def reject(self) -> None:
        self.source.refused = KeyUnwrapError("tenant_not_operational", "locked", ends=KeyErrorScope.ALL_KEYS)
        self.keys.check_again()

    def expire(self) -> None:
        self.source.up = False
        self.now += KEY_SECONDS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ends", [Process.reject, Process.expire])
def test_key_that_ends_is_not_used_for_a_long_result(kind, ends):
    process = Process(kind)
    with pytest.raises(KeysUnavailable):
        process.read(2500, 10, lambda: ends(process))
    assert 10 < process.made <= 1000


@pytest.mark.parametrize("kind", KINDS)
def test_long_result_is_read_with_a_key_that_was_unwrapped_again_meanwhile(kind):
    process = Process(kind)

    def renew() -> None:
        process.now += KEY_SECONDS

    assert process.read(2500, 10, renew) == [(1, process.plain)] * 2500
