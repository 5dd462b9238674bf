"""Tenants with a connected service, as the worker leaves them, in a real database and a real key server."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from crypto.drive import Finished, begin
from crypto.interfaces import Entry
from database.connection import Database
from database.interfaces import AuthorityRow, KeyVersionRow, LeafRow, RouteRow, ServiceKeyRow
from keystores.interfaces import RootKey
from keystores.platform import PlatformRootKey
from tenancy import ids
from tenancy.authorities import AuthorityState
from tenancy.binding import Context, Purpose
from tenancy.errors import AuditUnavailable
from tenancy.lifecycle import Move, State
from tenancy.rotation import KeyState
from tenancy.services import ServiceKind
from tests.contracts.authorities import nothing_recorded, p256, request
from tests.database.builders import an_event
from tests.database.fixtures import Field
from tests.vault.server import Server
from vault.interfaces import Authority, Leaf
from vault.pki import PkiAuthorities
from vault.root_keys import TransitRootKeys
from vault.tokens import InlineTenants, TenantTokens
from vault.transit import TransitTenantKeys

REGION = "eu-west-1"
ADDRESS = "192.0.2.7"
Result = TypeVar("Result")
_numbers = count(1)


@dataclass
class Shelf:
    """One root key in the place of all."""

    root: RootKey

    def platform(self, _region: str) -> RootKey:
        return self.root

    def held(self, *_of: str) -> RootKey:
        return self.root

    def forget(self, _tenant_id: str) -> None:
        pass


@dataclass
class Journal:
    """Keeps what is written; refuses everything while it is `full`."""

    entries: list[Entry] = field(default_factory=list)
    full: bool = False

    async def write(self, entries: Sequence[Entry]) -> None:
        if self.full:
            raise AuditUnavailable
        self.entries += entries

    def refusals(self) -> list[tuple[str, str, str]]:
        return [(entry.tenant_id, entry.operation, entry.refused) for entry in self.entries if entry.refused]


@dataclass
class Changes:
    """Word of changes when the test says so."""

    subscribers: list[Callable[[str | None], None]] = field(default_factory=list)

    def subscribe(self, forget: Callable[[str | None], None]) -> None:
        self.subscribers.append(forget)

    def tell(self, tenant: str | None) -> None:
        for forget in self.subscribers:
            forget(tenant)


@dataclass
class Clock:
    """A clock that goes when it is told to."""

    now: float

    def __call__(self) -> float:
        return self.now


class Looking:
    """Runs what blocks in a thread and counts it; something may happen while the first answer is on its way."""

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


async def unheeded(_tenant_id: str, _service: str, _version: int) -> None:
    """Hear of an opened key where nobody asks about openings."""


def at_once(call: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of a call that must not give up the loop."""
    begun = begin(call)
    assert isinstance(begun, Finished), "the call gave up the loop"
    return begun.value


