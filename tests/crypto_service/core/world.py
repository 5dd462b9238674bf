"""Tenants with a connected service, as the worker creates them, in a real database and a real key server."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar, cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from core import names as ids
from core.certificates import AuthorityState
from core.errors.compliance import AuditUnavailable
from core.keys.encryption_context import EncryptionContext, Purpose
from core.keys.rotation import KeyState
from core.tenants.lifecycle import State, Transition
from crypto_service.interfaces import AuditEntry, ClientIdentity
from crypto_service.keys.key_cache import ServiceKeyCache
from crypto_service.server.eager import start_eagerly
from database.certificates import AuthorityRow
from database.connection.database import Database
from database.keys import KeyVersionRow, ServiceKeyRow
from database.provisioning import RouteRow
from database.services.repository import ServiceCertificateRow
from kms.interfaces import RootKey
from kms.platform import PlatformRootKey
from openkcm.contract.services import ServiceKind
from tests.contracts.authorities import nothing_recorded, p256, request
from tests.crypto_service.authority import key_pem, pem, service_names, signed, write_files
from tests.database.builders import an_event
from tests.database.fixtures import Field
from tests.vault.server import Server
from vault.auth.tenant_tokens import InlineTenants, TenantTokens
from vault.pki.authorities import PkiAuthorities
from vault.pki.certificates import Authority
from vault.transit.root_keys import TransitRootKeys
from vault.transit.tenant_keys import TransitTenantKeys

REGION = "eu-west-1"
ADDRESS = "192.0.2.7"
HOUR = timedelta(hours=1)
Result = TypeVar("Result")
_numbers = count(1)


@dataclass
class Shelf:
    """A root key cache that returns the same root key for every tenant."""

    root: RootKey

    def platform(self, _region: str) -> RootKey:
        return self.root

    def held(self, *_of: str) -> RootKey:
        return self.root

    def forget(self, _tenant_id: str) -> None:
        pass


@dataclass
class Journal:
    """Stores audit entries; raises AuditUnavailable while it is `full`."""

    entries: list[AuditEntry] = field(default_factory=list)
    full: bool = False

    @property
    def is_failing(self) -> bool:
        return self.full

    async def write(self, entries: Sequence[AuditEntry]) -> None:
        if self.full:
            raise AuditUnavailable
        self.entries += entries

    def refusals(self) -> list[tuple[str, str, str]]:
        return [(entry.tenant_id, entry.operation, entry.refused) for entry in self.entries if entry.refused]


@dataclass
class Changes:
    """Change notifications that the test sends."""

    subscribers: list[Callable[[str | None], None]] = field(default_factory=list)

    def subscribe(self, forget: Callable[[str | None], None]) -> None:
        self.subscribers.append(forget)

    def tell(self, tenant: str | None) -> None:
        for forget in self.subscribers:
            forget(tenant)


@dataclass
class Clock:
    """A clock that the test sets."""

    now: float

    def __call__(self) -> float:
        return self.now


class CountingExecutor:
    """Runs blocking work in a thread and counts it; `after_first` runs before the first result is returned."""

    def __init__(self, after_first: Callable[[], Awaitable[None]] | None = None) -> None:
        self.count = 0
        self._after_first = after_first

    async def run(self, _tenant_id: str, work: Callable[[], Result]) -> Result:
        self.count += 1
        first = self.count == 1
        result = await asyncio.to_thread(work)
        if first and self._after_first is not None:
            await self._after_first()
        return result


async def never_locked(_tenant_id: str) -> bool:
    """Return that the key server has no lock of the tenant."""
    return False


async def ignore_unwrap(_tenant_id: str, _service: str, _version: int) -> None:
    """Ignore the notification of an unwrapped key."""


def at_once(call: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of a call that must not suspend."""
    result, rest = start_eagerly(call)
    assert rest is None, "the call was suspended"
    return cast("Result", result)


