"""Encryption with keys that were loaded before, so that no row stays locked during a request to the crypto service."""

from openkcm.contract.protected_fields import Mode
from openkcm.field_encryption import value_format as values
from openkcm.field_encryption.key_cache import DATA, TAG, ColumnKeys
from openkcm.field_encryption.postgresql.catalog import Column, Table
from openkcm.field_encryption.value_format import ColumnKey

Stored = str | bytes
_KeyName = tuple[str, str, int]
"""Column, purpose, version; version 0 is the newest."""


class KeyNotLoaded(Exception):
    """A value needs a key that is not loaded: `fetch` it outside of any transaction, and start again."""

    def __init__(self, name: _KeyName) -> None:
        super().__init__(name)
        self.name = name


class PreloadedKeys:
    """The keys of one table's columns. Only `refresh` and `fetch` may send requests to the crypto service."""

    def __init__(self, keys: ColumnKeys, table: Table) -> None:
        self._keys, self._table = keys, table
        self._held: dict[_KeyName, ColumnKey | None] = {}

    def refresh(self) -> None:
        """Load each key again. Raises KeyUnwrapError."""
        for name in list(self._held):
            self.fetch(name)

    def fetch(self, name: _KeyName) -> None:
        """Load a key. Raises KeyUnwrapError."""
        column, purpose, version = name
        table_column = (self._table.schema, self._table.name, column)
        self._held.pop(name, None)
        self._held[name] = (
            self._keys.version(table_column, version) if version else self._keys.newest(table_column, purpose)
        )

    def seal(self, column: Column, part: bytes, plain: Stored) -> Stored:
        """Return the value as the application would store it. Raises KeyNotLoaded."""
        raw = plain.encode("utf-8") if isinstance(plain, str) else plain
        sealed = values.seal(self._newest(column, DATA), column.place + part, raw)
        equality = None
        if column.mode is Mode.DETERMINISTIC:
            equality = values.tag(self._newest(column, TAG), column.place, raw)
        return values.to_text(sealed, equality) if isinstance(plain, str) else values.to_bytes(sealed, equality)

    def open(self, column: Column, part: bytes, stored: Stored) -> Stored:
        """Return the value as the application would read it. Raises NotEncrypted, DecryptionFailed, KeyNotLoaded."""
        sealed, equality = values.from_text(stored) if isinstance(stored, str) else values.from_bytes(stored)
        name = (column.name, DATA, values.version_of(sealed))
        if not name[2]:
            raise values.DecryptionFailed
        key = self._key(name)
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

    def _key(self, name: _KeyName) -> ColumnKey | None:
        try:
            return self._held[name]
        except KeyError:
            raise KeyNotLoaded(name) from None