@dataclass(frozen=True)
class Home:
    """A tenant, its one authority, and what the test needs to act for it."""

    world: "World"
    tenant_id: str
    authority: Authority

    @property
    def l2_key(self) -> str:
        return ids.l2_key(self.tenant_id)

    def roll(self) -> "Home":
        """Put another authority in force, with this one the former; return the tenant as it is then."""
        before = self.authority
        made = self.world.authorities.ensure(self.tenant_id, nothing_recorded, before.key_version + 1)
        row = AuthorityRow(
            made.serial,
            made.certificate_pem,
            made.chain_pem,
            made.not_after,
            made.key_version,
            AuthorityState.PREPARED,
        )
        with self.world.worker.tenant_tx(self.tenant_id) as tx:
            tx.certificates.record_authority(row)
            tx.certificates.activate(row.serial)
            tx.routes.publish(RouteRow(self.l2_key, made.fingerprint, REGION, before.fingerprint))
        return replace(self, authority=made)

    def end(self, former: Authority) -> None:
        """End a former authority."""
        with self.world.worker.tenant_tx(self.tenant_id) as tx:
            assert tx.certificates.end(former.serial)
            tx.routes.publish(RouteRow(self.l2_key, self.authority.fingerprint, REGION))

    def move(self, move: Move, back_to: State | None = None) -> None:
        with self.world.worker.tenant_tx(self.tenant_id) as tx:
            tx.tenants.move(move, back_to)

    def connect(self, service: str) -> bytes:
        """Connect a service; return its certificate, DER."""
        with self.world.worker.tenant_tx(self.tenant_id) as tx:
            tx.services.connect(service, ServiceKind.MICROSERVICE)
        self.new_key(service, 1)
        certificate = self.certify(service, 1)
        with self.world.worker.tenant_tx(self.tenant_id) as tx:
            tx.services.connected(service)
        return certificate

    def connect_again(self, service: str, generation: int) -> bytes:
        """Bring a disconnected service back with a new certificate; return it, DER."""
        with self.world.worker.tenant_tx(self.tenant_id) as tx:
            tx.services.connect(service, ServiceKind.MICROSERVICE)
        certificate = self.certify(service, generation)
        with self.world.worker.tenant_tx(self.tenant_id) as tx:
            tx.services.connected(service)
        return certificate

    def disconnect(self, service: str) -> None:
        with self.world.worker.tenant_tx(self.tenant_id) as tx:
            tx.services.disconnect(service)

    def certify(self, service: str, generation: int, lifetime: timedelta = timedelta(hours=72)) -> bytes:
        """Put another certificate of a service on record."""
        leaf, der = self.unrecorded(service, lifetime)
        certificate = x509.load_der_x509_certificate(der)
        with self.world.worker.tenant_tx(self.tenant_id) as tx:
            tx.services.record_leaf(
                LeafRow(
                    leaf.serial,
                    service,
                    generation,
                    "request-1",
                    leaf.certificate_pem,
                    certificate.not_valid_before_utc,
                    certificate.not_valid_after_utc,
                    self.authority.serial,
                )
            )
        return der

    def unrecorded(self, service: str, lifetime: timedelta = timedelta(hours=72)) -> tuple[Leaf, bytes]:
        """Have a certificate issued, and put it nowhere on record."""
        leaf = self.world.authorities.issue(self.authority, self.tenant_id, service, request(p256()), lifetime)
        return leaf, x509.load_pem_x509_certificate(leaf.certificate_pem.encode()).public_bytes(Encoding.DER)

    def wrapped_key(self, service: str, version: int) -> bytes:
        """Make an L3 as the worker does: it is nowhere in the open."""
        context = Context(self.tenant_id, self.l2_key, service, Purpose.SERVICE_KEY, str(version))
        inner = self.world.tenant_keys.new_wrapped_key(context)
        return self.world.root.wrap(context, inner.encode("ascii"))

    def new_key(self, service: str, version: int, wrapped: bytes | None = None) -> None:
        """Make a version the active one, as the worker does: prepared, then in the place of the former one."""
        row = ServiceKeyRow(
            service,
            version,
            self.l2_key,
            "platform",
            ids.root_key(REGION),
            wrapped if wrapped is not None else self.wrapped_key(service, version),
            state=KeyState.PREPARED,
        )
        with self.world.worker.tenant_tx(self.tenant_id) as tx:
            tx.services.record_key(row)
        with self.world.worker.raw_tx(self.tenant_id) as connection:
            connection.execute(
                "update okcm.service_key set state = 'deactivated', deactivated_at = clock_timestamp()"
                " where service = %s and state = 'active'",
                [service],
            )
            connection.execute(
                "update okcm.service_key set state = 'active', activated_at = clock_timestamp()"
                " where service = %s and version = %s",
                [service, version],
            )

    def compromised(self, service: str, version: int) -> None:
        with self.world.worker.raw_tx(self.tenant_id) as connection:
            connection.execute(
                "update okcm.service_key set state = 'compromised' where service = %s and version = %s",
                [service, version],
            )

    def destroyed(self, service: str, version: int) -> None:
        with self.world.worker.raw_tx(self.tenant_id) as connection:
            connection.execute(
                "update okcm.service_key set state = 'destroyed', wrapped = null, destroyed_at = clock_timestamp()"
                " where service = %s and version = %s",
                [service, version],
            )

    def version(self, service: str, version: int) -> KeyVersionRow:
        with self.world.worker.tenant_tx(self.tenant_id) as tx:
            found = {(row.service, row.version): row for row in list(tx.services.keys())}
        return found[service, version]


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
        # What the crypto service has: rights of its own, and the tenants' by their identity.
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
            tx.tenants.move(Move.PROVISION)
            tx.keys.record(key.name, "L2", key.version)
            tx.keys.record(ids.ca_key(tenant_id), "CA", 1)
            tx.certificates.record_authority(row)
            tx.routes.publish(RouteRow(key.name, authority.fingerprint, REGION))
            tx.tenants.move(Move.ACTIVATE)
        return Home(self, tenant_id, authority)

    def key_server_calls(self) -> int:
        """Return how many HTTP requests the crypto service has sent to the key server."""
        return int(self._own._client.adapter.session.num_requests)

    def key_server_requests(self) -> list[str]:
        """Return the paths of all requests the key server has written into its audit log so far."""
        lines = (self.vault.folder / "logs" / "audit.log").read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines]
        return [entry["request"]["path"] for entry in entries if entry["type"] == "request"]


def signed_by(
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    tenant_id: str,
    service: str,
    serial: int,
    *,
    holder: ec.EllipticCurvePublicKey | None = None,
) -> bytes:
    """Return a certificate, DER, that says of itself what a leaf of this service says, signed by `key`."""
    now = datetime.now(UTC)
    dns, uri = ids.tenant_dns(tenant_id), ids.service_spiffe(tenant_id, service)
    builder = (
        x509.CertificateBuilder()
        .serial_number(serial)
        .issuer_name(issuer)
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, service)]))
        .public_key(holder or p256().public_key())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(dns), x509.UniformResourceIdentifier(uri)]), critical=False
        )
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
