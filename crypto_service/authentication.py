"""Client certificate → caller.

1. TLS has verified the chain up to our root, the name constraints and the validity (RFC 5280, section 6).
2. The single DNS name of the leaf selects the tenant in which its serial is looked up. It proves nothing else.
3. The leaf must be signed by the tenant CA that the tenant's records name as its issuer. The SHA-256 of that CA must
   be one that the tenant's route names: the current CA, or the former CA while its leaves are valid. Only this binds
   the leaf to the tenant: the *issuer* decides (MTCI A1). Later rejections are recorded in the tenant's audit stream.
4. The serial is recorded, not revoked, and its service is connected; that record gives the name of the service.
5. The state of the tenant admits services, and the key server has no lock of it that the database lacks. A caller that
   only a lock of the database rejects may still fetch its next certificate (`locked`), as a caller of a locked tenant,
   for which no key is unwrapped.

6. A kept connection survives the end of its certificate while its service has a newer one for the same key, until that
   one's end: the handshake has proved the possession of that key, and a client that renews its certificate file may
   never open a second connection. All other steps hold for both certificates.

A result is cached for at most the cache time and read again after a change of the tenant; until then `refresh` reads
only memory. A result in use is read again after half of its time, so at least the other half remains when the
database fails. The expiry of the certificate itself is checked each time.
"""

import asyncio
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import NoReturn, TypeAlias

import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from core.certificates import BELIEVED
from core.correlation import correlation_id
from core.errors.services import ClientNotAuthorized
from core.errors.tenants import LockedAtKeyServer, TenantNotOperational
from core.services import CryptoOperation, ServiceState
from core.tenants.lifecycle import DECRYPTS, State
from crypto_service.correlation import new_correlation_id
from crypto_service.interfaces import AuditEntry, AuditWriter, BlockingExecutor, ClientIdentity, Invalidations
from crypto_service.shared_tasks import retrieve_exception
from database.connection.database import Database
from database.postgres.change_feed import tenant_hash
from database.services.repository import ClientIdentityRow
from openkcm.contract.names import TENANT_DOMAIN, TENANT_ID_PATTERN
from openkcm.errors import OpenKcmError
from vault.pki.certificates import hex_serial

_MAX_CERTIFICATES = 16_384
"""Certificates in the cache; beyond this number the least recently read ones are evicted."""
_REJECTION_SECONDS = 0.05
"""A client that is connected or unlocked uses the service at once, and this process may not have read that change yet.

So a rejection is read again soon; not for each request, because rejected clients repeat theirs.
"""
_RENEWAL_PAUSE = 5.0
"""Seconds between two attempts to renew a cached result."""
_MAX_READS = 3
"""How often a read is repeated because the tenant changed during it."""

