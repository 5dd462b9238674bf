"""Column keys: stored wrapped beside the data, opened by the crypto service, kept in this process for a short time.

Each protected column has a data key, and one that is asked for by equality a tag key. The wrapped keys are in the
table `openkcm.column_key` of the application's database, so that they are in every backup beside what they open, and
all processes agree. Only the crypto service opens them, for the service whose certificate asks, and only while its
tenant may work. An opened key is used for at most `seconds`; half way it is opened anew in the background, so that a
process that is in use does not wait. Silence changes nothing before the time is over. A refusal ends the key at once,
and one that is about the service and not about the key ends all of them; the source says when it is worth asking.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from enum import Enum, auto
from typing import Protocol

from openkcm.contract.protected_fields import Store
from openkcm.field_encryption.value_format import ColumnKey

DATA, TAG = "data", "tag"
Column = tuple[str, str, str]
"""Schema, table, column; or database, collection, path."""

Lent = tuple[ColumnKey, float]

_REMEMBERED = 1.0
"""Seconds for which a refusal is repeated without asking again."""
_ASKED_AGAIN = 1.0
"""Seconds after which to look whether a key that is being opened anew has come."""


class KeyErrorScope(Enum):
    """What is over because a key cannot be had."""

    NOTHING = auto()
    """Nobody decided anything: no answer, or a server that fails."""
    THE_KEY = auto()
    ALL_KEYS = auto()


class KeyUnwrapError(Exception):
    """A key cannot be had: `code` and text say why."""

    def __init__(self, code: str, detail: str, hint: str = "", ends: KeyErrorScope = KeyErrorScope.NOTHING) -> None:
        super().__init__(detail)
        self.code, self.detail, self.hint, self.ends = code, detail, hint, ends


class KeySource(Protocol):
    """Who wraps and opens; the crypto service, or a test."""

    def make(self, resource: str) -> str:
        """Return a new wrapped key. Raises KeyUnwrapError."""

    def open(self, wrapped: str, resource: str) -> bytes:
        """Return the key. Raises KeyUnwrapError."""

    def when_changed(self, look: Callable[[], bool]) -> None:
        """Call `look`, in any thread, whenever an answer may be another than before; it returns False to be let be."""


class KeyStore(Protocol):
    """Where wrapped keys are kept."""

    def read(self, column: Column, purpose: str) -> Mapping[int, str]:
        """Return version → wrapped key. Raises KeyUnwrapError."""

    def add(self, column: Column, purpose: str, wrapped: str) -> None:
        """Keep the first key of a column unless another process was faster. Raises KeyUnwrapError."""


def resource(store: Store, column: Column, purpose: str, version: int) -> str:
    """Return the place that a column key is bound to at the crypto service."""
    return json.dumps([store, *column, purpose, version], ensure_ascii=False, separators=(",", ":"))


class _Entry:
    __slots__ = ("key", "opened", "refreshing", "refused", "refused_at", "wrapped")

    def __init__(self, wrapped: str) -> None:
        self.wrapped = wrapped
        self.key: ColumnKey | None = None
        self.opened = self.refused_at = float("-inf")
        self.refused: KeyUnwrapError | None = None
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
        self._settling = threading.Lock()
        """Held for no longer than it takes to note an answer, so that a refusal waits for nobody who is asking."""
        self._refusals = self._asking = 0
        self.ended = 0
        """How often keys were dropped: what was lent before the last time may not be used any more."""
        os.register_at_fork(after_in_child=self._forked)
        self._entries: dict[tuple[Column, str], dict[int, _Entry]] = {}
        source.when_changed(self.look_again)

    def _forked(self) -> None:
        """A thread of the parent may have held a lock or been opening a key, and is not here."""
        self._lock, self._settling = threading.RLock(), threading.Lock()
        self._asking = 0
        for _, _, entry in self._all():
            entry.refreshing = False

    def newest(self, column: Column, purpose: str = DATA) -> ColumnKey:
        """Return the key to encrypt with, made if the column has none yet. Raises KeyUnwrapError."""
        return self.lend(column, purpose)[0]

    def version(self, column: Column, version: int) -> ColumnKey | None:
        """Return the key that encrypted a value, None when the column never had it. Raises KeyUnwrapError."""
        lent = self.lend_version(column, version)
        return None if lent is None else lent[0]

    def lend(self, column: Column, purpose: str = DATA) -> Lent:
        """Return `newest` with the time until which it may be used without asking again while `ended` stays."""
        entries = self._entries.get((column, purpose))
        if not entries:
            entries = self._first(column, purpose)
        version = max(entries)
        return self._opened(column, purpose, version, entries[version])

    def lend_version(self, column: Column, version: int) -> Lent | None:
        """Return `version` with the time until which it may be used without asking again while `ended` stays."""
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
                raise KeyUnwrapError("column_key_missing", "the column's key was not stored")
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

    def look_again(self) -> bool:
        """Ask for the key that was opened last, and drop what a refusal ends; whether any is in use or being opened."""
        known = [(entry.opened, place, version, entry) for place, version, entry in self._all() if self._in_use(entry)]
        if not known:
            return self._wanted()
        _, (column, purpose), version, entry = max(known, key=lambda one: one[0])
        try:
            self._ask(column, purpose, version, entry)
        except KeyUnwrapError:
            return self._wanted()
        return True

    def _wanted(self) -> bool:
        with self._settling:
            return self._asking > 0 or any(self._in_use(entry) for _, _, entry in self._all())

    def _all(self) -> Iterator[tuple[tuple[Column, str], int, _Entry]]:
        for place, entries in tuple(self._entries.items()):
            for version, entry in tuple(entries.items()):
                yield place, version, entry

    def _in_use(self, entry: _Entry) -> bool:
        return entry.key is not None and self.clock() - entry.opened < self._seconds

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
            self._ask(column, purpose, version, entry)
        except KeyUnwrapError as failed:
            if failed.ends is KeyErrorScope.NOTHING:
                time.sleep(_REMEMBERED)  # the key in use stays good until its time is over, which ends it
        finally:
            entry.refreshing = False

    def _open(self, column: Column, purpose: str, version: int, entry: _Entry) -> tuple[ColumnKey, float]:
        with self._lock:
            key, now = entry.key, self.clock()
            if key is not None and now - entry.opened < self._seconds:
                return key, entry.opened  # another thread was faster
            entry.key = None
            refused = entry.refused
            if refused is not None and now - entry.refused_at < _REMEMBERED:
                raise refused
            return self._ask(column, purpose, version, entry)

    def _ask(self, column: Column, purpose: str, version: int, entry: _Entry) -> tuple[ColumnKey, float]:
        """Open a key, note the answer, and return the key with the time of the question. Raises KeyUnwrapError."""
        with self._settling:
            self._asking += 1
        while True:
            begun, refusals = self.clock(), self._refusals
            try:
                material = self._source.open(entry.wrapped, resource(self._kind, column, purpose, version))
            except BaseException as failed:
                with self._settling:
                    self._asking -= 1
                    if isinstance(failed, KeyUnwrapError):
                        self._note(failed, entry)
                raise
            with self._settling:
                if refusals == self._refusals:  # else somebody was refused since, and this may be from before that
                    self._asking -= 1
                    key = entry.key
                    if key is None or key.material != material:
                        key = ColumnKey(version, material)
                    entry.key, entry.opened, entry.refused = key, begun, None
                    return key, begun

    def _note(self, failed: KeyUnwrapError, entry: _Entry) -> None:
        entry.refused, entry.refused_at = failed, self.clock()
        if failed.ends is KeyErrorScope.NOTHING:
            return
        self._refusals += 1
        for one in [entry] if failed.ends is KeyErrorScope.THE_KEY else [one for _, _, one in self._all()]:
            one.key = None
        self.ended += 1  # after them: who lends meanwhile still counts it


class LatestKey:
    """The newest key of one column, asked for anew only when it may no longer be used without."""

    __slots__ = ("_column", "_keys", "_lent", "_purpose")

    def __init__(self, keys: ColumnKeys, column: Column, purpose: str = DATA) -> None:
        self._keys, self._column, self._purpose = keys, column, purpose
        self._lent: tuple[ColumnKey, float, int] | None = None

    def key(self, now: float) -> ColumnKey:
        """Return the key, at `now` by the clock of `keys`. Raises KeyUnwrapError."""
        lent, ended = self._lent, self._keys.ended
        if lent is None or now >= lent[1] or ended != lent[2]:
            lent = self._lent = (*self._keys.lend(self._column, self._purpose), ended)
        return lent[0]
