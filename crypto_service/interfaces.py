"""What the parts of the crypto service say to each other.

Everything below runs on one event loop per process. Methods are `async`, but return without giving up the loop when
what they need is in memory: a front may drive such a call to its end with one `send(None)`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from core.services import CryptoOperation
from core.tenants.lifecycle import State

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """Who is calling, as the verified client certificate and the database say; never anything the payload says."""

    tenant_id: str
    service: str
    l2_key: str
    region: str
    serial: str
    tenant_state: State
    address: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class ServiceKey:
    """An opened L3. `repr` shows no material."""

    version: int
    material: bytes = field(repr=False)
    compromised: bool = False
    """Whether it may open nothing but what is kept here, until that is sealed anew."""


@dataclass(frozen=True, slots=True)
class DataKey:
    """A new L4: `wrapped` is kept by the caller beside the data; `plaintext` is None when only that was asked for."""

    wrapped: str
    plaintext: bytes | None = field(default=None, repr=False)


@dataclass(slots=True)
class AuditEntry:
    """One line of the journal: a use, a release or a refusal. Carries no key material and no data.

    Not frozen, because one is made for each request and freezing triples what that costs; nobody changes one.
    """

    tenant_id: str
    service: str
    operation: CryptoOperation
    subject: str
    """The key or object acted on, at most 512 characters."""
    correlation_id: str
    source: str = ""
    refused: str = ""
    """The code of the error it was refused with, empty for a success."""
    count: int = 1
    bytes: int = 0
    microseconds: int = 0
    """How long the work took, rounded up; 0 when nobody timed it."""


class BlockingExecutor(Protocol):
    """Threads for what blocks: database, Vault, root keys."""

    async def run(self, tenant_id: str, work: Callable[[], Result]) -> Result:
        """Run `work` in a thread; a tenant gets few threads at once, so a slow server stalls only who needs it."""
        ...


class Invalidations(Protocol):
    def subscribe(self, forget: Callable[[str | None], None]) -> None:
        """Have `forget` called on the loop with the `mark` of a tenant that changed, or None: everything may have."""
        ...


class ClientAuthenticator(Protocol):
    """Certificate → caller, and the live connections that depend on it."""

    async def identify(self, certificate_der: bytes, address: str) -> ClientIdentity:
        """Return who presents a certificate whose chain TLS has verified.

        Raises: ClientNotAuthorized (not on record, revoked, disconnected), TenantNotOperational, DatabaseUnavailable.
        """
        ...

    async def refresh(self, caller: ClientIdentity) -> ClientIdentity:
        """Return the caller as it is now; raises as `identify`. Free while nothing changed."""
        ...

    async def locked(self, certificate_der: bytes) -> ClientIdentity:
        """Return whom `identify` refused for its tenant's lock and nothing else, to fetch its next certificate.

        Its state is `locked`, so that it opens nothing. Raises: ClientNotAuthorized, DatabaseUnavailable,
        TooManyRequests.
        """
        ...


class KeyCache(Protocol):
    """Opened L3s, in memory for at most the cache time, dropped at once when something changed."""

    async def key(self, caller: ClientIdentity, version: int | None = None) -> ServiceKey:
        """Return the active L3 of the caller's service, or one version of it.

        A miss costs one Vault call and one root-key call, made once for all who wait. Raises: ObjectNotFound,
        KeyVersionRetired when it was destroyed, KeyUnavailable, VaultUnavailable, DatabaseUnavailable,
        TooManyRequests, and the CustomerKeyErrors.
        """
        ...


class Operations(Protocol):
    """What a service may do; each checks the tenant's state, the descent of the key, and writes the journal.

    `resource` is the caller's own name for the place of the data (1 to 512 characters); a ciphertext opens only with
    the same tenant, service and resource.
    """

    async def encrypt(self, caller: ClientIdentity, resource: str, plaintext: bytes) -> str: ...

    async def decrypt(self, caller: ClientIdentity, resource: str, ciphertext: str) -> bytes:
        """Raises CiphertextRefused, KeyVersionRetired."""
        ...

    async def rewrap(self, caller: ClientIdentity, resource: str, ciphertext: str) -> str:
        """Return the same plaintext, or the same data key, under the active service key."""
        ...

    async def new_data_key(self, caller: ClientIdentity, resource: str, *, with_plaintext: bool) -> DataKey: ...

    async def open_data_key(self, caller: ClientIdentity, resource: str, wrapped: str) -> bytes: ...

    async def seal_object(self, caller: ClientIdentity, object_id: str, material: bytes) -> tuple[int, bytes]:
        """Return the key version and the sealed material of a managed object; writes no journal."""
        ...

    async def open_object(self, caller: ClientIdentity, object_id: str, key_version: int, sealed: bytes) -> bytes:
        """Return the material; writes no journal (the caller MUST, before it answers)."""
        ...


class AuditWriter(Protocol):
    """The write-ahead audit: what was written survives kill -9 (and power loss, by setting) and reaches the stream."""

    async def write(self, entries: Sequence[AuditEntry]) -> None:
        """Return when the entries are safe. The caller MUST await it before it answers.

        Raises: AuditUnavailable when they cannot be made safe; nothing may be released then.
        """
        ...


class Limits(Protocol):
    def enter(self, tenant_id: str, cost: int = 1) -> None:
        """Take `cost` from the tenant's rate and one of its places; raises TooManyRequests."""
        ...

    def leave(self, tenant_id: str) -> None:
        """Give the place back."""
        ...


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What a front is given."""

    callers: ClientAuthenticator
    operations: Operations
    journal: AuditWriter
    limits: Limits
    blocking: BlockingExecutor
    changes: Invalidations