Key: TypeAlias = tuple[str, str]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A presented certificate; `digest` is the SHA-256 of its DER encoding."""

    tenant_id: str
    serial: str
    digest: bytes
    certificate: x509.Certificate

    @property
    def key(self) -> Key:
        return self.tenant_id, self.serial


@dataclass(frozen=True, slots=True)
class _Rejection:
    """A rejection and its reason; `locked` is the caller if only the lock of its tenant causes the rejection."""

    service: str
    error: Callable[[], OpenKcmError]
    why: str
    locked: ClientIdentity | None = None


@dataclass(slots=True)
class _Tenant:
    """The number of changes of a tenant since this process started: a result that was read before a change is stale."""

    changes: int = 0


@dataclass(slots=True)
class _CacheEntry:
    """The result for a certificate whose issuer is verified, and the number of changes at which it was read.

    A new connection is admitted until `not_after`, an admitted one until `kept_until`; seconds since the epoch.
    """

    leaf: _Leaf
    found: ClientIdentity | _Rejection
    not_after: float
    kept_until: float
    until: float
    tenant: _Tenant
    read_at: int
    renew_at: float


class ClientCertificateAuthenticator:
    """`interfaces.ClientAuthenticator` over the database. MUST be used from one event loop."""

    def __init__(  # noqa: PLR0913 - its dependencies, by name
        self,
        database: Database,
        blocking: BlockingExecutor,
        journal: AuditWriter,
        changes: Invalidations,
        *,
        is_locked: Callable[[str], Awaitable[bool]],
        cache_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`is_locked` returns whether the key server has a lock of a tenant; False where it does not answer."""
        self._database = database
        self._blocking = blocking
        self._is_locked = is_locked
        self._journal = journal
        self._cache_seconds = cache_seconds
        self._monotonic = monotonic
        self._clock = clock
        self._entries: OrderedDict[Key, _CacheEntry] = OrderedDict()
        self._lookups: dict[Key, tuple[bytes, int, asyncio.Task[_CacheEntry]]] = {}
        self._tenants: dict[str, _Tenant] = {}
        changes.subscribe(self.forget)

    async def identify(self, certificate_der: bytes, address: str) -> ClientIdentity:
        """Return the caller that presents a certificate whose chain TLS has verified.

        Raises: ClientNotAuthorized, TenantNotOperational, LockedAtKeyServer; DatabaseUnavailable, DatabaseRefused,
        TooManyRequests, AuditUnavailable.
        """
        return await self._admit(_presented(certificate_der), address)

    def is_current(self, caller: ClientIdentity) -> bool:
        """Return whether `refresh` would return this caller without I/O; may start to read it again beforehand."""
        entry = self._entries.get((caller.tenant_id, caller.serial))
        if entry is None:
            return False
        found = entry.found
        # Nearly always the same object, and a comparison by field costs as much as the rest of this method.
        return (found is caller or found == caller) and self._is_fresh(entry) and self._clock() < entry.kept_until

    async def refresh(self, caller: ClientIdentity) -> ClientIdentity:
        """Return the caller of an admitted connection as it is now; raise as `identify`.

        Costs no I/O while nothing changed.
        """
        if self.is_current(caller):
            return caller
        entry = self._entries.get((caller.tenant_id, caller.serial))
        if entry is None:  # evicted: the client may present its certificate again
            raise ClientNotAuthorized
        return await self._admit(entry.leaf, caller.address, kept=True)

    async def locked(self, certificate_der: bytes) -> ClientIdentity:
        """Return the caller that `identify` has just rejected, and recorded, only because its tenant is locked.

        Raises: ClientNotAuthorized; DatabaseUnavailable, DatabaseRefused, TooManyRequests.
        """
        leaf = _presented(certificate_der)
        entry = await self._fresh_entry(leaf)
        found = entry.found
        if not isinstance(found, _Rejection) or found.locked is None or self._clock() >= entry.not_after:
            raise ClientNotAuthorized
        return found.locked

    def forget(self, tenant: str | None) -> None:
        """Mark the results of a tenant (its `tenant_hash`), or of all tenants, to be read again before the next use."""
        if tenant is None:
            for one in self._tenants.values():
                one.changes += 1
        elif tenant in self._tenants:
            self._tenants[tenant].changes += 1

    async def _admit(self, leaf: _Leaf, address: str, *, kept: bool = False) -> ClientIdentity:
        entry = await self._fresh_entry(leaf)
        found = entry.found
        if isinstance(found, ClientIdentity):
            if self._clock() < (entry.kept_until if kept else entry.not_after):
                return found if found.address == address else replace(found, address=address)
            found = _Rejection(found.service, ClientNotAuthorized, "expired")
        await self._journal.write(
            (
                AuditEntry(
                    tenant_id=leaf.tenant_id,
                    service=found.service,
                    operation=CryptoOperation.CONNECT,
                    subject=f"certificate {leaf.serial}: {found.why}",
                    correlation_id=correlation_id.get() or new_correlation_id(),
                    source=address,
                    refused=found.error().code,
                ),
            )
        )
        raise found.error()

    async def _fresh_entry(self, leaf: _Leaf) -> _CacheEntry:
        entry = self._entries.get(leaf.key)
        if entry is None or entry.leaf.digest != leaf.digest or not self._is_fresh(entry):
            entry = await self._look_up(leaf)
        return entry

    def _is_fresh(self, entry: _CacheEntry) -> bool:
        now = self._monotonic()
        if entry.read_at != entry.tenant.changes or now >= entry.until:
            return False
        if now >= entry.renew_at:
            entry.renew_at = now + _RENEWAL_PAUSE
            self._start_lookup(entry.leaf, entry.tenant)  # in the background: no caller waits for it
        return True

    async def _look_up(self, leaf: _Leaf) -> _CacheEntry:
        """Read a certificate once for all concurrent callers, and again if the tenant changed during the read.

        After `_MAX_READS` reads the last result is returned: the request began before the last change, and the next
        request reads again.
        """
        tenant = self._tenants.setdefault(tenant_hash(leaf.tenant_id), _Tenant())
        for _ in range(_MAX_READS):
            digest, read_at, task = self._lookups.get(leaf.key, (b"", -1, None))
            if task is None or digest != leaf.digest or read_at != tenant.changes:
                task = self._start_lookup(leaf, tenant)
            entry = await asyncio.shield(task)
            if entry.read_at == tenant.changes:
                break
        return entry

    def _start_lookup(self, leaf: _Leaf, tenant: _Tenant) -> "asyncio.Task[_CacheEntry]":
        task = asyncio.get_running_loop().create_task(self._read_entry(leaf, tenant))
        self._lookups[leaf.key] = (leaf.digest, tenant.changes, task)
        task.add_done_callback(partial(self._remove_lookup, leaf.key))
        return task

    def _remove_lookup(self, key: Key, task: "asyncio.Task[_CacheEntry]") -> None:
        if key in self._lookups and self._lookups[key][2] is task:
            del self._lookups[key]
        retrieve_exception(task)

    async def _read_entry(self, leaf: _Leaf, tenant: _Tenant) -> _CacheEntry:
        # Both are set before the read, so that a change or an expiry during the read invalidates the result.
        read_at, until = tenant.changes, self._monotonic() + self._cache_seconds
        renew_at = until - self._cache_seconds / 2
        found, not_after, kept_until = await self._blocking.run(leaf.tenant_id, partial(self._read, leaf))
        if isinstance(found, ClientIdentity) and await self._is_locked(leaf.tenant_id):
            found = _Rejection(found.service, LockedAtKeyServer, "locked at the key server")
        if isinstance(found, _Rejection):
            until = min(until, self._monotonic() + _REJECTION_SECONDS)
        before = self._entries.get(leaf.key)
        if before is not None and before.found == found:
            found = before.found  # the same object, which `refresh` recognises without a comparison
        entry = _CacheEntry(leaf, found, not_after, kept_until, until, tenant, read_at, renew_at)
        self._entries[leaf.key] = entry
        self._entries.move_to_end(leaf.key)
        if len(self._entries) > _MAX_CERTIFICATES:
            self._entries.popitem(last=False)
        return entry

    def _read(self, leaf: _Leaf) -> tuple[ClientIdentity | _Rejection, float, float]:
        """Read the rows and verify the issuer, in a thread; raise ClientNotAuthorized if that fails.

        Return the result and the ends of a new and of a kept connection.
        """
        newer_row: ClientIdentityRow | None = None
        with self._database.tenant_tx(leaf.tenant_id) as tx:
            row = tx.services.caller(leaf.serial)
            newest = None if row is None else tx.services.leaf(row.service)
            if newest is not None and newest.serial != leaf.serial:
                newer_row = tx.services.caller(newest.serial)
            trusted = [] if row is not None else [one for one in tx.certificates.authorities() if one.state in BELIEVED]
        if row is not None:
            _prove(leaf, row)
            ends = kept = _end(leaf, row)
            if newest is not None and newer_row is not None:
                kept = max(ends, _end_of_renewed(leaf, newest.certificate_pem, newer_row))
            return _evaluate(leaf, row), ends, kept
        if not any(_is_signed_by(leaf, authority.certificate_pem) for authority in trusted):
            _reject_issuer(leaf, "another issuer")
        ends = leaf.certificate.not_valid_after_utc.timestamp()
        return _Rejection("", ClientNotAuthorized, "not recorded"), ends, ends


