"""Cache of column keys: stored wrapped beside the data, unwrapped by the crypto service, kept for a short time.

Each protected column has a data key; a column with equality queries also has a tag key. The wrapped keys are stored in
the table `openkcm.column_key` of the application's database. Every backup therefore contains them beside their data,
and all processes use the same keys. Only the crypto service can unwrap them, for the service of the client certificate
and only while its tenant is active.

An unwrapped key is used for at most `seconds`. It is unwrapped again in the background after half of that time, so that
a busy process does not wait. No response changes nothing before the time is over. A rejection ends the key immediately;
if it concerns the service and not the key, it ends all keys. The source reports when a new request is useful.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum, auto
from typing import Protocol

from openkcm.contract.protected_fields import Store
from openkcm.field_encryption import value_format as values
from openkcm.field_encryption.value_format import ColumnKey

DATA, TAG = "data", "tag"
Column = tuple[str, str, str]
"""Schema, table, column; or database, collection, path."""

Lent = tuple[ColumnKey, float]

_REFUSAL_SECONDS = 1.0
"""Seconds for which a rejection is repeated without another request."""
_REFRESH_SECONDS = 1.0
"""Seconds after which to check whether a key that is being refreshed has arrived."""
_SESSIONS_KEPT = 4096


class KeyErrorScope(Enum):
    """Which keys an error ends."""

    NOTHING = auto()
    """No decision was made: no response, or a server error."""
    THE_KEY = auto()
    ALL_KEYS = auto()


class KeyUnwrapError(Exception):
    """A key is not available; `code` and text state the reason."""

    def __init__(self, code: str, detail: str, hint: str = "", ends: KeyErrorScope = KeyErrorScope.NOTHING) -> None:
        super().__init__(detail)
        self.code, self.detail, self.hint, self.ends = code, detail, hint, ends


class KeySource(Protocol):
    """Wraps and unwraps column keys: the crypto service, or a test."""

    def make(self, resource: str) -> str:
        """Return a new wrapped key. Raises KeyUnwrapError."""

    def open(self, wrapped: str, resource: str) -> bytes:
        """Return the unwrapped key. Raises KeyUnwrapError."""

    def when_changed(self, look: Callable[[], bool]) -> None:
        """Call `look` in any thread whenever an answer may have changed; it returns False when no key is needed."""


class KeyStore(Protocol):
    """Storage of wrapped keys."""

    def read(self, column: Column, purpose: str) -> Mapping[int, str]:
        """Return the wrapped keys by version. Raises KeyUnwrapError."""

    def add(self, column: Column, purpose: str, wrapped: str) -> None:
        """Store the first key of a column unless another process already has. Raises KeyUnwrapError."""


def resource(store: Store, column: Column, purpose: str, version: int) -> str:
    """Return the resource to which the crypto service binds a column key."""
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
    """The keys of one database; thread-safe."""

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
        self._result_lock = threading.Lock()
        """Held only to record a result, so that a rejection never waits for a pending request."""
        self._refusals = self._pending = 0
        self.ended = 0
        """Number of times that keys were discarded: a key lent before the last time must not be used any more."""
        os.register_at_fork(after_in_child=self._reset_after_fork)
        self._entries: dict[tuple[Column, str], dict[int, _Entry]] = {}
        source.when_changed(self.check_again)

    def _reset_after_fork(self) -> None:
        """Reset locks and requests: a thread of the parent may have held them, and does not exist here."""
        self._lock, self._result_lock = threading.RLock(), threading.Lock()
        self._pending = 0
        for _, _, entry in self._all():
            entry.refreshing = False

    def newest(self, column: Column, purpose: str = DATA) -> ColumnKey:
        """Return the key to encrypt with, created for a column that has none. Raises KeyUnwrapError."""
        return self.lend(column, purpose)[0]

    def version(self, column: Column, version: int) -> ColumnKey | None:
        """Return the key that encrypted a value, None for a version that never existed. Raises KeyUnwrapError."""
        lent = self.lend_version(column, version)
        return None if lent is None else lent[0]

    def lend(self, column: Column, purpose: str = DATA) -> Lent:
        """Return `newest` and the time until which it may be used without another call while `ended` is unchanged."""
        entries = self._entries.get((column, purpose))
        if not entries:
            entries = self._first(column, purpose)
        version = max(entries)
        return self._usable(column, purpose, version, entries[version])

    def lend_version(self, column: Column, version: int) -> Lent | None:
        """Return `version` and the time until which it may be used without another call while `ended` is unchanged."""
        entry = self._entries.get((column, DATA), {}).get(version)
        if entry is None:
            entry = self._read(column, DATA).get(version)
        return None if entry is None else self._usable(column, DATA, version, entry)

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

    def discard_expired(self, ciphers: Iterable["LentCiphers"]) -> None:
        """Discard those of the ciphers that may not be used any more."""
        now, ended = self.clock(), self.ended
        for one in ciphers:
            until, _, lent_at = one.lent
            if now >= until or ended != lent_at:
                one.lent = (float("inf"), {}, ended)

    def check_again(self) -> bool:
        """Unwrap the most recent key again, which applies a rejection; return whether any key is still needed."""
        known = [(entry.opened, place, version, entry) for place, version, entry in self._all() if self._in_use(entry)]
        if not known:
            return self._is_needed()
        _, (column, purpose), version, entry = max(known, key=lambda one: one[0])
        try:
            self._unwrap(column, purpose, version, entry)
        except KeyUnwrapError:
            return self._is_needed()
        return True

    def _is_needed(self) -> bool:
        with self._result_lock:
            return self._pending > 0 or any(self._in_use(entry) for _, _, entry in self._all())

    def _all(self) -> Iterator[tuple[tuple[Column, str], int, _Entry]]:
        for place, entries in tuple(self._entries.items()):
            for version, entry in tuple(entries.items()):
                yield place, version, entry

    def _in_use(self, entry: _Entry) -> bool:
        return entry.key is not None and self.clock() - entry.opened < self._seconds

    def _usable(self, column: Column, purpose: str, version: int, entry: _Entry) -> Lent:
        now = self.clock()
        key, opened = entry.key, entry.opened
        if key is None or now - opened >= self._seconds:
            key, opened = self._open(column, purpose, version, entry)
        half = opened + self._seconds / 2
        if now < half:
            return key, half
        if not entry.refreshing:
            entry.refreshing = True
            thread = threading.Thread(
                target=self._refresh, args=(column, purpose, version, entry), name="openkcm-keys", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # no thread is available: a later statement tries again
                entry.refreshing = False
        return key, min(opened + self._seconds, now + _REFRESH_SECONDS)

    def _refresh(self, column: Column, purpose: str, version: int, entry: _Entry) -> None:
        try:
            self._unwrap(column, purpose, version, entry)
        except KeyUnwrapError as failed:
            if failed.ends is KeyErrorScope.NOTHING:
                time.sleep(_REFUSAL_SECONDS)  # the present key stays valid until its time is over
        finally:
            entry.refreshing = False

    def _open(self, column: Column, purpose: str, version: int, entry: _Entry) -> tuple[ColumnKey, float]:
        with self._lock:
            key, now = entry.key, self.clock()
            if key is not None and now - entry.opened < self._seconds:
                return key, entry.opened  # another thread has unwrapped it
            entry.key = None
            refused = entry.refused
            if refused is not None and now - entry.refused_at < _REFUSAL_SECONDS:
                raise refused.with_traceback(None)  # otherwise each repetition would add its frames
            return self._unwrap(column, purpose, version, entry)

    def _unwrap(self, column: Column, purpose: str, version: int, entry: _Entry) -> tuple[ColumnKey, float]:
        """Unwrap a key, record the result, and return the key with the time of the request. Raises KeyUnwrapError."""
        with self._result_lock:
            self._pending += 1
        while True:
            begun, refusals = self.clock(), self._refusals
            try:
                material = self._source.open(entry.wrapped, resource(self._kind, column, purpose, version))
            except BaseException as failed:
                with self._result_lock:
                    self._pending -= 1
                    if isinstance(failed, KeyUnwrapError):
                        self._record_error(failed, entry)
                raise
            with self._result_lock:
                if refusals == self._refusals:  # else a later rejection may have made this result obsolete
                    self._pending -= 1
                    key = entry.key
                    if key is None or key.material != material:
                        key = ColumnKey(version, material)
                    entry.key, entry.opened, entry.refused = key, begun, None
                    return key, begun

    def _record_error(self, failed: KeyUnwrapError, entry: _Entry) -> None:
        entry.refused, entry.refused_at = failed, self.clock()
        if failed.ends is KeyErrorScope.NOTHING:
            return
        self._refusals += 1
        for one in [entry] if failed.ends is KeyErrorScope.THE_KEY else [one for _, _, one in self._all()]:
            one.key = None
        self.ended += 1  # after the keys are removed: a concurrent caller then still sees the change


Decrypt = Callable[[bytes, bytes, bytes], bytes]
"""Decrypts nonce, ciphertext and associated data; raises InvalidTag."""
Ciphers = dict[bytes, tuple[Decrypt, bytes]]
"""By the first bytes of a stored value, the cipher and the part of its associated data that all rows share."""


class LentCiphers:
    """The ciphers of one column that may be used without another call; thread-safe."""

    __slots__ = ("_column", "_keys", "_prefix", "lent", "place")

    def __init__(self, keys: ColumnKeys, column: Column, place: bytes, prefix: bytes = b"") -> None:
        """`prefix` are the bytes before the sealed value by which `lent` is searched."""
        self._keys, self._column, self._prefix, self.place = keys, column, prefix, place
        self.lent: tuple[float, Ciphers, int] = (float("-inf"), {}, -1)
        """Time limit, ciphers, and `ended` of the keys; replaced as a whole."""

    def unseal(self, sealed: bytes, part: bytes) -> bytes:
        """Decrypt a value of the row with this part, and keep its cipher. Raises DecryptionFailed, KeyUnwrapError."""
        before = self.lent
        lent = self._keys.lend_version(self._column, values.version_of(sealed))
        if lent is None:
            raise values.DecryptionFailed
        key, until = lent
        plain = values.unseal(key, self.place + part, sealed)
        self._add(before, key, sealed[: values.START], until)
        return plain

    def _add(self, lent: tuple[float, Ciphers, int], key: ColumnKey, start: bytes, until: float) -> None:
        """Add a cipher to those that were lent before the request; a rejection meanwhile has replaced them."""
        usable, ciphers, ended = lent
        if until < usable:  # the new key expires earlier than the others, so its limit applies to all
            ciphers = dict(ciphers)
            self.lent = (until, ciphers, ended)
        if len(ciphers) >= _SESSIONS_KEPT:
            ciphers.clear()
        cipher = key.cipher(start[values.START - values.SESSION :])
        ciphers[self._prefix + start] = cipher.decrypt, start + self.place


class LatestKey:
    """The newest key of one column, looked up again only when its time is over."""

    __slots__ = ("_column", "_keys", "_lent", "_purpose")

    def __init__(self, keys: ColumnKeys, column: Column, purpose: str = DATA) -> None:
        self._keys, self._column, self._purpose = keys, column, purpose
        self._lent: tuple[ColumnKey, float, int] | None = None

    def key(self, now: float) -> ColumnKey:
        """Return the key at the time `now` of the clock of `keys`. Raises KeyUnwrapError."""
        lent, ended = self._lent, self._keys.ended
        if lent is None or now >= lent[1] or ended != lent[2]:
            lent = self._lent = (*self._keys.lend(self._column, self._purpose), ended)
        return lent[0]
