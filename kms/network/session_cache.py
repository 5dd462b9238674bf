"""A cache of short-lived credentials from logins, each kept until shortly before its expiry; safe to share."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from openkcm.errors import OpenKcmError

T = TypeVar("T")
_USED_UNTIL = 0.8
"""Part of a lifetime after which the next use logs in again, so that no session expires during a request."""
_KEPT = 131_072
"""Monitoring uses the session of each root key in turn: with fewer, each check would log in again."""


@dataclass
class _Kept(Generic[T]):
    lock: threading.Lock = field(default_factory=threading.Lock)
    value: T | None = None
    until: float = 0.0
    failures: int = 0
    failure: OpenKcmError | None = None


class Sessions(Generic[T]):
    """Sessions by key, with one login for each key at a time; other keys never wait for it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[bytes, _Kept[T]] = OrderedDict()
        self._lock = threading.Lock()

    def current(self, key: bytes, log_in: Callable[[], tuple[T, float]]) -> T:
        """Return the cached session, or that of `log_in`, which returns the session and its lifetime in seconds.

        Callers that waited for a failed login get its error; otherwise each of them would wait for a hanging server.
        """
        kept = self._entry(key)
        seen = kept.failures
        with kept.lock:
            if kept.value is None or self._clock() >= kept.until:
                if kept.failure is not None and kept.failures > seen:
                    raise kept.failure.with_traceback(None)
                try:
                    kept.value, life = log_in()
                except OpenKcmError as failure:
                    kept.failures, kept.failure = kept.failures + 1, failure
                    raise
                kept.until = self._clock() + life * _USED_UNTIL
            return kept.value

    def forget(self, key: bytes, refused: T) -> None:
        """Drop `refused`, unless another thread has replaced it."""
        kept = self._entry(key)
        with kept.lock:
            if kept.value is refused:
                kept.value = None

    def _entry(self, key: bytes) -> _Kept[T]:
        with self._lock:
            kept = self._kept.setdefault(key, _Kept())
            self._kept.move_to_end(key)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return kept
