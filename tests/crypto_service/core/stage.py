"""A tenant, its service and one decryption at a time, and all events that affect them, one at a time.

Certificates, ciphers and the code under test are real. Database and keys are small fakes that store state and raise the
real errors, so that a test can explore every order of events.
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
from database.postgres.change_feed import tenant_hash
from database.services.repository import ClientIdentityRow
from openkcm.errors import OpenKcmError
from tests.crypto_service import authority
from tests.crypto_service.core.world import ADDRESS, REGION, Changes, Clock, Journal, ignore_unwrap, never_locked
from vault.pki.certificates import hex_serial

CACHE_SECONDS = 60.0
MINE, THEIRS = "acme-corp", "beta-corp"
Act: TypeAlias = tuple[Callable[[], bool], Callable[[], None]]
Result = TypeVar("Result")
OPEN = "open"
STATUSES = (OPEN, "locked", "disconnected")
DONE = "done"


@dataclass(frozen=True)
class Identity:
    """A tenant CA and the certificate of its only service; created once for many runs."""

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
    """Return an L3 wrapped twice. The bytes are equal for every tenant: only the context distinguishes them."""
    context = EncryptionContext(tenant_id, l2_key(tenant_id), "orders", Purpose.SERVICE_KEY, "1")
    inner = primitives.aes_gcm_encrypt(*layer(b"L2" * 16, context), bytes(range(32)), b"")
    return primitives.aes_gcm_encrypt(*layer(b"L1" * 16, context), inner.hex().encode(), b"")


WRAPPED = {tenant_id: wrapped(tenant_id) for tenant_id in IDENTITIES}


class Stage:
    """`acts` maps names to a precondition and an action; `outcome` is the result of a decryption in the last act."""

    def __init__(self) -> None:
        self.clock = Clock(1000.0)
        self.changes, self.journal = Changes(), Journal()
        self.status, self.disabled = OPEN, False
        self.closed_since = self.disabled_since = float("inf")
        self.notified = True
        self.outcome: str | None = None
        self.phase = ""
        self.steps = self.notified_at = self.opened_at = 0
        self.asking: asyncio.Task[bytes] | None = None
        self.waiting: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self.answer: tuple[asyncio.Future[Any], Any] | None = None
        self.callers = ClientCertificateAuthenticator(
            self,
            self,
            self.journal,
            self.changes,
            is_locked=never_locked,
            cache_seconds=CACHE_SECONDS,
            monotonic=self.clock,
        )
        self.keyring = ServiceKeyCache(
            self,
            self,
            self,
            self,
            self.changes,
            cache_seconds=CACHE_SECONDS,
            opened=ignore_unwrap,
            monotonic=self.clock,
        )
        self.operations = CryptoOperations(self.callers, self, self.journal)
        self.acts: dict[str, Act] = {
            **{f"is {one}": (partial(self._is_not, one), partial(self._set_status, one)) for one in STATUSES},
            "root key is taken away": (lambda: not self.disabled, partial(self._set_root_key, disabled=True)),
            "root key is given back": (lambda: self.disabled, partial(self._set_root_key, disabled=False)),
            "is heard of": (lambda: not self.notified, partial(self._notify, tenant_hash(MINE))),
            "feed is lost": (lambda: True, partial(self._notify, None)),
            # A call always ends within its time-outs, which are far shorter.
            "a minute passes": (self._is_idle, self._wait),
            "asks": (self._is_idle, partial(self._ask, refresh_first=True)),
            "asks unseen": (self._is_idle, partial(self._ask, refresh_first=False)),
            "server reads": (lambda: bool(self.waiting) and self.answer is None, self._read),
            "server answers": (lambda: self.answer is not None, self._answer),
        }

    async def begin(self) -> None:
        """Connect the services of both tenants, and encrypt with each."""
        self.caller, self.other_caller = [
            await self._through(self.callers.identify(one.certificate, ADDRESS)) for one in IDENTITIES.values()
        ]
        self.text = await self._through(self.operations.encrypt(self.caller, "r", b"secret"))
        self.other_text = await self._through(self.operations.encrypt(self.other_caller, "r", b"theirs"))

    async def settle(self) -> None:
        """Run until everything waits, and record the outcome of a decryption that ended."""
        for _ in range(8):
            await asyncio.sleep(0)
        if self.asking is not None and self.asking.done():
            error = self.asking.exception()
            self.outcome = DONE if error is None else error.code if isinstance(error, OpenKcmError) else repr(error)
            self.asking = None

    async def end(self) -> None:
        """Cancel everything that still runs."""
        pending = [self.asking] if self.asking is not None else []
        for _, future in self.waiting:
            future.cancel()
        if self.answer is not None:
            self.answer[0].cancel()
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        self.keyring.close()

    async def decrypt_as_other_tenant(self) -> str:
        """Decrypt my text as the other tenant, and its own text; return the outcome of the first."""
        assert await self._through(self.operations.decrypt(self.other_caller, "r", self.other_text)) == b"theirs"
        try:
            await self._through(self.operations.decrypt(self.other_caller, "r", self.text))
        except OpenKcmError as refused:
            return refused.code
        return DONE

    def state(self) -> tuple[Any, ...]:
        """Return the state that determines all further behaviour: equal states need to be explored only once."""
        now, tenant = self.clock.now, self.keyring._tenants.get(MINE)
        known = self.callers._entries[MINE, IDENTITIES[MINE].serial]
        kept = [kept for state, kept in tenant.entries.items() if state.version == 1] if tenant else []
        return (
            self.status,
            self.disabled,
            self.notified,
            now - self.closed_since >= CACHE_SECONDS,
            now - self.disabled_since >= CACHE_SECONDS,
            type(known.found).__name__ if self.callers._is_fresh(known) else "",
            any(one.until > now for one in kept),
            bool(tenant and any(until > now for _, until in tenant.failed.values())),
            bool(tenant and tenant.unwraps),
            [look[1] == known.tenant.changes for look in self.callers._lookups.values()] == [True],
            self.asking is not None and self.phase,
            len(self.waiting),
            self._read_so_far(),
            self.opened_at < self.notified_at,
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

    def has_stale_key(self) -> bool:
        """Return whether a key is in memory that was unwrapped before the last change notification."""
        tenant = self.keyring._tenants.get(MINE)
        return bool(tenant and tenant.entries) and self.opened_at < self.notified_at

    def possible(self) -> list[str]:
        """Return the names of the acts that are now possible."""
        return [name for name, (is_possible, _) in self.acts.items() if is_possible()]

    async def happen(self, act: str) -> None:
        self.steps += 1
        self.outcome = None
        self.acts[act][1]()
        await self.settle()

    # The acts.

    def _is_not(self, status: str) -> bool:
        return self.status != status

    def _is_idle(self) -> bool:
        return self.asking is None

    def _set_status(self, status: str) -> None:
        self.status, self.notified = status, False
        self.closed_since = float("inf") if status == OPEN else min(self.closed_since, self.clock.now)

    def _set_root_key(self, *, disabled: bool) -> None:
        self.disabled, self.disabled_since = disabled, self.clock.now if disabled else float("inf")

    def _notify(self, word: str | None) -> None:
        self.notified, self.notified_at = True, self.steps
        self.changes.tell(word)

    def _wait(self) -> None:
        self.clock.now += CACHE_SECONDS

    def _ask(self, *, refresh_first: bool) -> None:
        self.asking = asyncio.get_running_loop().create_task(self._decrypt(refresh_first=refresh_first))

    async def _decrypt(self, *, refresh_first: bool) -> bytes:
        self.phase = "looks"
        caller = await self.callers.refresh(self.caller) if refresh_first else self.caller
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
        """Run a call to its end, with servers that respond immediately."""
        task = asyncio.ensure_future(call)
        await self.settle()
        while not task.done():
            await self.happen("server reads")
            await self.happen("server answers")
        return task.result()

    async def key(self, caller: ClientIdentity, version: int | None = None) -> ServiceKey:
        """Return a key of the key cache, and record that the operation has it: later changes do not affect it."""
        key = await self.keyring.key(caller, version)
        self.phase = "has a key"
        return key

    def cached(self, caller: ClientIdentity, version: int | None = None) -> ServiceKey | None:
        """Return a key of the key cache, and record it as `key` does."""
        key = self.keyring.cached(caller, version)
        if key is not None:
            self.phase = "has a key"
        return key

    def revision(self, tenant_id: str) -> object:
        return self.keyring.revision(tenant_id)

    # Fakes of the database, the threads, the key server and the root key.

    @contextmanager
    def tenant_tx(self, tenant_id: str) -> Iterator[Any]:
        one = IDENTITIES[tenant_id]
        mine = tenant_id == MINE
        status = self.status if mine else OPEN
        row = ClientIdentityRow(
            "orders",
            ServiceState.DISCONNECTED if status == "disconnected" else ServiceState.CONNECTED,
            State.LOCKED if status == "locked" else State.ACTIVE,
            REGION,
            l2_key(tenant_id),
            one.fingerprint,
            None,
            one.authority_pem,
            AuthorityState.CURRENT,
            datetime.now(UTC) + timedelta(hours=1),
            None,
            revoked_keys_readable=False,
        )
        key = ServiceKeyRow("orders", 1, l2_key(tenant_id), "platform", "root", WRAPPED[tenant_id])
        services = SimpleNamespace(
            leaf=lambda _service: None,
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
        if self.disabled and context.tenant_id == MINE:
            raise RootKeyDisabled
        return primitives.aes_gcm_decrypt(*layer(b"L1" * 16, context), text, b"")

    def decrypt(self, context: EncryptionContext, text: str) -> bytes:
        return primitives.aes_gcm_decrypt(*layer(b"L2" * 16, context), bytes.fromhex(text), b"")
