"""Client certificate → caller.

1. TLS has verified the chain up to our root, the name constraints and the time (RFC 5280, section 6).
2. The leaf's one DNS name says in which tenant to look for its serial. It is believed no further than that.
3. The leaf is signed by the very authority that issued it by the tenant's records, whose SHA-256 is one that the
   tenant's route names: the current authority's, or the former's for as long as its leaves last. Only this makes it
   the tenant's: the *issuer* decides (MTCI A1). From here on a refusal goes into the tenant's audit stream.
4. The serial is on record, not revoked, and its service is connected; the service's name is taken from that record.
5. The tenant's state lets services in. Whom nothing but a lock keeps out may still fetch its next certificate
   (`locked`), as a caller of a locked tenant, for whom nothing opens.

What was found is kept for at most the cache time and looked up again when the tenant changed, so until then `refresh`
costs a look into memory. In use, it is looked up again when half of its time is over: a database that goes down leaves
at least the other half, whenever that is. The certificate's own end is looked at every time.
"""

import asyncio
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable
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
from core.errors.tenants import TenantNotOperational
from core.services import CryptoOperation, ServiceState
from core.tenants.lifecycle import DECRYPTS, State
from crypto_service.correlation import new_correlation_id
from crypto_service.interfaces import AuditEntry, AuditWriter, BlockingExecutor, ClientIdentity, Invalidations
from database.connection.database import Database
from database.postgres.notify import tenant_hash
from database.services.repository import ClientIdentityRow
from openkcm.contract.names import TENANT_DOMAIN, TENANT_ID_PATTERN
from openkcm.errors import OpenKcmError
from vault.pki.certificates import hex_serial

_MOST = 16_384
"""Certificates remembered; beyond it those that were not asked for the longest are forgotten."""
_RENEWAL_PAUSE = 5.0
"""Seconds between two looks at what is still good."""
_LOOKS = 3
"""How often a look is repeated because the tenant changed during it."""

Key: TypeAlias = tuple[str, str]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A presented certificate; `digest` is the SHA-256 of all of it."""

    tenant_id: str
    serial: str
    digest: bytes
    certificate: x509.Certificate

    @property
    def key(self) -> Key:
        return self.tenant_id, self.serial


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why somebody is not let in; `locked` is who it is where nothing but its tenant's lock is in the way."""

    service: str
    error: Callable[[], OpenKcmError]
    why: str
    locked: ClientIdentity | None = None


@dataclass(slots=True)
class _Tenant:
    """How often a tenant has changed since this process began: what was read before a change is old."""

    changes: int = 0


@dataclass(slots=True)
class _Known:
    """What was found for a certificate whose issuer is proven, and at which count of changes it was read."""

    leaf: _Leaf
    found: ClientIdentity | _Refusal
    not_after: float
    until: float
    tenant: _Tenant
    read_at: int
    renew_at: float