@lru_cache(maxsize=_MAX_CERTIFICATES)
def _presented(certificate_der: bytes) -> _Leaf:
    """Parse a certificate; cached, because the same bytes give the same result."""
    try:
        certificate = x509.load_der_x509_certificate(certificate_der)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (dns,) = names.get_values_for_type(x509.DNSName)
        serial = hex_serial(certificate)
    except (ValueError, OverflowError, x509.ExtensionNotFound, x509.DuplicateExtension):
        raise ClientNotAuthorized from None
    tenant_id, _, domain = dns.partition(".")
    if domain != TENANT_DOMAIN or not re.fullmatch(TENANT_ID_PATTERN, tenant_id):
        raise ClientNotAuthorized
    return _Leaf(tenant_id, serial, hashlib.sha256(certificate_der).digest(), certificate)


def _prove(leaf: _Leaf, row: ClientIdentityRow) -> None:
    """Verify that the recorded CA of the leaf signed it directly and that the tenant's route names that CA.

    State and route change together; both are checked, so that a fault in one cannot admit what the other rejects.
    """
    authority = x509.load_pem_x509_certificate(row.authority_pem.encode())
    fingerprint = hashlib.sha256(authority.public_bytes(serialization.Encoding.DER)).hexdigest()
    if row.authority_state not in BELIEVED:
        _reject_issuer(leaf, "its authority has expired")
    if fingerprint not in {row.issuer_fingerprint, row.former_issuer_fingerprint}:
        _reject_issuer(leaf, "the route names another authority")
    if not _is_signed_by(leaf, row.authority_pem):
        _reject_issuer(leaf, "another issuer")


