"""The protected fields of the service, from OpenKCM; comments in a PostgreSQL database can add fields.

The list is loaded before the first statement, and refreshed by a thread so that no statement waits. Nothing may be sent
before it is known. Afterwards it stays in force while the crypto service is unreachable, which must neither end the
protection of a field nor stop the program. Column keys limit the work without the crypto service, since they expire
soon.

The list is kept in memory only. An attacker who can write to the folder could otherwise remove fields or restore an old
list, and without the crypto service a program cannot unwrap a key anyway. To forge the response, an attacker needs the
private key of the crypto service's TLS certificate.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from openkcm.contract.protected_fields import ProtectedField
from openkcm.field_encryption.service_client import CryptoService
from openkcm.sdk.client import Client
from openkcm.sdk.errors import ClientError

_REFUSAL_SECONDS = 1.0
"""Seconds for which a rejection is repeated without another request."""
_RETRY_SECONDS = 5.0
"""Seconds until a failed refresh is retried, unless the next refresh is due earlier."""


class ProtectionUnreadable(Exception):
    """The protected fields are not known, so nothing may be sent; `code` and text state the reason."""

    def __init__(self, code: str, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.code, self.detail, self.hint = code, detail, hint


class Protection(Protocol):
    def fields(self) -> tuple[ProtectedField, ...]:
        """Return the protected fields of all stores; the same object while nothing changes.

        Raises: ProtectionUnreadable.
        """
        ...


class ServiceProtection:
    """Thread-safe and fork-safe: a child process starts with its parent's list."""

    def __init__(self, service: CryptoService, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Refresh the list every `seconds`."""
        self._service, self._seconds, self._clock = service, seconds, clock
        self._lock = threading.Lock()
        self._fields: tuple[ProtectedField, ...] | None = None
        self._loaded_at = float("-inf")
        self._refused: ProtectionUnreadable | None = None
        self._refused_at = 0.0
        self._refreshing = False
        """Whether this process has a refresh thread."""
        self._closed = threading.Event()
        os.register_at_fork(after_in_child=self._reset_after_fork)

    def close(self) -> None:
        """Stop the refresh, for a program that continues without the encryption."""
        self._closed.set()

    def _reset_after_fork(self) -> None:
        """Reset thread and lock, which belonged to the parent process."""
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._refreshing = False

    def fields(self) -> tuple[ProtectedField, ...]:
        found = self._fields
        if found is not None and self._refreshing:
            return found
        with self._lock:
            if self._fields is None:
                self._fields = self._load()
            elif not self._refreshing and self._clock() - self._loaded_at >= self._seconds:
                self._refresh()
            if not self._refreshing:
                with suppress(RuntimeError):  # no thread is available: the next statement tries again
                    threading.Thread(target=self._refresh_loop, name="openkcm-protection", daemon=True).start()
                    self._refreshing = True
            return self._fields

    def _load(self) -> tuple[ProtectedField, ...]:
        begun = self._clock()
        if self._refused is not None and begun - self._refused_at < _REFUSAL_SECONDS:
            raise self._refused.with_traceback(None)  # otherwise each repetition would add its frames
        try:
            found = self._service.ask(Client.protection)
        except ClientError as refused:
            self._refused = ProtectionUnreadable(refused.code, refused.detail, refused.hint)
            self._refused_at = self._clock()
            raise self._refused from None
        self._refused, self._loaded_at = None, begun
        return found

    def _refresh(self) -> bool:
        """Refresh the list; keep the present one and return False if that fails."""
        begun = self._clock()
        try:
            found = self._service.ask(Client.protection)
        except Exception:  # noqa: BLE001 - after any error the list stays in force, and the refresh is retried
            return False
        if found != self._fields:
            self._fields = found
        self._loaded_at = begun
        return True

    def _refresh_loop(self) -> None:
        answered = True
        while not self._closed.wait(self._pause(answered)):
            answered = self._refresh()

    def _pause(self, answered: bool) -> float:  # noqa: FBT001 - the result of the last request
        due = self._loaded_at + self._seconds - self._clock()
        return max(0.0, due) if answered else min(self._seconds, _RETRY_SECONDS)
