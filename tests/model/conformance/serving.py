"""Replay of a story of the model with the crypto service's code: callers, key cache and operations, on one loop.

Database, holders and tenant key are views of the model's state; each call waits until the story reaches it.
"""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
from database.postgres.change_feed import tenant_hash
from database.services.repository import ClientIdentityRow
from openkcm.errors import OpenKcmError
from tests.crypto_service.core.stage import IDENTITIES, MINE
from tests.crypto_service.core.world import ADDRESS, REGION, Changes, Clock, Journal, never_locked
from tests.model.service import NEWEST
from tests.model.state import ACTIVE, DESTROYED, OPENING, UNREACHABLE, UP, T, Tenant

SERVICE = "orders"
TICK = 1000.0
"""In seconds: so long that `_A_MOMENT`, after which a cached failure expires, is negligible."""
_A_MOMENT = 1.0
_PATIENCE_SECONDS = 10


class PausedWork:
    """Work in a thread that pauses before each call to a server until it is resumed, normally or with a time-out."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._on: Queue[bool] = Queue()
        self._at: Queue[Any] = Queue()
        self.at: str | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()
        self._look()

    def _run(self, work: Callable[[], Any]) -> None:
        _here.paused = self
        try:
            self._at.put((None, work(), None))
        except OpenKcmError as error:
            self._at.put((None, None, error))

    def before(self, call: str) -> None:
        """Wait for the story, in the thread."""
        self._at.put((call, None, None))
        if not self._on.get(timeout=_PATIENCE_SECONDS * 6):
            raise DatabaseUnavailable

    def resume(self, *, hangs: bool = False) -> None:
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
    if (paused := getattr(_here, "paused", None)) is not None:
        paused.before(call)


async def _unrecorded(tenant_id: str, service: str, version: int) -> None:
    """Ignore an unwrap: the model has no records of them."""


class Serving:
    """Call `begin`, then `step` for each step of the story; the outcome of a request is asserted where it ends."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self._clock, self._changes = Clock(1000.0), Changes()
        self._paused: list[PausedWork] = []
        self._wants: asyncio.Event | None = None
        self._released: asyncio.Event | None = None
        self._has_key = False
        self._task: asyncio.Task[Any] | None = None
        at_once = SimpleNamespace(run=self._at_once)
        ages = {"cache_seconds": T * TICK, "monotonic": self._clock}
        journal = Journal()
        self._callers = ClientCertificateAuthenticator(
            self, at_once, journal, self._changes, is_locked=never_locked, **ages
        )
        self._keyring = ServiceKeyCache(self, self, self, self, self._changes, opened=_unrecorded, **ages)
        self._operations = CryptoOperations(self._callers, self, journal)

    async def begin(self) -> None:
        self._caller = await self._callers.identify(IDENTITIES[MINE].certificate, ADDRESS)
        self._changes.tell(None)

    async def step(self, words: str, after: Tenant, *, failed: bool) -> None:  # noqa: C901, PLR0912 - one line per step
        before, self.tenant = self.tenant, after
        match words.split():
            case ["a", "tick", "passes"]:
                await self._tick(before)
            case ["the", "crypto", "service", "is", *_] | ["the", "feed", "is", "back"]:
                self._changes.tell(None if words.startswith("the feed") else tenant_hash(MINE))
            case ["refreshes", *_]:
                with suppress(TenantNotOperational):
                    await self._callers.refresh(self._caller)
            case ["is", "asked", "to", what, *rest]:
                await self._ask(NEWEST if what == "encrypt" else int(rest[-1]))
            case ["the", "client", "cancels"]:
                await self._cancel()
            case ["takes", *_]:
                await self._want()
                assert self._has_key, "the key is not cached"
            case ["begins", *_]:
                began = len(self._paused)
                await self._want()
                assert len(self._paused) == began + 1, "no unwrap began"
                assert not self._has_key
            case ["waits", *_]:
                began = len(self._paused)
                await self._want()
                assert len(self._paused) == began, "another unwrap began"
                assert not self._has_key
            case ["finds", "the", "tenant", *_]:
                await self._resume("read", "decrypt")
            case [("reads" | "finds" | "has" | "unwraps" | "is" | "cannot"), *_]:
                await self._resume()
            case ["answers"] | ["rejects,", *_]:
                await self._end(before, words)
        await self._settle()
        if self._has_key and after.asking is not None and after.asking.key is None:
            await self._request_again()
        if failed:
            self._clock.now += _A_MOMENT
        if after.asking is None and self._task is not None:
            assert self._task.done(), "the request waits for a failed call"
            await self._cancel()

    async def end(self) -> None:
        """Cancel everything that still runs."""
        await self._cancel()
        while self._paused:
            await self._resume(hangs=True)

    async def _ask(self, place: int) -> None:
        self._wants, self._released, self._has_key = asyncio.Event(), asyncio.Event(), False
        caller = await self._callers.refresh(self._caller)
        if place == NEWEST:
            work = self._operations.encrypt(caller, "r", b"secret")
        else:
            work = self._operations.decrypt(caller, "r", _text(place))
        self._task = asyncio.ensure_future(work)
        await self._settle()

    async def _request_again(self) -> None:
        """Let the operation find that the tenant has changed; it requests its key again."""
        assert self._released is not None
        released = self._released
        self._wants, self._released, self._has_key = asyncio.Event(), asyncio.Event(), False
        released.set()
        await self._settle()

    async def _want(self) -> None:
        assert self._wants is not None
        self._wants.set()
        await self._settle()

    async def _end(self, before: Tenant, words: str) -> None:
        assert self._task is not None
        assert self._released is not None
        assert self._has_key, "the request has no key"
        self._released.set()
        await self._settle()
        assert self._task.done(), "the request does not complete"
        if words == "answers":
            assert before.asking is not None
            assert before.asking.place == NEWEST or self._task.result() == b"secret"
            assert self._task.exception() is None
        else:
            error = TenantNotOperational if "closed" in words else KeyVersionRetired
            assert isinstance(self._task.exception(), error), repr(self._task.exception())
        self._task = None

    async def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError, OpenKcmError):
                await self._task
            self._task = None

    async def _tick(self, before: Tenant) -> None:
        """End calls that the model ended by time-outs, before the clock advances."""
        if before.unwrap is not None and self.tenant.unwrap is None:
            while self._paused:
                await self._resume(hangs=True)
        if self.tenant.asking is None:
            await self._cancel()
        self._clock.now += TICK
        await self._settle()

    async def _resume(self, *more: str, hangs: bool = False) -> None:
        """Resume the oldest unwrap for its next call, and for the calls named in addition."""
        assert self._paused, "no unwrap is in progress"
        one = self._paused[0]
        one.resume(hangs=hangs)
        while one.at in more and one.at is not None:
            more = tuple(call for call in more if call != one.at)
            one.resume()
        if one.at is None:
            self._paused.remove(one)
        await self._settle()

    @staticmethod
    async def _settle() -> None:
        for _ in range(12):
            await asyncio.sleep(0)

    # ── `interfaces.KeyCache`, which waits for the story before and after the real one ──────────────────────

    async def key(self, caller: ClientIdentity, version: int | None = None) -> ServiceKey:
        assert self._wants is not None
        assert self._released is not None
        await self._wants.wait()
        key = await self._keyring.key(caller, version)
        self._has_key = True
        await self._released.wait()
        return key

    def cached(self, caller: ClientIdentity, version: int | None = None) -> None:
        """Return nothing: the model has a step between the request of a key and its use."""

    def revision(self, tenant_id: str) -> object:
        return self._keyring.revision(tenant_id)

    # ── fakes of threads, database, root key and tenant key ─────────────────────────────────────────────────

    @staticmethod
    async def _at_once(_tenant_id: str, work: Callable[[], Any]) -> Any:
        return work()

    async def run(self, _tenant_id: str, work: Callable[[], Any]) -> Any:
        paused = PausedWork(work)
        self._paused.append(paused)
        return await paused.future

    @contextmanager
    def tenant_tx(self, _tenant_id: str) -> Iterator[Any]:
        _before("read")
        yield SimpleNamespace(
            services=SimpleNamespace(caller=self._row, key_and_root=self._key_and_root, leaf=lambda _service: None)
        )

    def _row(self, _serial: str) -> ClientIdentityRow:
        one, state = IDENTITIES[MINE], self.tenant.life.lock_state.state
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
            revoked_keys_readable=False,
        )

    def _key_and_root(self, _service: str, version: int | None) -> tuple[ServiceKeyRow, None] | None:
        for number, one in enumerate(self.tenant.versions, start=1):
            if number == version and one.state == DESTROYED:
                raise KeyVersionRetired
            wanted = one.state == ACTIVE if version is None else number == version and one.state in OPENING
            if wanted and one.wrap is not None:
                wrapped = json.dumps([*one.wrap[1:3], number]).encode()
                row = ServiceKeyRow(SERVICE, number, l2_key(MINE), "platform", one.wrap.root, wrapped)
                return row._replace(state=KeyState(one.state), l2_version=one.wrap.l2), None
        return None

    def platform(self, _region: str) -> "Serving":
        return self

    def forget(self, _tenant_id: str) -> None:
        """Do nothing: this root key cache stores nothing."""

    def unwrap(self, context: EncryptionContext, wrapped: bytes) -> bytes:
        _before("unwrap")
        root, l2, number = json.loads(wrapped)
        if self.tenant.holder(root) != UP:
            raise RootKeyUnreachable if self.tenant.holder(root) == UNREACHABLE else RootKeyDisabled
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