def _end(leaf: _Leaf, row: ClientIdentityRow) -> float:
    return min(row.not_after, leaf.certificate.not_valid_after_utc).timestamp()


def _end_of_renewed(leaf: _Leaf, newer_pem: str, newer_row: ClientIdentityRow) -> float:
    """Return the end of the service's newest certificate that is not revoked; 0 if it does not extend `leaf`."""
    try:
        newer = _presented(x509.load_pem_x509_certificate(newer_pem.encode()).public_bytes(serialization.Encoding.DER))
        _prove(newer, newer_row)
    except (ClientNotAuthorized, ValueError):
        return 0.0
    same = newer.tenant_id == leaf.tenant_id and newer.certificate.public_key() == leaf.certificate.public_key()
    return _end(newer, newer_row) if same else 0.0


def _is_signed_by(leaf: _Leaf, authority_pem: str) -> bool:
    try:
        leaf.certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority_pem.encode()))
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _reject_issuer(leaf: _Leaf, why: str) -> NoReturn:
    """Reject without an audit record: a tenant is not responsible for a certificate that its CA did not sign."""
    log.warning("issuer not verified", tenant_id=leaf.tenant_id, serial=leaf.serial, why=why)
    raise ClientNotAuthorized


def _evaluate(leaf: _Leaf, row: ClientIdentityRow) -> ClientIdentity | _Rejection:
    if row.revoked_at is not None:
        return _Rejection(row.service, ClientNotAuthorized, "revoked")
    if row.service_state is not ServiceState.CONNECTED:
        return _Rejection(row.service, ClientNotAuthorized, "service not connected")
    caller = ClientIdentity(
        leaf.tenant_id,
        row.service,
        row.l2_key,
        row.region,
        leaf.serial,
        row.tenant_state,
        revoked_keys_readable=row.revoked_keys_readable,
        resources_recorded=row.resources_recorded,
    )
    if row.tenant_state not in DECRYPTS:
        locked = caller if row.tenant_state is State.LOCKED else None
        return _Rejection(
            row.service, partial(TenantNotOperational, row.tenant_state), "tenant not operational", locked
        )
    return caller
