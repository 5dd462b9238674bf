"""Which fields are protected, as OpenKCM keeps it for the service; comments in a PostgreSQL database can add to it.

The list is asked for before the first statement, and from then on by a thread of its own, so that no statement waits.
Until it is known nothing may be sent. Once it is known it stays in force when it cannot be asked for: that the crypto
service is away must neither end the protection of a field nor, by itself, the program's work; the keys end that, for
they are used for a short time only. It is kept in memory alone. In a file, whoever can write to the folder could take
fields off it or bring an older list back, and a program that starts while the crypto service is away can open no key
with it anyway. Who would forge the answer needs the key of the crypto service's TLS certificate.
"""

import os
import threading
import time
from collections.abc import Callable
from typing import Protocol

from openkcm.contract.protected_fields import ProtectedField
from openkcm.field_encryption.service_client import CryptoService
from openkcm.sdk.client import Client
from openkcm.sdk.errors import ClientError

_REMEMBERED = 1.0
"""Seconds for which a refusal is repeated without asking again."""
_SOON = 5.0
"""Seconds after which is asked again for what was not answered, if that is sooner than it is due."""


class ProtectionUnreadable(Exception):
    """Which fields are protected is not known, so nothing may be sent: `code` and text say why."""

    def __init__(self, code: str, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.code, self.detail, self.hint = code, detail, hint


class Protection(Protocol):
    def fields(self) -> tuple[ProtectedField, ...]:
        """Return the protected fields of all stores: the same object for as long as nothing changed.

        Raises: ProtectionUnreadable.
        """
        ...


class ServiceProtection:
    """Safe to use from several threads, and after a fork: the child goes on from its parent's list."""

    def __init__(self, service: CryptoService, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`seconds` is how often the list is asked for."""
        self._service, self._seconds, self._clock = service, seconds, clock
        self._lock = threading.Lock()
        self._fields: tuple[ProtectedField, ...] | None = None
        self._asked = float("-inf")
        self._refused: ProtectionUnreadable | None = None
        self._refused_at = 0.0
        self._following = False
        """Whether this process has a thread that asks again."""
        self._closed = threading.Event()
        os.register_at_fork(after_in_child=self._forked)

    def close(self) -> None:
        """Ask no more; for whoever takes the hook out of a program that goes on."""
        self._closed.set()

    def _forked(self) -> None:
        """The thread was the parent's, and so was whoever held the lock."""
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._following = False

    def fields(self) -> tuple[ProtectedField, ...]:
        found = self._fields
        if found is not None and self._following:
            return found
        with self._lock:
            if self._fields is None:
                self._fields = self._first()
            elif not self._following and self._clock() - self._asked >= self._seconds:
                self._again()
            if not self._following:
                threading.Thread(target=self._follow, name="openkcm-protection", daemon=True).start()
                self._following = True
            return self._fields

    def _first(self) -> tuple[ProtectedField, ...]:
        begun = self._clock()
        if self._refused is not None and begun - self._refused_at < _REMEMBERED:
            raise self._refused
        try:
            found = self._service.ask(Client.protection)
        except ClientError as refused:
            self._refused = ProtectionUnreadable(refused.code, refused.detail, refused.hint)
            self._refused_at = self._clock()
            raise self._refused from None
        self._refused, self._asked = None, begun
        return found

    def _again(self) -> bool:
        """Ask and keep what is known where there is no answer; return whether there was one."""
        begun = self._clock()
        try:
            found = self._service.ask(Client.protection)
        except Exception:  # noqa: BLE001 - whatever it is, the list stays in force and is asked for again
            return False
        if found != self._fields:
            self._fields = found
        self._asked = begun
        return True

    def _follow(self) -> None:
        answered = True
        while not self._closed.wait(self._pause(answered)):
            answered = self._again()

    def _pause(self, answered: bool) -> float:  # noqa: FBT001 - of the last question
        due = self._asked + self._seconds - self._clock()
        return max(0.0, due) if answered else min(self._seconds, _SOON)
