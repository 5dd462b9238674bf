"""The encryption in this process, which can be removed again, and a source of keys in memory."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import _cursor_base, adapt, client_cursor, pq

from openkcm.contract.protected_fields import Mode, ProtectedField, Store
from openkcm.field_encryption.key_cache import Column, KeyUnwrapError
from openkcm.field_encryption.postgresql import driver as cursors
from openkcm.field_encryption.postgresql.key_store import DatabaseKeyStore
from openkcm.field_encryption.postgresql.sessions import Hook
from openkcm.field_encryption.protected_fields import ProtectionUnreadable
from openkcm.field_encryption.usage import UsageReporter

_PATCHED = (_cursor_base.BaseCursor, client_cursor.ClientCursorMixin, psycopg.Cursor, psycopg.AsyncCursor, adapt)


class MemoryKeys:
    """Stores keys in memory; unwraps a key for its resource while `up` is true and `refused` is not set."""

    def __init__(self) -> None:
        self.up, self.opened = True, 0
        self.refused: KeyUnwrapError | None = None
        self.callbacks: list[Callable[[], bool]] = []
        self._keys: dict[tuple[str, str], bytes] = {}

    def make(self, resource: str) -> str:
        self._check()
        wrapped = os.urandom(8).hex()
        self._keys[wrapped, resource] = os.urandom(32)
        return wrapped

    def open(self, wrapped: str, resource: str) -> bytes:
        self._check()
        self.opened += 1
        try:
            return self._keys[wrapped, resource]
        except KeyError:
            raise KeyUnwrapError("ciphertext_refused", "the wrapped key is not of this service") from None

    def when_changed(self, callback: Callable[[], bool]) -> None:
        self.callbacks.append(callback)

    def _check(self) -> None:
        if self.refused is not None:
            raise self.refused
        if not self.up:
            raise KeyUnwrapError("connection_failed", "the crypto service is not reachable")


class MemoryKeyStore(dict[tuple[Column, str], str]):
    """Wrapped keys in memory."""

    def read(self, column: Column, purpose: str) -> dict[int, str]:
        return {1: self[column, purpose]} if (column, purpose) in self else {}

    def add(self, column: Column, purpose: str, wrapped: str) -> None:
        self[column, purpose] = wrapped


@dataclass
class MemoryProtection:
    """The list of protected fields, which is known while `problem` is not set."""

    listed: tuple[ProtectedField, ...] = ()
    problem: ProtectionUnreadable | None = None

    def fields(self) -> tuple[ProtectedField, ...]:
        if self.problem is not None:
            raise self.problem
        return self.listed


@dataclass
class Memory:
    """The dependencies of the encryption, in memory, and its clock."""

    keys: MemoryKeys = field(default_factory=MemoryKeys)
    protection: MemoryProtection = field(default_factory=MemoryProtection)
    uses: UsageReporter = field(default_factory=lambda: UsageReporter(lambda _: 60.0))
    now: float = 1000.0


@dataclass
class Stand(Memory):
    conninfo: str = field(kw_only=True)

    def hook(self, **options: Any) -> Hook:
        settings = {"key_seconds": 60.0, "catalogue_seconds": 30.0, "clock": lambda: self.now} | options
        return Hook(self.protection, self.keys, DatabaseKeyStore, self.uses, **settings)

    @contextmanager
    def hooked(self, **options: Any) -> Iterator[Hook]:
        hook = self.hook(**options)
        with patched(_PATCHED, lambda: cursors.install(hook)):
            yield hook

    def protect(self, *fields: dict[str, Any]) -> None:
        listed = [{"store": Store.POSTGRESQL, "mode": Mode.RANDOMISED} | one for one in fields]
        self.protection.listed = tuple(ProtectedField(**one) for one in listed)

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(self.conninfo, **options)

    async def connect_async(self, **options: Any) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(self.conninfo, **options)

    def stored(self, query: str) -> list[tuple[Any, ...]]:
        """Return the result of a query without the encryption: the stored values."""
        plain = pq.PGconn.connect(self.conninfo.encode())
        try:
            result = plain.exec_(query.encode())
            assert result.status in {pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK}, result.error_message
            return [
                tuple(
                    None if value is None else value.decode()
                    for value in (result.get_value(r, c) for c in range(result.nfields))
                )
                for r in range(result.ntuples)
            ]
        finally:
            plain.finish()


@contextmanager
def patched(owners: Iterable[Any], install: Callable[[], None]) -> Iterator[None]:
    """Install the encryption, and remove it from the classes and modules of the driver afterwards."""
    before = {owner: dict(vars(owner)) for owner in owners}
    install()
    try:
        yield
    finally:
        for owner, names in before.items():
            for name in [one for one in vars(owner) if one not in names]:
                delattr(owner, name)
            for name, value in names.items():
                if vars(owner).get(name) is not value:
                    setattr(owner, name, value)


def no_thread(thread: threading.Thread) -> None:  # noqa: ARG001 - its signature
    """Replace Thread.start: raise what it raises at the limit of threads."""
    raise RuntimeError("can't start new thread")


def run_in_child(work: Callable[[], bytes]) -> bytes:
    """Return the result of `work` in a forked process; b"" if it raised."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, work())
        finally:
            os._exit(0)
    os.close(writing)
    returned = os.read(reading, 4096)
    os.close(reading)
    os.waitpid(child, 0)
    return returned
