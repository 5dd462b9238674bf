"""A tenant, its service and one decryption at a time, and everything that can happen to them, one step at a time.

Certificates, ciphers and the code under test are real. Database and keys are a few lines that keep state and refuse
as the real ones do: what is explored is the order of things, in every order there is.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeAlias, TypeVar

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from core.certificates import AuthorityState
from core.errors.keys import RootKeyDisabled
from core.keys.encryption_context import EncryptionContext, Purpose
from core.names import l2_key
from core.services import ServiceState
from core.tenants.lifecycle import State
from crypto_service.authentication import ClientCertificateAuthenticator
from crypto_service.interfaces import ClientIdentity, ServiceKey
from crypto_service.keys import primitives
from crypto_service.keys.key_cache import ServiceKeyCache
from crypto_service.keys.operations import CryptoOperations
from database.keys import ServiceKeyRow
from database.postgres.notify import tenant_hash
from database.services.repository import ClientIdentityRow
from openkcm.errors import OpenKcmError
from tests.crypto_service.core.world import ADDRESS, REGION, Changes, Clock, Journal, unheeded
from tests.crypto_service.https import authority
from vault.pki.certificates import hex_serial

CACHE_SECONDS = 60.0
MINE, THEIRS = "acme-corp", "beta-corp"
Act: TypeAlias = tuple[Callable[[], bool], Callable[[], None]]
Result = TypeVar("Result")
OPEN = "open"
STANDINGS = (OPEN, "locked", "disconnected")
DONE = "done"


@dataclass(frozen=True)
class Identity:
    """A tenant's authority and the certificate of its one service; made once, the runs are many."""

    authority_pem: str
    fingerprint: str
    serial: str
    certificate: bytes


def identity(tenant_id: str) -> Identity:
    issuer, leaf = authority.tenant_authority(tenant_id), authority.service_leaf(tenant_id, "orders").certificate
    fingerprint, serial = issuer.certificate.fingerprint(hashes.SHA256()).hex(), hex_serial(leaf)
    return Identity(issuer.pem, fingerprint, serial, leaf.public_bytes(Encoding.DER))


IDENTITIES = {tenant_id: identity(tenant_id) for tenant_id in (MINE, THEIRS)}


def layer(key: bytes, context: EncryptionContext) -> tuple[bytes, bytes]:
    return primitives.hkdf_sha256(key, b"", context.encode(), 32), bytes(12)


def wrapped(tenant_id: str) -> bytes:
    """Return an L3 under both layers. The same bytes for every tenant: only the context keeps them apart."""
    context = EncryptionContext(tenant_id, l2_key(tenant_id), "orders", Purpose.SERVICE_KEY, "1")
    inner = primitives.aes_gcm_encrypt(*layer(b"L2" * 16, context), bytes(range(32)), b"")
    return primitives.aes_gcm_encrypt(*layer(b"L1" * 16, context), inner.hex().encode(), b"")


WRAPPED = {tenant_id: wrapped(tenant_id) for tenant_id in IDENTITIES}


