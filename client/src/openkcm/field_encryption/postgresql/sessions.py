"""State of each database and connection: its catalogue for a short time, its keys, and reserved ids."""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from openkcm.contract.protected_fields import ProtectedField, Store
from openkcm.field_encryption.key_cache import ColumnKeys, KeySource, KeyStore
from openkcm.field_encryption.postgresql.catalog import NOTHING, question, read_answer
from openkcm.field_encryption.postgresql.errors import ProtectionUnknown
from openkcm.field_encryption.postgresql.statements import RewriteCache
from openkcm.field_encryption.protected_fields import Protection, ProtectionUnreadable
from openkcm.field_encryption.usage import UsageReporter

_FIRST_BLOCK, _LARGEST_BLOCK = 8, 512
_ATTRIBUTE = "_openkcm_session"
"""An attribute of the connection, so that the session ends with it."""


class Database:
    """One database of one server, shared by the process."""

    def __init__(self, keys: ColumnKeys, uses: UsageReporter) -> None:
        self._keys, self._uses = keys, uses
        self.works = RewriteCache(NOTHING, keys, uses)
        self.known_until = float("-inf")
        self.fields: tuple[ProtectedField, ...] | None = None
        """The fields of all stores with which the catalogue was read."""

    def update(self, answer: str, fields: tuple[ProtectedField, ...], until: float) -> None:
        catalogue = read_answer(answer, _columns(fields))
        if catalogue != self.works.catalogue:
            self.works = RewriteCache(catalogue, self._keys, self._uses)
        self.fields, self.known_until = fields, until


class Session:
    """The state of one connection."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.ids: dict[str, list[int]] = {}
        self.block = _FIRST_BLOCK
        self.used_ids = False
        self.asked: tuple[ProtectedField, ...] = ()
        """The fields in the pending catalogue query."""
        self.changed = False
        """The connection changed the structure of the database, perhaps in a transaction that is not committed."""

    def take(self, sequence: str) -> int:
        self.used_ids = True
        return self.ids[sequence].pop()

    def next_block(self, needed: int) -> int:
        size, self.block = self.block, min(_LARGEST_BLOCK, 2 * self.block)
        return max(size, needed)


class Hook:
    """The state of the encryption in this process."""

    def __init__(  # noqa: PLR0913 - the settings of a process
        self,
        protection: Protection,
        source: KeySource,
        store: Callable[[Any], KeyStore],
        uses: UsageReporter,
        *,
        key_seconds: float,
        catalogue_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`store` returns, for a connection, the storage of wrapped keys in its database."""
        self._protection, self._source, self._store, self.uses = protection, source, store, uses
        self._key_seconds, self._catalogue_seconds, self._clock = key_seconds, catalogue_seconds, clock
        self._lock = threading.Lock()
        self._databases: dict[tuple[bytes, ...], Database] = {}

    def session(self, connection: Any) -> Session:
        kept: tuple[Hook, Session] | None = connection.__dict__.get(_ATTRIBUTE)
        if kept is not None and kept[0] is self:
            return kept[1]
        pgconn = connection.pgconn
        place = (pgconn.host, pgconn.hostaddr, pgconn.port, pgconn.db)
        with self._lock:
            database = self._databases.get(place)
            if database is None:
                keys = ColumnKeys(Store.POSTGRESQL, self._source, self._store(pgconn), self._key_seconds, self._clock)
                database = self._databases[place] = Database(keys, self.uses)
        session = Session(database)
        connection.__dict__[_ATTRIBUTE] = (self, session)
        return session

    def is_current(self, session: Session) -> bool:
        """Return whether the cached catalogue is valid. Raises ProtectionUnknown."""
        database = session.database
        try:
            fields = self._protection.fields()
        except ProtectionUnreadable as failed:
            raise ProtectionUnknown(f"the list of protected columns is not available: {failed}", failed.hint) from None
        return fields is database.fields and not session.changed and self._clock() < database.known_until

    def question(self, session: Session) -> bytes:
        """Return the catalogue query. Raises ProtectionUnknown."""
        session.asked = self._fields()
        return question(_columns(session.asked))

    def _fields(self) -> tuple[ProtectedField, ...]:
        try:
            return self._protection.fields()
        except ProtectionUnreadable as failed:
            raise ProtectionUnknown(f"the list of protected columns is not available: {failed}", failed.hint) from None

    def catalogue_received(self, session: Session, answer: str) -> None:
        session.changed = False
        session.database.update(answer, session.asked, self._clock() + self._catalogue_seconds)

    def structure_changed(self, session: Session) -> None:
        """Read the catalogue again before the next statement, and again after the end of the transaction."""
        session.changed = True
        session.ids.clear()
        session.database.known_until = float("-inf")


def _columns(fields: Iterable[ProtectedField]) -> list[ProtectedField]:
    return [one for one in fields if one.store is Store.POSTGRESQL]
