"""Seals and opens values with keys that are at hand, so that no row stays locked while the crypto service answers."""

from openkcm.contract.protected_fields import Mode
from openkcm.field_encryption import value_format as values
from openkcm.field_encryption.key_cache import DATA, TAG, ColumnKeys
from openkcm.field_encryption.postgresql.catalog import Column, Table
from openkcm.field_encryption.value_format import ColumnKey

Stored = str | bytes
_Wanted = tuple[str, str, int]
"""Column, purpose, version; 0 is the newest."""


class KeyNotLoaded(Exception):
    """A value needs a key that is not at hand: `fetch` it, outside of any transaction, and begin again."""

    def __init__(self, wanted: _Wanted) -> None:
        super().__init__(wanted)
        self.wanted = wanted


class PreloadedKeys:
    """The keys of one table's columns. `refresh` and `fetch` may ask the crypto service; nothing else does."""

    def __init__(self, keys: ColumnKeys, table: Table) -> None:
        self._keys, self._table = keys, table
        self._held: dict[_Wanted, ColumnKey | None] = {}

    def refresh(self) -> None:
        """See that each key may still be used. Raises KeyUnwrapError."""
        for wanted in list(self._held):
            self.fetch(wanted)

    def fetch(self, wanted: _Wanted) -> None:
        """Have a key at hand. Raises KeyUnwrapError."""
        column, purpose, version = wanted
        name = (self._table.schema, self._table.name, column)
        self._held.pop(wanted, None)
        self._held[wanted] = self._keys.version(name, version) if version else self._keys.newest(name, purpose)

    def seal(self, column: Column, part: bytes, plain: Stored) -> Stored:
        """Return what the application would have stored. Raises KeyNotLoaded."""
        raw = plain.encode("utf-8") if isinstance(plain, str) else plain
        sealed = values.seal(self._newest(column, DATA), column.place + part, raw)
        equality = None
        if column.mode is Mode.DETERMINISTIC:
            equality = values.tag(self._newest(column, TAG), column.place, raw)
        return values.to_text(sealed, equality) if isinstance(plain, str) else values.to_bytes(sealed, equality)

    def open(self, column: Column, part: bytes, stored: Stored) -> Stored:
        """Return what the application would read. Raises values.NotEncrypted, values.DecryptionFailed, KeyNotLoaded."""
        sealed, equality = values.from_text(stored) if isinstance(stored, str) else values.from_bytes(stored)
        wanted = (column.name, DATA, values.version_of(sealed))
        if not wanted[2]:
            raise values.DecryptionFailed
        key = self._key(wanted)
        if key is None:
            raise values.DecryptionFailed
        plain = values.unseal(key, column.place + part, sealed)
        if equality is not None and equality != values.tag(self._newest(column, TAG), column.place, plain):
            raise values.DecryptionFailed
        return plain.decode("utf-8") if isinstance(stored, str) else plain

    def _newest(self, column: Column, purpose: str) -> ColumnKey:
        found = self._key((column.name, purpose, 0))
        if found is None:
            raise KeyNotLoaded((column.name, purpose, 0))
        return found

    def _key(self, wanted: _Wanted) -> ColumnKey | None:
        try:
            return self._held[wanted]
        except KeyError:
            raise KeyNotLoaded(wanted) from None