@dataclass(frozen=True)
class Home:
    """A tenant, its CA, and what a test needs to act for it."""

    world: "World"
    tenant_id: str
    authority: Authority

    @property
    def l2_key(self) -> str:
        return ids.l2_key(self.tenant_id)

    def caller(self, service: str = "orders", **changed: Any) -> ClientIdentity:
        caller = ClientIdentity(self.tenant_id, service, self.l2_key, REGION, "1a", State.ACTIVE)
        return replace(caller, **changed)

    def roll(self) -> "Home":
        """Activate another CA, with the current one as the former; return the tenant with the new CA."""
        before = self.authority
        made = self.world.authorities.ensure(self.tenant_id, nothing_recorded, before.key_version + 1)
        state = AuthorityState.PREPARED
        row = AuthorityRow(made.serial, made.certificate_pem, made.chain_pem, made.not_after, made.key_version, state)
        with self.world.worker.tenant_tx(self.tenant_id) as tx:
            tx.certificates.record_authority(row)
            tx.certificates.activate(row.serial)
            tx.routes.publish(RouteRow(self.l2_key, made.fingerprint, REGION, before.fingerprint))
        return replace(self, authority=made)

    def end(self, former: Authority) -> None:
        """Retire a former CA."""
        with self.world.worker.tenant_tx(self.tenant_id) as tx:
            assert tx.certificates.end(former.serial)
            tx.routes.publish(RouteRow(self.l2_key, self.authority.fingerprint, REGION))

    def move(self, move: Transition, back_to: State | None = None) -> None:
        with self.world.worker.tenant_tx(self.tenant_id) as tx:
            tx.tenants.move(move, back_to)

    def connect(self, service: str, generation: int = 1) -> bytes:
        """Connect a service; later generations reuse its key. Return its certificate in DER."""
        with self.world.worker.tenant_tx(self.tenant_id) as tx:
            tx.services.connect(service, ServiceKind.MICROSERVICE)
        if generation == 1:
            self.new_key(service, 1)
        certificate = self.certify(service, generation)
        with self.world.worker.tenant_tx(self.tenant_id) as tx:
            tx.services.connected(service)
        return certificate

    def disconnect(self, service: str) -> None:
        with self.world.worker.tenant_tx(self.tenant_id) as tx:
            tx.services.disconnect(service)

    def certify(self, service: str, generation: int, lifetime: timedelta = 72 * HOUR) -> bytes:
        """Issue and record another certificate of a service; return it in DER."""
        return der_of(self.issue(service, generation, p256(), lifetime))

    def issue(self, service: str, generation: int, key: ec.EllipticCurvePrivateKey, lifetime: timedelta = HOUR) -> str:
        """Issue and record a certificate for a key, as the workflow does; return it in PEM."""
        leaf = self.world.authorities.issue(self.authority, self.tenant_id, service, request(key), lifetime)
        found = x509.load_pem_x509_certificate(leaf.certificate_pem.encode())
        dates, pem = (found.not_valid_before_utc, found.not_valid_after_utc), leaf.certificate_pem
        row = ServiceCertificateRow(leaf.serial, service, generation, "request-1", pem, *dates, self.authority.serial)
        with self.world.worker.tenant_tx(self.tenant_id) as tx:
            tx.services.record_leaf(row)
        return pem

    def unrecorded(self, service: str) -> bytes:
        """Issue a certificate without recording it; return it in DER."""
        leaf = self.world.authorities.issue(self.authority, self.tenant_id, service, request(p256()), 72 * HOUR)
        return der_of(leaf.certificate_pem)

    def folder(self, path: Path, service: str, key: ec.EllipticCurvePrivateKey, https_port: int) -> Path:
        """Write the folder of a client with a recorded certificate for `key`."""
        certificate = self.issue(service, 2, key)
        authority, root = (pem(one) for one in x509.load_pem_x509_certificates(self.authority.chain_pem.encode()))
        files = {"client.key": key_pem(key), "client.pem": f"{certificate.strip()}\n{authority}", "ca.pem": root}
        return write_files(path, files, service, https_port)

    def wrapped_key(self, service: str, version: int) -> bytes:
        """Return a new wrapped L3, generated as by the worker: its plaintext never leaves the key server."""
        context = EncryptionContext(self.tenant_id, self.l2_key, service, Purpose.SERVICE_KEY, str(version))
        inner = self.world.tenant_keys.new_wrapped_key(context)
        return self.world.root.wrap(context, inner.encode("ascii"))

    def new_key(self, service: str, version: int, wrapped: bytes | None = None) -> None:
        """Create and activate a key version, as the worker does: prepared, then in place of the active one."""
        wrapped, root = wrapped or self.wrapped_key(service, version), ids.root_key(REGION)
        row = ServiceKeyRow(service, version, self.l2_key, "platform", root, wrapped, state=KeyState.PREPARED)
        with self.world.worker.tenant_tx(self.tenant_id) as tx:
            tx.services.record_key(row)
        self.update(service, "state = 'deactivated', deactivated_at = clock_timestamp()", "state = 'active'")
        self.update(service, "state = 'active', activated_at = clock_timestamp()", f"version = {version:d}")

    def compromised(self, service: str, version: int) -> None:
        self.update(service, "state = 'compromised'", f"version = {version:d}")

    def destroyed(self, service: str, version: int) -> None:
        gone = "state = 'destroyed', wrapped = null, destroyed_at = clock_timestamp()"
        self.update(service, gone, f"version = {version:d}")

    def update(self, service: str, change: str, where: str) -> None:
        with self.world.worker.raw_tx(self.tenant_id) as connection:
            connection.execute(f"update okcm.service_key set {change} where service = %s and {where}", [service])

    def version(self, service: str, version: int) -> KeyVersionRow:
        with self.world.worker.tenant_tx(self.tenant_id) as tx:
            found = {(row.service, row.version): row for row in list(tx.services.keys())}
        return found[service, version]


