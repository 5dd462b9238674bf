"""Column keys: stored wrapped beside the data, opened by the crypto service, kept in this process for a short time.

Each protected column has a data key, and one that is asked for by equality a tag key. The wrapped keys are in the
table `openkcm.column_key` of the application's database, so that they are in every backup beside what they open, and
all processes agree. Only the crypto service opens them, for the service whose certificate asks, and only while its
tenant may work. An opened key is used for at most `seconds`; half way it is opened anew in the background, so that a
process that is in use does not wait, and one whose tenant is locked stops.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from hooks.values import ColumnKey
from tenancy.protection import Store

DATA, TAG = "data", "tag"
Column = tuple[str, str, str]
"""Schema, table, column; or database, collection, path."""

Lent = tuple[ColumnKey, float]

_REMEMBERED = 1.0
"""Seconds for which a refusal is repeated without asking again."""
_ASKED_AGAIN = 1.0
"""Seconds after which to look whether a key that is being opened anew has come."""


class CannotOpen(Exception):
    """A key cannot be had: `code` and text say why."""

    def __init__(self, code: str, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.code, self.detail, self.hint = code, detail, hint


class KeySource(Protocol):
    """Who wraps and opens; the crypto service, or a test."""

    def make(self, resource: str) -> str:
        """Return a new wrapped key. Raises CannotOpen."""

    def open(self, wrapped: str, resource: str) -> bytes:
        """Return the key. Raises CannotOpen."""


class KeyStore(Protocol):
    """Where wrapped keys are kept."""

    def read(self, column: Column, purpose: str) -> Mapping[int, str]:
        """Return version → wrapped key. Raises CannotOpen."""

    def add(self, column: Column, purpose: str, wrapped: str) -> None:
        """Keep the first key of a column unless another process was faster. Raises CannotOpen."""


def resource(store: Store, column: Column, purpose: str, version: int) -> str:
    """Return the place that a column key is bound to at the crypto service."""
    return json.dumps([store, *column, purpose, version], ensure_ascii=False, separators=(",", ":"))


class _Entry:
    __slots__ = ("key", "opened", "refreshing", "refused", "refused_at", "wrapped")

    def __init__(self, wrapped: str) -> None:
        self.wrapped = wrapped
        self.key: ColumnKey | None = None
        self.opened = self.refused_at = float("-inf")
        self.refused: CannotOpen | None = None
        self.refreshing = False


class ColumnKeys:
    """The keys of one database; safe to use from several threads."""

    def __init__(
        self,
        kind: Store,
        source: KeySource,
        store: KeyStore,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kind, self._source, self._store, self._seconds, self.clock = kind, source, store, seconds, clock
        self._lock = threading.RLock()
        os.register_at_fork(after_in_child=self._forked)
        self._entries: dict[tuple[Column, str], dict[int, _Entry]] = {}

    def _forked(self) -> None:
        """A thread of the parent may have held the lock or been opening a key, and is not here."""
        self._lock = threading.RLock()
        for entries in self._entries.values():
            for entry in entries.values():
                entry.refreshing = False

    def newest(self, column: Column, purpose: str = DATA) -> ColumnKey:
        """Return the key to encrypt with, made if the column has none yet. Raises CannotOpen."""
        return self.lend(column, purpose)[0]

    def version(self, column: Column, version: int) -> ColumnKey | None:
        """Return the key that encrypted a value, None when the column never had it. Raises CannotOpen."""
        lent = self.lend_version(column, version)
        return None if lent is None else lent[0]

    def lend(self, column: Column, purpose: str = DATA) -> Lent:
        """Return `newest` with the time until which it may be used without asking again."""
        entries = self._entries.get((column, purpose))
        if not entries:
            entries = self._first(column, purpose)
        version = max(entries)
        return self._opened(column, purpose, version, entries[version])

    def lend_version(self, column: Column, version: int) -> Lent | None:
        """Return `version` with the time until which it may be used without asking again."""
        entry = self._entries.get((column, DATA), {}).get(version)
        if entry is None:
            entry = self._read(column, DATA).get(version)
        return None if entry is None else self._opened(column, DATA, version, entry)

    def _first(self, column: Column, purpose: str) -> dict[int, _Entry]:
        with self._lock:
            entries = self._read(column, purpose)
            if not entries:
                self._store.add(column, purpose, self._source.make(resource(self._kind, column, purpose, 1)))
                entries = self._read(column, purpose)
            if not entries:
                raise CannotOpen("column_key_missing", "the column's key was not stored")
            return entries

    def _read(self, column: Column, purpose: str) -> dict[int, _Entry]:
        with self._lock:
            known = self._entries.get((column, purpose), {})
            fresh = {}
            for version, wrapped in self._store.read(column, purpose).items():
                old = known.get(version)
                fresh[version] = old if old is not None and old.wrapped == wrapped else _Entry(wrapped)
            self._entries[column, purpose] = fresh
            return fresh

    def _opened(self, column: Column, purpose: str, version: int, entry: _Entry) -> Lent:
        now = self.clock()
        key, opened = entry.key, entry.opened
        if key is None or now - opened >= self._seconds:
            key, opened = self._open(column, purpose, version, entry)
        half = opened + self._seconds / 2
        if now < half:
            return key, half
        if not entry.refreshing:
            entry.refreshing = True
            threading.Thread(
                target=self._refresh, args=(column, purpose, version, entry), name="openkcm-keys", daemon=True
            ).start()
        return key, min(opened + self._seconds, now + _ASKED_AGAIN)

    def _refresh(self, column: Column, purpose: str, version: int, entry: _Entry) -> None:
        try:
            begun = self.clock()
            material = self._source.open(entry.wrapped, resource(self._kind, column, purpose, version))
            known = entry.key
            if known is None or known.material != material:
                entry.key = ColumnKey(version, material)
            entry.opened = begun
        except CannotOpen:
            time.sleep(_REMEMBERED)  # the key in use stays good until its time is over, which ends it
        finally:
            entry.refreshing = False

    def _open(self, column: Column, purpose: str, version: int, entry: _Entry) -> tuple[ColumnKey, float]:
        with self._lock:
            begun = self.clock()
            if entry.key is not None and begun - entry.opened < self._seconds:
                return entry.key, entry.opened  # another thread was faster
            entry.key = None
            if entry.refused is not None and begun - entry.refused_at < _REMEMBERED:
                raise entry.refused
            try:
                material = self._source.open(entry.wrapped, resource(self._kind, column, purpose, version))
            except CannotOpen as refused:
                entry.refused, entry.refused_at = refused, self.clock()
                raise
            entry.key, entry.opened, entry.refused = ColumnKey(version, material), begun, None
            return entry.key, begun


class Newest:
    """The newest key of one column, asked for anew only when the time is over for which it was lent."""

    __slots__ = ("_column", "_keys", "_lent", "_purpose")

    def __init__(self, keys: ColumnKeys, column: Column, purpose: str = DATA) -> None:
        self._keys, self._column, self._purpose = keys, column, purpose
        self._lent: Lent | None = None

    def key(self, now: float) -> ColumnKey:
        """Return the key, at `now` by the clock of `keys`. Raises CannotOpen."""
        lent = self._lent
        if lent is None or now >= lent[1]:
            lent = self._lent = self._keys.lend(self._column, self._purpose)
        return lent[0]
