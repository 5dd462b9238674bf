"""A story of the model, replayed by the crypto service's code: callers, keyring and operations, on one loop.

Database, holders and tenant key are views of the model's state; each call waits until the story reaches it.
"""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from queue import Queue
from types import SimpleNamespace
from typing import Any

from core.certificates import AuthorityState
from core.errors.keys import KeyUnavailable, KeyVersionRetired, RootKeyDisabled, RootKeyUnreachable, WrongContext
from core.errors.platform import DatabaseUnavailable
from core.errors.tenants import TenantNotOperational
from core.keys.encryption_context import EncryptionContext, Purpose
from core.keys.rotation import KeyState
from core.names import l2_key
from core.services import ServiceState
from crypto_service.authentication import ClientCertificateAuthenticator
from crypto_service.interfaces import ClientIdentity, ServiceKey
from crypto_service.keys import ciphertext
from crypto_service.keys.key_cache import MATERIAL, ServiceKeyCache
from crypto_service.keys.operations import CryptoOperations
from database.keys import ServiceKeyRow
from database.postgres.notify import tenant_hash
from database.services.repository import ClientIdentityRow
from openkcm.errors import OpenKcmError
from tests.crypto_service.core.stage import IDENTITIES, MINE
from tests.crypto_service.core.world import ADDRESS, REGION, Changes, Clock, Journal
from tests.model.service import NEWEST
from tests.model.state import ACTIVE, AWAY, DESTROYED, OPENING, UP, T, Tenant

SERVICE = "orders"
TICK = 1000.0
"""Seconds: so many that `_A_MOMENT`, after which the code forgets a failure, is nothing beside it."""
_A_MOMENT = 1.0
_PATIENCE_SECONDS = 10