class Stage:
    """`acts` are what can happen, and whether each can now; `outcome` is how a decryption ended with the last act."""

    def __init__(self) -> None:
        self.clock = Clock(1000.0)
        self.changes, self.journal = Changes(), Journal()
        self.standing, self.gone = OPEN, False
        self.shut_since = self.gone_since = float("inf")
        self.heard = True
        self.outcome: str | None = None
        self.phase = ""
        self.steps = self.told_at = self.opened_at = 0
        self.asking: asyncio.Task[bytes] | None = None
        self.waiting: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self.answer: tuple[asyncio.Future[Any], Any] | None = None
        self.callers = ClientCertificateAuthenticator(
            self, self, self.journal, self.changes, cache_seconds=CACHE_SECONDS, monotonic=self.clock
        )
        self.keyring = ServiceKeyCache(
            self, self, self, self, self.changes, cache_seconds=CACHE_SECONDS, opened=unheeded, monotonic=self.clock
        )
        self.operations = CryptoOperations(self.callers, self, self.journal)
        self.acts: dict[str, Act] = {
            **{f"is {one}": (partial(self._is_not, one), partial(self._move, one)) for one in STANDINGS},
            "root key is taken away": (lambda: not self.gone, partial(self._lose, gone=True)),
            "root key is given back": (lambda: self.gone, partial(self._lose, gone=False)),
            "is heard of": (lambda: not self.heard, partial(self._hear, tenant_hash(MINE))),
            "feed is lost": (lambda: True, partial(self._hear, None)),
            # Every call ends within its time-outs, which are far shorter.
            "a minute passes": (self._is_idle, self._wait),
            "asks": (self._is_idle, partial(self._ask, look_first=True)),
            "asks unseen": (self._is_idle, partial(self._ask, look_first=False)),
            "server reads": (lambda: bool(self.waiting) and self.answer is None, self._read),
            "server answers": (lambda: self.answer is not None, self._answer),
        }

    async def begin(self) -> None:
        """Let both tenants' services connect, and mine encrypt something."""
        self.caller, self.stranger = [
            await self._through(self.callers.identify(one.certificate, ADDRESS)) for one in IDENTITIES.values()
        ]
        self.text = await self._through(self.operations.encrypt(self.caller, "r", b"secret"))
        self.their_text = await self._through(self.operations.encrypt(self.stranger, "r", b"theirs"))

    async def settle(self) -> None:
        """Go on until everything waits, and note how a decryption that ended has ended."""
        for _ in range(8):
            await asyncio.sleep(0)
        if self.asking is not None and self.asking.done():
            error = self.asking.exception()
            self.outcome = DONE if error is None else error.code if isinstance(error, OpenKcmError) else repr(error)
            self.asking = None

    async def end(self) -> None:
        """Leave nothing running for the next run to stumble over."""
        pending = [self.asking] if self.asking is not None else []
        for _, future in self.waiting:
            future.cancel()
        if self.answer is not None:
            self.answer[0].cancel()
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        self.keyring.close()

    async def strangers_attempt(self) -> str:
        """Let the other tenant open my text, and its own; return how the first ended."""
        assert await self._through(self.operations.decrypt(self.stranger, "r", self.their_text)) == b"theirs"
        try:
            await self._through(self.operations.decrypt(self.stranger, "r", self.text))
        except OpenKcmError as refused:
            return refused.code
        return DONE

    def place(self) -> tuple[Any, ...]:
        """Return everything that the future depends on: two orders of things that end here need one continuation."""
        now, tenant = self.clock.now, self.keyring._tenants.get(MINE)
        known = self.callers._known[MINE, IDENTITIES[MINE].serial]
        kept = [kept for place, kept in tenant.kept.items() if place.version == 1] if tenant else []
        return (
            self.standing,
            self.gone,
            self.heard,
            now - self.shut_since >= CACHE_SECONDS,
            now - self.gone_since >= CACHE_SECONDS,
            type(known.found).__name__ if self.callers._is_fresh(known) else "",
            any(one.until > now for one in kept),
            bool(tenant and any(until > now for _, until in tenant.failed.values())),
            bool(tenant and tenant.opening),
            [look[1] == known.tenant.changes for look in self.callers._looking.values()] == [True],
            self.asking is not None and self.phase,
            len(self.waiting),
            self._read_so_far(),
            self.opened_at < self.told_at,
        )

    def _read_so_far(self) -> str:
        match self.answer:
            case None:
                return ""
            case (_, OpenKcmError() as error):
                return error.code
            case (_, (found, _)):
                return type(found).__name__
            case _:
                return "key"

    def keeps_what_is_old(self) -> bool:
        """Whether a key is in memory that was opened before the last word of a change."""
        tenant = self.keyring._tenants.get(MINE)
        return bool(tenant and tenant.kept) and self.opened_at < self.told_at

    def possible(self) -> list[str]:
        """Return the names of the acts that can happen now."""
        return [name for name, (is_possible, _) in self.acts.items() if is_possible()]

    async def happen(self, act: str) -> None:
        self.steps += 1
        self.outcome = None
        self.acts[act][1]()
        await self.settle()

    # What can happen.

    def _is_not(self, standing: str) -> bool:
        return self.standing != standing

    def _is_idle(self) -> bool:
        return self.asking is None

    def _move(self, standing: str) -> None:
        self.standing, self.heard = standing, False
        self.shut_since = float("inf") if standing == OPEN else min(self.shut_since, self.clock.now)

    def _lose(self, *, gone: bool) -> None:
        self.gone, self.gone_since = gone, self.clock.now if gone else float("inf")

    def _hear(self, word: str | None) -> None:
        self.heard, self.told_at = True, self.steps
        self.changes.tell(word)

    def _wait(self) -> None:
        self.clock.now += CACHE_SECONDS

    def _ask(self, *, look_first: bool) -> None:
        self.asking = asyncio.get_running_loop().create_task(self._decrypt(look_first=look_first))

    async def _decrypt(self, *, look_first: bool) -> bytes:
        self.phase = "looks"
        caller = await self.callers.refresh(self.caller) if look_first else self.caller
        self.phase = "wants a key"
        return await self.operations.decrypt(caller, "r", self.text)

    def _read(self) -> None:
        work, future = self.waiting.pop(0)
        try:
            self.answer = future, work()
        except OpenKcmError as error:
            self.answer = future, error

    def _answer(self) -> None:
        assert self.answer is not None
        (future, answer), self.answer = self.answer, None
        if isinstance(answer, OpenKcmError):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    async def _through(self, call: Coroutine[Any, Any, Result]) -> Result:
        """Do a call to its end, with servers that answer at once."""
        task = asyncio.ensure_future(call)
        await self.settle()
        while not task.done():
            await self.happen("server reads")
            await self.happen("server answers")
        return task.result()

    async def key(self, caller: ClientIdentity, version: int | None = None) -> ServiceKey:
        """Ask the keyring, and note that a key is in hand: from here on it does not matter what becomes of it."""
        key = await self.keyring.key(caller, version)
        self.phase = "has a key"
        return key

    # The database, the threads, the key server and the root key, as far as they are asked.

    @contextmanager
    def tenant_tx(self, tenant_id: str) -> Iterator[Any]:
        one = IDENTITIES[tenant_id]
        mine = tenant_id == MINE
        standing = self.standing if mine else OPEN
        row = ClientIdentityRow(
            "orders",
            ServiceState.DISCONNECTED if standing == "disconnected" else ServiceState.CONNECTED,
            State.LOCKED if standing == "locked" else State.ACTIVE,
            REGION,
            l2_key(tenant_id),
            one.fingerprint,
            None,
            one.authority_pem,
            AuthorityState.CURRENT,
            datetime.now(UTC) + timedelta(hours=1),
            None,
        )
        key = ServiceKeyRow("orders", 1, l2_key(tenant_id), "platform", "root", WRAPPED[tenant_id])
        services = SimpleNamespace(
            caller=lambda serial: row if serial == one.serial else None,
            key_and_root=lambda _service, version: (key, None) if version in {None, 1} else None,
        )
        yield SimpleNamespace(services=services)

    async def run(self, tenant_id: str, work: Callable[[], Any]) -> Any:
        if tenant_id == THEIRS:
            return work()
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((work, future))
        return await future

    def platform(self, _region: str) -> "Stage":
        return self

    def forget(self, _tenant_id: str) -> None:
        pass

    def unwrap(self, context: EncryptionContext, text: bytes) -> bytes:
        if context.tenant_id == MINE:
            self.opened_at = self.steps
        if self.gone and context.tenant_id == MINE:
            raise RootKeyDisabled
        return primitives.aes_gcm_decrypt(*layer(b"L1" * 16, context), text, b"")

    def decrypt(self, context: EncryptionContext, text: str) -> bytes:
        return primitives.aes_gcm_decrypt(*layer(b"L2" * 16, context), bytes.fromhex(text), b"")
