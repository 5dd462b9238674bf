"""Interfaces between the components of the crypto service.

All of it runs on one event loop per process. Methods are `async` but return without a suspension when what they need
is in memory: a server may complete such a call with one `send(None)`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from core.services import CryptoOperation
from core.tenants.lifecycle import State
from crypto_service.server.turns import Turns

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """The caller, from the verified client certificate and the database; never from the payload."""

    tenant_id: str
    service: str
    l2_key: str
    region: str
    serial: str
    tenant_state: State
    address: str = field(default="", compare=False)
    revoked_keys_readable: bool = False
    """Whether the tenant's policy permits Get of deactivated and compromised managed objects."""
    resources_recorded: bool = False
    """Whether the tenant's policy has the audit records of key operations name their resource or object."""


@dataclass(slots=True)
class ServiceKey:
    """An unwrapped L3 service key. `repr` shows no key material.

    Not frozen, because each request creates one. MUST NOT be modified.
    """

    version: int
    material: bytes = field(repr=False)
    compromised: bool = False
    """Whether the key may decrypt only managed objects stored here, until they are re-encrypted."""


@dataclass(frozen=True, slots=True)
class DataKey:
    """A new L4. The caller stores `wrapped` beside the data; `plaintext` is None when only `wrapped` was requested."""

    wrapped: str
    plaintext: bytes | None = field(default=None, repr=False)


@dataclass(slots=True)
class AuditEntry:
    """An entry of the write-ahead log: a use, a release or a rejection. Contains no key material and no data.

    Not frozen, because each request creates one and freezing triples the cost. MUST NOT be modified.
    """

    tenant_id: str
    service: str
    operation: CryptoOperation
    subject: str
    """The key or object of the operation, at most 512 characters."""
    correlation_id: str
    source: str = ""
    refused: str = ""
    """The code of the error that rejected the request; empty for a success."""
    count: int = 1
    bytes: int = 0
    microseconds: int = 0
    """Duration of the operation, rounded up; 0 when it was not measured."""
    recorded: bool = False
    """Whether the transaction of this change appended its audit event; the entry then counts only as usage."""
    names_subject: bool = False
    """Whether the audit event of a counted use names the subject: `ClientIdentity.resources_recorded`."""


class BlockingExecutor(Protocol):
    """Threads for work that waits (database, Vault, root keys), or for work that computes."""

    async def run(self, tenant_id: str, work: Callable[[], Result]) -> Result:
        """Run `work` in a thread. Threads per tenant are limited, so a slow server delays only its own tenants."""
        ...


class Invalidations(Protocol):
    def subscribe(self, forget: Callable[[str | None], None]) -> None:
        """Call `forget` on the loop with the hash of a tenant that changed, or with None: any tenant may have."""
        ...


class ClientAuthenticator(Protocol):
    """Certificate → caller, and the open connections that depend on the result."""

    async def identify(self, certificate_der: bytes, address: str) -> ClientIdentity:
        """Return the caller that presents a certificate whose chain TLS has verified.

        Raises: ClientNotAuthorized (unknown, revoked, disconnected), TenantNotOperational, LockedAtKeyServer,
        DatabaseUnavailable.
        """
        ...

    def is_current(self, caller: ClientIdentity) -> bool:
        """Return whether `refresh` would return this caller without I/O."""
        ...

    async def refresh(self, caller: ClientIdentity) -> ClientIdentity:
        """Return the caller of an admitted connection as it is now; raise as `identify`.

        It remains admitted after the end of its certificate while its service has a newer one for the same key. Costs
        no I/O while nothing changed.
        """
        ...

    async def locked(self, certificate_der: bytes) -> ClientIdentity:
        """Return a caller that `identify` rejected only because its tenant is locked, to fetch its next certificate.

        Its tenant state is `locked`, so that no key is unwrapped for it. Raises: ClientNotAuthorized,
        DatabaseUnavailable, TooManyRequests.
        """
        ...


class KeyCache(Protocol):
    """Unwrapped L3s, in memory for at most the cache time and dropped immediately after a change."""

    async def key(self, caller: ClientIdentity, version: int | None = None) -> ServiceKey:
        """Return the active L3 of the caller's service, or the given version of it.

        A miss costs one Vault call and one root-key call, shared by all concurrent callers. Raises: ObjectNotFound,
        KeyVersionRetired when the version was destroyed, KeyUnavailable, VaultUnavailable, DatabaseUnavailable,
        TooManyRequests, and the CustomerKeyErrors.
        """
        ...

    def cached(self, caller: ClientIdentity, version: int | None = None) -> ServiceKey | None:
        """Return what `key` would return without I/O; None if it would wait or raise."""
        ...

    def revision(self, tenant_id: str) -> object:
        """Return an object that is another one after each change of the tenant.

        A key is current if the object from before its request is still returned at its use: a caller that waits, for
        the key or afterwards, may have missed a change.
        """
        ...


class Operations(Protocol):
    """The operations of a service. Each verifies the tenant state and the origin of the key and writes an audit entry.

    `resource` is the caller's name for the location of the data (1 to 512 characters). Decryption requires the same
    tenant, service and resource.
    """

    async def encrypt(self, caller: ClientIdentity, resource: str, plaintext: bytes) -> str: ...

    async def decrypt(self, caller: ClientIdentity, resource: str, ciphertext: str) -> bytes:
        """Return the plaintext; raise CiphertextRefused, KeyVersionRetired."""
        ...

    async def rewrap(self, caller: ClientIdentity, resource: str, ciphertext: str) -> str:
        """Return the same plaintext, or the same data key, under the active service key."""
        ...

    async def new_data_key(self, caller: ClientIdentity, resource: str, *, with_plaintext: bool) -> DataKey: ...

    async def open_data_key(self, caller: ClientIdentity, resource: str, wrapped: str) -> bytes: ...

    async def seal_object(self, caller: ClientIdentity, object_id: str, material: bytes) -> tuple[int, bytes]:
        """Return the key version and the encrypted material of a managed object; writes no audit entry."""
        ...

    async def open_object(self, caller: ClientIdentity, object_id: str, key_version: int, sealed: bytes) -> bytes:
        """Return the material; writes no audit entry (the caller MUST, before it responds)."""
        ...


class AuditWriter(Protocol):
    """The write-ahead log. An entry survives kill -9 (and power loss, by setting) and reaches the audit stream."""

    @property
    def is_failing(self) -> bool:
        """Whether it accepts no entry at present.

        Each response is then its connection's last: the next one may reach an instance with a working disk.
        """

    async def write(self, entries: Sequence[AuditEntry]) -> None:
        """Return when the entries, of one tenant, are durable. The caller MUST await it before it responds.

        Raises: AuditUnavailable when they cannot be made durable; nothing may be released in that case.
        """
        ...


class Limits(Protocol):
    def enter(self, tenant_id: str, cost: int = 1) -> None:
        """Take `cost` from the tenant's rate and one of its concurrent requests; raise TooManyRequests."""
        ...

    def charge(self, tenant_id: str, cost: int, paid: int) -> None:
        """Take `cost` for the work of a request that has entered and `paid` for it; raise TooManyRequests."""
        ...

    def leave(self, tenant_id: str) -> None:
        """Release the concurrent request."""
        ...


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The dependencies of a server."""

    callers: ClientAuthenticator
    operations: Operations
    journal: AuditWriter
    limits: Limits
    blocking: BlockingExecutor
    computing: BlockingExecutor
    """For work without waits that takes a millisecond or more."""
    changes: Invalidations
    turns: Turns = field(default_factory=Turns)