class Stopped:
    """Work in a thread that stops before each call to a server until it is let on, or told that it hung too long."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._on: Queue[bool] = Queue()
        self._at: Queue[Any] = Queue()
        self.at: str | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()
        self._look()

    def _run(self, work: Callable[[], Any]) -> None:
        _here.stopped = self
        try:
            self._at.put((None, work(), None))
        except OpenKcmError as error:
            self._at.put((None, None, error))

    def before(self, call: str) -> None:
        """In the thread: wait for the story."""
        self._at.put((call, None, None))
        if not self._on.get(timeout=_PATIENCE_SECONDS * 6):
            raise DatabaseUnavailable

    def let_on(self, *, hangs: bool = False) -> None:
        self._on.put(not hangs)
        self._look()

    def _look(self) -> None:
        self.at, result, error = self._at.get(timeout=_PATIENCE_SECONDS)
        if self.at is None and not self.future.done():
            if error is None:
                self.future.set_result(result)
            else:
                self.future.set_exception(error)


_here = threading.local()


def _before(call: str) -> None:
    if (stopped := getattr(_here, "stopped", None)) is not None:
        stopped.before(call)


async def _unrecorded(tenant_id: str, service: str, version: int) -> None:
    """The model has no records of openings."""


class Serving:
    """`begin`, then a `step` for each of the story's; the outcome of a request is asserted where the model tells it."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self._clock, self._changes = Clock(1000.0), Changes()
        self._stopped: list[Stopped] = []
        self._wants: asyncio.Event | None = None
        self._goes: asyncio.Event | None = None
        self._has_key = False
        self._task: asyncio.Task[Any] | None = None
        at_once = SimpleNamespace(run=self._at_once)
        ages = {"cache_seconds": T * TICK, "monotonic": self._clock}
        journal = Journal()
        self._callers = ClientCertificateAuthenticator(self, at_once, journal, self._changes, **ages)
        self._keyring = ServiceKeyCache(self, self, self, self, self._changes, opened=_unrecorded, **ages)
        self._operations = CryptoOperations(self._callers, self, journal)

    async def begin(self) -> None:
        self._caller = await self._callers.identify(IDENTITIES[MINE].certificate, ADDRESS)
        self._changes.tell(None)

    async def step(self, words: str, after: Tenant, *, failed: bool) -> None:  # noqa: C901, PLR0912 - a line for each
        before, self.tenant = self.tenant, after
        match words.split():
            case ["a", "tick", "passes"]:
                await self._tick(before)
            case ["the", "crypto", "service", "hears", *_] | ["the", "feed", "is", "back"]:
                self._changes.tell(None if words.startswith("the feed") else tenant_hash(MINE))
            case ["looks", *_]:
                with suppress(TenantNotOperational):
                    await self._callers.refresh(self._caller)
            case ["is", "asked", "to", what, *rest]:
                await self._ask(NEWEST if what == "encrypt" else int(rest[-1]))
            case ["the", "client", "gives", "up"]:
                await self._give_up()
            case ["takes", *_]:
                await self._want()
                assert self._has_key, "it is not in memory"
            case ["begins", *_]:
                began = len(self._stopped)
                await self._want()
                assert len(self._stopped) == began + 1, "no opening began"
                assert not self._has_key
            case ["waits", *_]:
                began = len(self._stopped)
                await self._want()
                assert len(self._stopped) == began, "an opening of its own began"
                assert not self._has_key
            case ["finds", "the", "tenant", *_]:
                await self._let_on("read", "decrypt")
            case [("reads" | "finds" | "has" | "opens" | "is" | "cannot"), *_]:
                await self._let_on()
            case ["answers"] | ["refuses,", *_]:
                await self._end(before, words)
        await self._settle()
        if failed:
            self._clock.now += _A_MOMENT
        if after.asking is None and self._task is not None:
            assert self._task.done(), "it waits for what has failed"
            await self._give_up()

    async def end(self) -> None:
        """Leave nothing running."""
        await self._give_up()
        while self._stopped:
            await self._let_on(hangs=True)

    async def _ask(self, place: int) -> None:
        self._wants, self._goes, self._has_key = asyncio.Event(), asyncio.Event(), False
        caller = await self._callers.refresh(self._caller)
        if place == NEWEST:
            work = self._operations.encrypt(caller, "r", b"secret")
        else:
            work = self._operations.decrypt(caller, "r", _text(place))
        self._task = asyncio.ensure_future(work)
        await self._settle()

    async def _want(self) -> None:
        assert self._wants is not None
        self._wants.set()
        await self._settle()

    async def _end(self, before: Tenant, words: str) -> None:
        assert self._task is not None
        assert self._goes is not None
        assert self._has_key, "it has no key"
        self._goes.set()
        await self._settle()
        assert self._task.done(), "it waits for something else"
        if words == "answers":
            assert before.asking is not None
            assert before.asking.place == NEWEST or self._task.result() == b"secret"
            assert self._task.exception() is None
        else:
            error = TenantNotOperational if "closed" in words else KeyVersionRetired
            assert isinstance(self._task.exception(), error), repr(self._task.exception())
        self._task = None

    async def _give_up(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError, OpenKcmError):
                await self._task
            self._task = None

    async def _tick(self, before: Tenant) -> None:
        """What the model ended for its time-outs ends here too, before the clock goes on."""
        if before.opening is not None and self.tenant.opening is None:
            while self._stopped:
                await self._let_on(hangs=True)
        if self.tenant.asking is None:
            await self._give_up()
        self._clock.now += TICK
        await self._settle()

    async def _let_on(self, *more: str, hangs: bool = False) -> None:
        """Let the oldest opening do its next call, and those named besides."""
        assert self._stopped, "nothing is being opened"
        one = self._stopped[0]
        one.let_on(hangs=hangs)
        while one.at in more and one.at is not None:
            more = tuple(call for call in more if call != one.at)
            one.let_on()
        if one.at is None:
            self._stopped.remove(one)
        await self._settle()

    @staticmethod
    async def _settle() -> None:
        for _ in range(12):
            await asyncio.sleep(0)

    # ── `interfaces.Keyring`, which waits for the story before and after the real one ────────────────────────────

    async def key(self, caller: ClientIdentity, version: int | None = None) -> ServiceKey:
        assert self._wants is not None
        assert self._goes is not None
        await self._wants.wait()
        key = await self._keyring.key(caller, version)
        self._has_key = True
        await self._goes.wait()
        return key

    # ── threads, database, root key and tenant key, as far as they are asked ─────────────────────────────────────

    @staticmethod
    async def _at_once(_tenant_id: str, work: Callable[[], Any]) -> Any:
        return work()

    async def run(self, _tenant_id: str, work: Callable[[], Any]) -> Any:
        stopped = Stopped(work)
        self._stopped.append(stopped)
        return await stopped.future

    @contextmanager
    def tenant_tx(self, _tenant_id: str) -> Iterator[Any]:
        _before("read")
        yield SimpleNamespace(services=SimpleNamespace(caller=self._row, key_and_root=self._key_and_root))

    def _row(self, _serial: str) -> ClientIdentityRow:
        one, state = IDENTITIES[MINE], self.tenant.life.standing.state
        ends = datetime.now(UTC) + timedelta(hours=1)
        return ClientIdentityRow(
            SERVICE,
            ServiceState.CONNECTED,
            state,
            REGION,
            l2_key(MINE),
            one.fingerprint,
            None,
            one.authority_pem,
            AuthorityState.CURRENT,
            ends,
            None,
        )

    def _key_and_root(self, _service: str, version: int | None) -> tuple[ServiceKeyRow, None] | None:
        for number, one in enumerate(self.tenant.versions, start=1):
            if number == version and one.state == DESTROYED:
                raise KeyVersionRetired
            wanted = one.state == ACTIVE if version is None else number == version and one.state in OPENING
            if wanted and one.wrap is not None:
                wrapped = json.dumps([*one.wrap[1:3], number]).encode()
                row = ServiceKeyRow(SERVICE, number, l2_key(MINE), "platform", one.wrap.root, wrapped)
                return replace(row, state=KeyState(one.state), l2_version=one.wrap.l2), None
        return None

    def platform(self, _region: str) -> "Serving":
        return self

    def forget(self, _tenant_id: str) -> None:
        """There is nothing that this keeps open."""

    def unwrap(self, context: EncryptionContext, wrapped: bytes) -> bytes:
        _before("unwrap")
        root, l2, number = json.loads(wrapped)
        if self.tenant.holder(root) != UP:
            raise RootKeyUnreachable if self.tenant.holder(root) == AWAY else RootKeyDisabled
        if (context.tenant_id, context.object_id) != (MINE, str(number)):
            raise WrongContext
        return json.dumps([l2, number]).encode()

    def decrypt(self, _context: EncryptionContext, text: str) -> bytes:
        _before("decrypt")
        l2, number = json.loads(text)
        if self.tenant.destroyed or not self.tenant.l2.oldest <= l2 <= self.tenant.l2.newest:
            raise KeyUnavailable
        return bytes([number]) * MATERIAL


def _text(version: int) -> str:
    place = EncryptionContext(MINE, l2_key(MINE), SERVICE, Purpose.DATA, "r")
    return ciphertext.to_text(ciphertext.seal(ServiceKey(version, bytes([version]) * MATERIAL), place, b"secret"))