class ClientCertificateAuthenticator:
    """`interfaces.ClientAuthenticator` over the database. Used from one loop."""

    def __init__(  # noqa: PLR0913 - what it is made of, by name
        self,
        database: Database,
        blocking: BlockingExecutor,
        journal: AuditWriter,
        changes: Invalidations,
        *,
        cache_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._blocking = blocking
        self._journal = journal
        self._cache_seconds = cache_seconds
        self._monotonic = monotonic
        self._clock = clock
        self._known: OrderedDict[Key, _Known] = OrderedDict()
        self._looking: dict[Key, tuple[bytes, int, asyncio.Task[_Known]]] = {}
        self._tenants: dict[str, _Tenant] = {}
        changes.subscribe(self.forget)

    async def identify(self, certificate_der: bytes, address: str) -> ClientIdentity:
        """Return who presents a certificate whose chain TLS has verified.

        Raises: ClientNotAuthorized, TenantNotOperational; DatabaseUnavailable, DatabaseRefused, TooManyRequests,
        AuditUnavailable.
        """
        return await self._admit(_presented(certificate_der), address)

    async def refresh(self, caller: ClientIdentity) -> ClientIdentity:
        """Return the caller as it is now; raises as `identify`. Free while nothing changed."""
        known = self._known.get((caller.tenant_id, caller.serial))
        if known is None:  # pushed out by very many others: the client may present its certificate again
            raise ClientNotAuthorized
        found = known.found
        # The very same nearly always, and comparing two field by field costs as much as the rest of this.
        if (found is caller or found == caller) and self._is_fresh(known) and self._clock() < known.not_after:
            return caller
        return await self._admit(known.leaf, caller.address)

    async def locked(self, certificate_der: bytes) -> ClientIdentity:
        """Return whom `identify` has just refused, and put on record, for its tenant's lock and nothing else.

        Raises: ClientNotAuthorized; DatabaseUnavailable, DatabaseRefused, TooManyRequests.
        """
        leaf = _presented(certificate_der)
        known = await self._fresh(leaf)
        found = known.found
        if not isinstance(found, _Refusal) or found.locked is None or self._clock() >= known.not_after:
            raise ClientNotAuthorized
        return found.locked

    def forget(self, tenant: str | None) -> None:
        """Have what is known of a tenant (its `mark`), or of all, looked up again before it is next used."""
        if tenant is None:
            for one in self._tenants.values():
                one.changes += 1
        elif tenant in self._tenants:
            self._tenants[tenant].changes += 1

    async def _admit(self, leaf: _Leaf, address: str) -> ClientIdentity:
        known = await self._fresh(leaf)
        found = known.found
        if isinstance(found, ClientIdentity):
            if self._clock() < known.not_after:
                return found if found.address == address else replace(found, address=address)
            found = _Refusal(found.service, ClientNotAuthorized, "expired")
        error = found.error()
        await self._journal.write(
            (
                AuditEntry(
                    tenant_id=leaf.tenant_id,
                    service=found.service,
                    operation=CryptoOperation.CONNECT,
                    subject=f"certificate {leaf.serial}: {found.why}",
                    correlation_id=correlation_id.get() or new_correlation_id(),
                    source=address,
                    refused=error.code,
                ),
            )
        )
        raise error

    async def _fresh(self, leaf: _Leaf) -> _Known:
        known = self._known.get(leaf.key)
        if known is None or known.leaf.digest != leaf.digest or not self._is_fresh(known):
            known = await self._look(leaf)
        return known

    def _is_fresh(self, known: _Known) -> bool:
        now = self._monotonic()
        if known.read_at != known.tenant.changes or now >= known.until:
            return False
        if now >= known.renew_at:
            known.renew_at = now + _RENEWAL_PAUSE
            self._begin(known.leaf, known.tenant)  # nobody waits for it
        return True

    async def _look(self, leaf: _Leaf) -> _Known:
        """Look it up, once for all who ask meanwhile, and again when the tenant changed before the answer came.

        A tenant that never stops changing gets the last answer: its request was under way before the last change, and
        the next one looks again.
        """
        tenant = self._tenants.setdefault(tenant_hash(leaf.tenant_id), _Tenant())
        for _ in range(_LOOKS):
            digest, read_at, task = self._looking.get(leaf.key, (b"", -1, None))
            if task is None or digest != leaf.digest or read_at != tenant.changes:
                task = self._begin(leaf, tenant)
            known = await asyncio.shield(task)
            if known.read_at == tenant.changes:
                break
        return known

    def _begin(self, leaf: _Leaf, tenant: _Tenant) -> "asyncio.Task[_Known]":
        task = asyncio.get_running_loop().create_task(self._found(leaf, tenant))
        self._looking[leaf.key] = (leaf.digest, tenant.changes, task)
        task.add_done_callback(partial(self._looked, leaf.key))
        return task

    def _looked(self, key: Key, task: "asyncio.Task[_Known]") -> None:
        if key in self._looking and self._looking[key][2] is task:
            del self._looking[key]
        if not task.cancelled():
            task.exception()  # seen: whoever waits gets it, and all of them may have gone

    async def _found(self, leaf: _Leaf, tenant: _Tenant) -> _Known:
        # Both before the read: what changes or ages during it counts against the answer.
        read_at, until = tenant.changes, self._monotonic() + self._cache_seconds
        found, not_after = await self._blocking.run(leaf.tenant_id, partial(self._read, leaf))
        before = self._known.get(leaf.key)
        if before is not None and before.found == found:
            found = before.found  # the very same, by which open connections recognise it at once
        known = _Known(leaf, found, not_after, until, tenant, read_at, until - self._cache_seconds / 2)
        self._known[leaf.key] = known
        self._known.move_to_end(leaf.key)
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
        return known

    def _read(self, leaf: _Leaf) -> tuple[ClientIdentity | _Refusal, float]:
        """In a thread: read the rows and verify the issuer; raises ClientNotAuthorized when that fails."""
        with self._database.tenant_tx(leaf.tenant_id) as tx:
            row = tx.services.caller(leaf.serial)
            believed = (
                [] if row is not None else [one for one in tx.certificates.authorities() if one.state in BELIEVED]
            )
        if row is not None:
            _prove(leaf, row)
            ends = min(row.not_after, leaf.certificate.not_valid_after_utc)
            return _verdict(leaf, row), ends.timestamp()
        if not any(_signed(leaf, authority.certificate_pem) for authority in believed):
            _unproven(leaf, "another issuer")
        return _Refusal("", ClientNotAuthorized, "not on record"), leaf.certificate.not_valid_after_utc.timestamp()


@lru_cache(maxsize=_MOST)
def _presented(certificate_der: bytes) -> _Leaf:
    """Read a certificate; what comes of the same bytes is the same, so it is remembered."""
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
    """Return only when the leaf's authority on record is one that the route names and signed it, itself and directly.

    State and route change together; both are asked, so that neither alone lets in what the other has shut out.
    """
    authority = x509.load_pem_x509_certificate(row.authority_pem.encode())
    fingerprint = hashlib.sha256(authority.public_bytes(serialization.Encoding.DER)).hexdigest()
    if row.authority_state not in BELIEVED:
        _unproven(leaf, "its authority has ended")
    if fingerprint not in {row.issuer_fingerprint, row.former_issuer_fingerprint}:
        _unproven(leaf, "the route names another authority")
    if not _signed(leaf, row.authority_pem):
        _unproven(leaf, "another issuer")


def _signed(leaf: _Leaf, authority_pem: str) -> bool:
    try:
        leaf.certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority_pem.encode()))
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _unproven(leaf: _Leaf, why: str) -> NoReturn:
    """Refuse without a record: the tenant has nothing to do with a certificate that its authority did not sign."""
    log.warning("issuer not proven", tenant_id=leaf.tenant_id, serial=leaf.serial, why=why)
    raise ClientNotAuthorized


def _verdict(leaf: _Leaf, row: ClientIdentityRow) -> ClientIdentity | _Refusal:
    if row.revoked_at is not None:
        return _Refusal(row.service, ClientNotAuthorized, "revoked")
    if row.service_state is not ServiceState.CONNECTED:
        return _Refusal(row.service, ClientNotAuthorized, "service not connected")
    caller = ClientIdentity(leaf.tenant_id, row.service, row.l2_key, row.region, leaf.serial, row.tenant_state)
    if row.tenant_state not in DECRYPTS:
        locked = caller if row.tenant_state is State.LOCKED else None
        return _Refusal(row.service, partial(TenantNotOperational, row.tenant_state), "tenant closed", locked)
    return caller