def der_of(certificate_pem: str) -> bytes:
    return x509.load_pem_x509_certificate(certificate_pem.encode()).public_bytes(Encoding.DER)


class World:
    def __init__(self, base: Field, vault: Server) -> None:
        self.field, self.vault = base, vault
        session = vault.session("worker")
        self.worker: Database = base.open("worker", max_size=2)
        self.crypto: Database = base.open("crypto", max_size=4)
        self.tenant_keys = TransitTenantKeys(session, TenantTokens(session, vault.identity_pem, "worker"))
        self.authorities = PkiAuthorities(session)
        root_keys = TransitRootKeys(session)
        root_keys.ensure(REGION)
        self.root = PlatformRootKey(root_keys, REGION)
        # The credentials of the crypto service: its own permissions, and the tenants' through inline tenants.
        self._own = own = vault.session("crypto")
        self.own_keys = TransitTenantKeys(own, InlineTenants(own, vault.identity_pem, "crypto"))
        self.own_root = PlatformRootKey(TransitRootKeys(own), REGION)

    def tenant(self, tenant_id: str = "") -> Home:
        """Return a new active tenant."""
        tenant_id = tenant_id or f"tenant-{next(_numbers)}-crypto"
        key = self.tenant_keys.ensure(tenant_id)
        authority = self.authorities.ensure(tenant_id, nothing_recorded)
        row = AuthorityRow(authority.serial, authority.certificate_pem, authority.chain_pem, authority.not_after)
        with self.worker.tenant_tx(tenant_id) as tx:
            tx.tenants.request(an_event(tenant_id))
            tx.tenants.move(Transition.PROVISION)
            tx.keys.record(key.name, "L2", key.version)
            tx.keys.record(ids.ca_key(tenant_id), "CA", 1)
            tx.certificates.record_authority(row)
            tx.routes.publish(RouteRow(key.name, authority.fingerprint, REGION))
            tx.tenants.move(Transition.ACTIVATE)
        return Home(self, tenant_id, authority)

    def key_server_calls(self) -> int:
        """Return the number of HTTP requests from the crypto service to the key server."""
        return int(self._own._client.adapter.session.num_requests)

    def key_server_requests(self) -> list[str]:
        """Return the paths of all requests in the key server's audit log."""
        lines = (self.vault.folder / "logs" / "audit.log").read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines]
        return [entry["request"]["path"] for entry in entries if entry["type"] == "request"]


def a_keyring(
    world: World, blocking: Any, changes: Any, clock: Callable[[], float] = monotonic, root: RootKey | None = None
) -> ServiceKeyCache:
    """Return a key cache with the credentials of the crypto service."""
    shelf = Shelf(root or world.own_root)
    return ServiceKeyCache(
        world.crypto, world.own_keys, shelf, blocking, changes, cache_seconds=60, opened=ignore_unwrap, monotonic=clock
    )


def signed_by(
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    tenant_id: str,
    service: str,
    serial: int,
) -> bytes:
    """Return a certificate in DER with the names of a leaf of this service, signed by `key`."""
    names = x509.SubjectAlternativeName(service_names(tenant_id, service))
    public, start = p256().public_key(), datetime.now(UTC) - HOUR
    made = signed(service, public, issuer, key, (names, False), start=start, life=2 * HOUR, serial=serial)
    return made.public_bytes(Encoding.DER)
