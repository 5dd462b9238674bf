"""State of each database and connection: its catalogue for a short time, its keys, and reserved ids."""

import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from psycopg import pq

from openkcm.contract.protected_fields import ProtectedField, Store
from openkcm.field_encryption.key_cache import ColumnKeys, KeySource, KeyStore
from openkcm.field_encryption.postgresql.catalog import NOTHING, Catalogue, question, read_answer, read_transaction
from openkcm.field_encryption.postgresql.errors import ProtectionUnknown
from openkcm.field_encryption.postgresql.statements import RewriteCache
from openkcm.field_encryption.protected_fields import Protection, ProtectionUnreadable
from openkcm.field_encryption.usage import UsageReporter

_FIRST_BLOCK, _LARGEST_BLOCK = 8, 512
_NO_TRANSACTION = frozenset({pq.TransactionStatus.IDLE, pq.TransactionStatus.UNKNOWN})
_ATTRIBUTE = "_openkcm_session"
"""An attribute of the connection, so that the session ends with it."""


class Database:
    """One database of one server, shared by the process."""

    def __init__(self, keys: ColumnKeys, uses: UsageReporter) -> None:
        self._keys, self._uses = keys, uses
        self._lock = threading.Lock()
        self.works = RewriteCache(NOTHING, keys, uses)
        self.known_until = float("-inf")
        """Until then every session may use `works`; in the past while a transaction changes the structure."""
        self.fields: tuple[ProtectedField, ...] | None = None
        """The fields of all stores with which the catalogue was read."""
        self._valid_until = float("-inf")
        self._changing: set[Session] = set()
        """The sessions that changed the structure in a transaction whose end has not been noticed."""
        self._changes, self._changed_at = 0, float("-inf")
        """How often a change began or ended, and when it last did."""

    def is_current(self, session: "Session", fields: tuple[ProtectedField, ...], now: float) -> bool:
        """Return whether a session may use `works`, after noticing which transactions have ended."""
        with self._lock:
            for one in [one for one in self._changing if one.has_ended()]:
                self._end(one, now)
            if session in self._changing:
                return False
            session.private = None
            return fields is self.fields and now < self._valid_until

    def begin_change(self, session: "Session", now: float) -> None:
        with self._lock:
            if session not in self._changing:
                session.transaction = None
                self._changing.add(session)
            self._changes, self._changed_at, self.known_until = self._changes + 1, now, float("-inf")

    def _end(self, session: "Session", now: float) -> None:
        self._changing.discard(session)
        self._changes, self._changed_at, self._valid_until = self._changes + 1, now, float("-inf")

    def ask(self, session: "Session", fields: tuple[ProtectedField, ...], now: float) -> None:
        """Remember the state before the catalogue query of a session."""
        session.asked = Asked(fields, self._changes, now)

    def receive(self, session: "Session", answer: str, now: float, seconds: float) -> None:
        """Use the answer to the catalogue query: in all sessions if it is a committed state without a later change."""
        asked = session.asked
        catalogue, read_in = read_answer(answer, _columns(asked.fields)), read_transaction(answer)
        with self._lock:
            if session in self._changing:
                if read_in.number is None or session.transaction not in {None, read_in.number}:
                    self._end(session, now)  # a transaction that changed the structure has a number
                session.transaction = read_in.number
            at = asked.at - read_in.snapshot_age
            later = asked.changes != self._changes or (read_in.snapshot_age and at <= self._changed_at)
            if later or session in self._changing:
                session.private = self._works(session.private or self.works, catalogue)
                return
            self.works, session.private = self._works(self.works, catalogue), None
            self.fields, self._valid_until = asked.fields, at + seconds
            self.known_until = float("-inf") if self._changing else self._valid_until

    def _works(self, before: RewriteCache, catalogue: Catalogue) -> RewriteCache:
        return before if catalogue == before.catalogue else RewriteCache(catalogue, self._keys, self._uses)


class Asked(NamedTuple):
    """The state before a catalogue query: the listed fields, the changes of the structure so far, and the time."""

    fields: tuple[ProtectedField, ...] = ()
    changes: int = 0
    at: float = 0.0


class Session:
    """The state of one connection."""

    def __init__(self, database: Database, connection: Any) -> None:
        self.database = database
        self._connection = weakref.ref(connection)
        self.ids: dict[str, list[int]] = {}
        self.block = _FIRST_BLOCK
        self.used_ids = False
        self.asked = Asked()
        self.private: RewriteCache | None = None
        """Used instead of the database's for the next statement, since other sessions may not see this structure."""
        self.transaction: str | None = None
        """The transaction that changed the structure, once its number is known."""
        self.sends_change = False

    def has_ended(self) -> bool:
        """Return whether the connection is in no transaction."""
        connection = self._connection()
        if connection is None:
            return True
        return (
            not self.sends_change
            and not connection._pipeline  # noqa: SLF001 - a pipeline delays statements; no public name
            and connection.pgconn.transaction_status in _NO_TRANSACTION
        )

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
        session = Session(database, connection)
        connection.__dict__[_ATTRIBUTE] = (self, session)
        return session

    def is_current(self, session: Session) -> bool:
        """Return whether the session can use the cached catalogue. Raises ProtectionUnknown."""
        database = session.database
        try:
            fields = self._protection.fields()
        except ProtectionUnreadable as failed:
            raise ProtectionUnknown(f"the list of protected columns is not available: {failed}", failed.hint) from None
        now = self._clock()
        if fields is database.fields and session.private is None and now < database.known_until:
            return True
        return database.is_current(session, fields, now)

    def question(self, session: Session) -> bytes:
        """Return the catalogue query. Raises ProtectionUnknown."""
        fields = self._fields()
        session.database.ask(session, fields, self._clock())
        return question(_columns(fields))

    def _fields(self) -> tuple[ProtectedField, ...]:
        try:
            return self._protection.fields()
        except ProtectionUnreadable as failed:
            raise ProtectionUnknown(f"the list of protected columns is not available: {failed}", failed.hint) from None

    def catalogue_received(self, session: Session, answer: str) -> None:
        session.database.receive(session, answer, self._clock(), self._catalogue_seconds)

    def structure_changed(self, session: Session) -> None:
        """Read the catalogue before each statement until the transaction ends, and then for all sessions."""
        session.ids.clear()
        session.database.begin_change(session, self._clock())


def _columns(fields: Iterable[ProtectedField]) -> list[ProtectedField]:
    return [one for one in fields if one.store is Store.POSTGRESQL]
