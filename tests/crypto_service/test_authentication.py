"""Identification of callers with a real database and certificates of real tenant CAs."""

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from core import names as ids
from core.errors.compliance import AuditUnavailable
from core.errors.platform import DatabaseUnavailable
from core.errors.services import ClientNotAuthorized
from core.errors.tenants import LockedAtKeyServer, TenantNotOperational
from core.tenants.lifecycle import State, Transition
from core.tenants.policy import TenantPolicy
from crypto_service.authentication import ClientCertificateAuthenticator
from crypto_service.interfaces import ClientIdentity
from crypto_service.server.executor import FairExecutor
from database.postgres.change_feed import tenant_hash
from tests.concurrency import wait_until_async
from tests.contracts.authorities import p256
from tests.crypto_service.authority import signed
from tests.crypto_service.core.world import (
    ADDRESS,
    REGION,
    Changes,
    Clock,
    CountingExecutor,
    Home,
    Journal,
    World,
    at_once,
    never_locked,
    signed_by,
)
from tests.crypto_service.reference_cycles import fewer_objects_in_cycles_than
from vault.pki.certificates import load_issuer

pytestmark = pytest.mark.integration


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def wall_clock() -> Clock:
    return Clock(time.time())


@pytest.fixture
def callers(
    world: World, threads: FairExecutor, journal: Journal, changes: Changes, *, clock: Clock, wall_clock: Clock
) -> ClientCertificateAuthenticator:
    return ClientCertificateAuthenticator(
        world.crypto,
        threads,
        journal,
        changes,
        is_locked=never_locked,
        cache_seconds=60,
        monotonic=clock,
        clock=wall_clock,
    )


@pytest.fixture
def home(world: World) -> Home:
    return world.tenant()


async def test_recorded_certificate_identifies_tenant_and_service(callers: ClientCertificateAuthenticator, home: Home):
    certificate = home.connect("orders")
    caller = await callers.identify(certificate, ADDRESS)
    serial = format(x509.load_der_x509_certificate(certificate).serial_number, "x")
    assert caller == ClientIdentity(home.tenant_id, "orders", home.l2_key, REGION, caller.serial, State.ACTIVE)
    assert caller.serial.lstrip("0") == serial
    assert caller.address == ADDRESS


async def test_policy_for_revoked_keys_reaches_an_open_connection(
    callers: ClientCertificateAuthenticator, home: Home, world: World, changes: Changes
):
    caller = await callers.identify(home.connect("orders"), ADDRESS)
    for readable in (False, True, False):
        with world.worker.tenant_tx(home.tenant_id) as tx:
            tx.policy.set(TenantPolicy(revoked_keys_readable=readable))
        changes.tell(tenant_hash(home.tenant_id))
        caller = await callers.refresh(caller)
        assert caller.revoked_keys_readable is readable


async def test_policy_for_recorded_resources_reaches_only_the_connections_of_its_tenant(
    callers: ClientCertificateAuthenticator, home: Home, world: World, changes: Changes
):
    caller, other = [await callers.identify(one.connect("orders"), ADDRESS) for one in (home, world.tenant())]
    for recorded in (False, True, False):
        with world.worker.tenant_tx(home.tenant_id) as tx:
            tx.policy.set(TenantPolicy(resources_recorded=recorded))
        changes.tell(tenant_hash(home.tenant_id))
        changes.tell(tenant_hash(other.tenant_id))
        caller, other = await callers.refresh(caller), await callers.refresh(other)
        assert (caller.resources_recorded, other.resources_recorded) == (recorded, False)


async def test_repeated_identification_and_refresh_need_no_database(
    callers: ClientCertificateAuthenticator, home: Home, world: World, journal: Journal
):
    certificate = home.connect("orders")
    caller = await callers.identify(certificate, ADDRESS)
    with world.field.server.offline(world.field.name):
        assert at_once(callers.identify(certificate, "198.51.100.1")).address == "198.51.100.1"
        assert at_once(callers.refresh(caller)) is caller
    assert journal.entries == []


async def test_caller_is_read_again_after_the_cache_time(
    callers: ClientCertificateAuthenticator, home: Home, clock: Clock
):
    caller = await callers.identify(home.connect("orders"), ADDRESS)
    home.disconnect("orders")
    clock.now += 59
    assert at_once(callers.refresh(caller)) is caller
    clock.now += 2
    with pytest.raises(ClientNotAuthorized):
        await callers.refresh(caller)


async def test_caller_is_read_again_in_the_background_after_half_the_cache_time(
    world: World, home: Home, journal: Journal, changes: Changes, clock: Clock
):
    """After a failure of the database at any moment, at least the other half of the cache time remains."""
    executor = CountingExecutor()
    callers = ClientCertificateAuthenticator(
        world.crypto, executor, journal, changes, is_locked=never_locked, cache_seconds=60, monotonic=clock
    )
    certificate = home.connect("orders")
    found = await asyncio.gather(*(callers.identify(certificate, str(number)) for number in range(50)))
    assert {caller.address for caller in found} == {str(number) for number in range(50)}
    assert len(set(found)) == executor.count == 1  # concurrent callers share one read
    caller = found[0]
    clock.now += 29
    assert at_once(callers.refresh(caller)) is caller
    clock.now += 2
    assert at_once(callers.refresh(caller)) is caller
    await wait_until_async(lambda: callers._entries[home.tenant_id, caller.serial].until >= clock.now + 59)
    assert executor.count == 2
    with world.field.server.offline(world.field.name):
        clock.now += 45  # after half of the cache time, when the renewal fails, but within the cache time
        assert at_once(callers.refresh(caller)) is caller
        await asyncio.sleep(0.1)
        clock.now += 10
        assert at_once(callers.refresh(caller)) is caller
        clock.now += 6
        with pytest.raises(DatabaseUnavailable):
            await callers.refresh(caller)


@pytest.mark.parametrize("word", ["of the tenant", "of everything"])
async def test_caller_is_read_again_after_a_notification(
    callers: ClientCertificateAuthenticator, home: Home, changes: Changes, word: str
):
    caller, marker = await callers.identify(home.connect("orders"), ADDRESS), tenant_hash(home.tenant_id)
    home.move(Transition.SUSPEND)
    changes.tell(tenant_hash("other-tenant"))
    assert at_once(callers.refresh(caller)).tenant_state is State.ACTIVE
    changes.tell(marker if word == "of the tenant" else None)
    fresh = await callers.refresh(caller)
    assert (fresh, fresh.address) == (replace(caller, tenant_state=State.SUSPENDED), ADDRESS)
    assert at_once(callers.refresh(caller)) == fresh
    home.move(Transition.LOCK)
    changes.tell(marker if word == "of the tenant" else None)
    with pytest.raises(TenantNotOperational):
        await callers.refresh(caller)


async def test_locked_tenant_is_rejected_and_the_rejection_recorded(
    callers: ClientCertificateAuthenticator, home: Home, journal: Journal
):
    certificate = home.connect("orders")
    home.move(Transition.LOCK)
    for _ in range(2):
        with pytest.raises(TenantNotOperational):
            await callers.identify(certificate, ADDRESS)
    journal.full = True
    with pytest.raises(AuditUnavailable):  # no rejection without its audit entry
        await callers.identify(certificate, ADDRESS)
    assert journal.refusals() == [(home.tenant_id, "connect", "tenant_not_operational")] * 2
    assert {(entry.service, entry.source) for entry in journal.entries} == {("orders", ADDRESS)}
    assert journal.entries[0].correlation_id
    assert journal.entries[0].subject.endswith(": tenant not operational")


async def test_rejection_is_read_again_soon_without_a_notification(
    world: World, home: Home, journal: Journal, changes: Changes, clock: Clock
):
    executor = CountingExecutor()
    callers = ClientCertificateAuthenticator(
        world.crypto, executor, journal, changes, is_locked=never_locked, cache_seconds=60, monotonic=clock
    )
    certificate = home.connect("orders")
    home.move(Transition.LOCK)
    for _ in range(3):
        with pytest.raises(TenantNotOperational):
            await callers.identify(certificate, ADDRESS)
    assert executor.count == 1
    home.move(Transition.UNLOCK, State.ACTIVE)
    clock.now += 0.1
    assert (await callers.identify(certificate, ADDRESS)).service == "orders"


async def test_locked_returns_a_caller_only_if_the_lock_is_the_only_reason(
    callers: ClientCertificateAuthenticator, home: Home, changes: Changes, wall_clock: Clock
):
    certificate = home.connect("orders")
    caller = await callers.identify(certificate, ADDRESS)
    with pytest.raises(ClientNotAuthorized):  # it is not rejected at all
        await callers.locked(certificate)
    home.move(Transition.LOCK)
    changes.tell(tenant_hash(home.tenant_id))
    assert await callers.locked(certificate) == replace(caller, tenant_state=State.LOCKED, address="")
    with pytest.raises(TenantNotOperational):
        await callers.refresh(caller)
    now, wall_clock.now = wall_clock.now, wall_clock.now + 73 * 3600
    with pytest.raises(ClientNotAuthorized):
        await callers.locked(certificate)
    wall_clock.now = now
    for close in (lambda: home.move(Transition.LEAVE), lambda: home.disconnect("orders")):
        close()
        changes.tell(tenant_hash(home.tenant_id))
        with pytest.raises(ClientNotAuthorized):
            await callers.locked(certificate)


async def test_rejections_leave_no_reference_cycles(callers: ClientCertificateAuthenticator, home: Home):
    certificate = home.connect("orders")
    home.disconnect("orders")
    with fewer_objects_in_cycles_than(100):
        for _ in range(100):
            with pytest.raises(ClientNotAuthorized):
                await callers.identify(certificate, ADDRESS)


async def test_disconnected_service_is_rejected_with_all_certificates_until_reconnected(
    callers: ClientCertificateAuthenticator, home: Home, journal: Journal, changes: Changes
):
    certificates = [home.connect("orders"), home.certify("orders", 2)]
    home.disconnect("orders")
    for certificate in certificates:
        with pytest.raises(ClientNotAuthorized):
            await callers.identify(certificate, ADDRESS)
    assert journal.refusals() == [(home.tenant_id, "connect", "client_not_authorized")] * 2
    assert all(entry.subject.endswith(": revoked") for entry in journal.entries)
    renewed = home.connect("orders", 3)
    changes.tell(tenant_hash(home.tenant_id))
    assert (await callers.identify(renewed, ADDRESS)).service == "orders"
    with pytest.raises(ClientNotAuthorized):  # a revocation is permanent
        await callers.identify(certificates[0], ADDRESS)


async def test_unrecorded_certificate_is_rejected_and_the_rejection_recorded(
    callers: ClientCertificateAuthenticator, world: World, home: Home, journal: Journal
):
    home.connect("orders")
    serial = x509.load_der_x509_certificate(world.tenant().connect("orders")).serial_number
    own = load_issuer(world.vault.session("worker"), home.tenant_id, home.authority.certificate_pem, 1)
    others = signed_by(own.certificate.subject, own.key, home.tenant_id, "orders", serial)
    for certificate in (home.unrecorded("orders"), others):
        with pytest.raises(ClientNotAuthorized):
            await callers.identify(certificate, ADDRESS)
    assert journal.refusals() == [(home.tenant_id, "connect", "client_not_authorized")] * 2


async def test_certificate_not_signed_by_the_named_tenants_ca_is_rejected(
    callers: ClientCertificateAuthenticator, world: World, home: Home, journal: Journal
):
    serial = x509.load_der_x509_certificate(home.connect("orders")).serial_number
    other = world.tenant()
    own, foreign = (
        load_issuer(world.vault.session("worker"), one.tenant_id, one.authority.certificate_pem, 1)
        for one in (home, other)
    )
    name = own.certificate.subject
    attacks = {
        "self-signed": signed_by(name, p256(), home.tenant_id, "orders", serial),
        "by another tenant's authority": signed_by(
            foreign.certificate.subject, foreign.key, home.tenant_id, "orders", serial
        ),
        "by it, under this one's name": signed_by(name, foreign.key, home.tenant_id, "orders", serial),
        "by this one, for another tenant's name": signed_by(name, own.key, other.tenant_id, "orders", serial),
    }
    for certificate in attacks.values():
        with pytest.raises(ClientNotAuthorized):
            await callers.identify(certificate, ADDRESS)
    # No tenant is verified, so no stream has a record; and the record of the valid certificate is unchanged.
    assert journal.entries == []


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("example.com",),
        ("acme.tenants.openkcm.internal.example.com",),
        ("tenants.openkcm.internal",),
        ("x.acme.tenants.openkcm.internal",),
        ("*.tenants.openkcm.internal",),
        ("ACME.tenants.openkcm.internal",),
        ("acme.tenants.openkcm.internal", "beta.tenants.openkcm.internal"),
    ],
)
async def test_certificate_without_exactly_one_tenant_name_is_rejected(names: tuple[str, ...]):
    nothing, journal, key = cast("Any", None), Journal(), p256()
    callers = ClientCertificateAuthenticator(
        nothing, nothing, journal, Changes(), is_locked=never_locked, cache_seconds=60
    )
    extensions = [(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False)] if names else []
    now, day = datetime.now(UTC), timedelta(days=1)
    certificate = signed("orders", key.public_key(), None, key, *extensions, start=now, life=day)
    for shown in (certificate.public_bytes(Encoding.DER), b"", b"\x30", b"\x30\x82\xff\xff", bytes(2000)):
        with pytest.raises(ClientNotAuthorized):
            await callers.identify(shown, ADDRESS)
    assert journal.entries == []


async def test_certificate_expires_on_an_open_connection_too(
    callers: ClientCertificateAuthenticator, home: Home, wall_clock: Clock, journal: Journal
):
    caller = await callers.identify(home.connect("orders"), ADDRESS)
    wall_clock.now += timedelta(hours=71).total_seconds()
    assert at_once(callers.refresh(caller)) is caller
    wall_clock.now += timedelta(hours=2).total_seconds()
    with pytest.raises(ClientNotAuthorized):
        at_once(callers.refresh(caller))
    assert journal.refusals() == [(home.tenant_id, "connect", "client_not_authorized")]


async def test_callers_are_rejected_without_a_route_to_their_ca(
    callers: ClientCertificateAuthenticator, home: Home, world: World, changes: Changes
):
    certificate = home.connect("orders")
    caller = await callers.identify(certificate, ADDRESS)
    with world.worker.tenant_tx(home.tenant_id) as tx:
        route = tx.routes.get()
        assert route is not None
        tx.routes.publish(route._replace(issuer_fingerprint="ab" * 32))
    changes.tell(tenant_hash(home.tenant_id))
    with pytest.raises(ClientNotAuthorized):
        await callers.identify(certificate, ADDRESS)
    with world.worker.tenant_tx(home.tenant_id) as tx:
        tx.routes.withdraw()
    changes.tell(tenant_hash(home.tenant_id))
    with pytest.raises(ClientNotAuthorized):
        await callers.refresh(caller)


async def test_database_failure_is_raised_and_not_cached(
    callers: ClientCertificateAuthenticator, home: Home, world: World, changes: Changes
):
    certificate = home.connect("orders")
    with world.field.server.offline(world.field.name), pytest.raises(DatabaseUnavailable):
        await callers.identify(certificate, ADDRESS)
    caller = await callers.identify(certificate, ADDRESS)
    changes.tell(None)
    with world.field.server.offline(world.field.name), pytest.raises(DatabaseUnavailable):
        await callers.refresh(caller)
    assert await callers.refresh(caller) == caller


async def test_change_during_a_read_repeats_the_read(world: World, home: Home, journal: Journal, changes: Changes):
    certificate = home.connect("orders")

    async def lock() -> None:
        await asyncio.to_thread(home.move, Transition.LOCK)
        changes.tell(tenant_hash(home.tenant_id))

    executor = CountingExecutor(after_first=lock)
    callers = ClientCertificateAuthenticator(
        world.crypto, executor, journal, changes, is_locked=never_locked, cache_seconds=60
    )
    with pytest.raises(TenantNotOperational):
        await callers.identify(certificate, ADDRESS)
    assert executor.count == 2


async def test_refresh_rejects_an_unidentified_caller(callers: ClientCertificateAuthenticator, home: Home):
    unidentified = ClientIdentity(home.tenant_id, "orders", ids.l2_key(home.tenant_id), REGION, "1a", State.ACTIVE)
    with pytest.raises(ClientNotAuthorized):
        await callers.refresh(unidentified)


async def test_lock_of_the_key_server_rejects_a_caller_that_the_database_admits(
    world: World, home: Home, journal: Journal, changes: Changes
):
    locked = True

    async def is_locked(tenant_id: str) -> bool:
        return locked and tenant_id == home.tenant_id

    callers = ClientCertificateAuthenticator(
        world.crypto, CountingExecutor(), journal, changes, is_locked=is_locked, cache_seconds=60
    )
    certificate = home.connect("orders")
    with pytest.raises(LockedAtKeyServer):
        await callers.identify(certificate, ADDRESS)
    (entry,) = journal.entries
    assert (entry.refused, entry.subject.endswith("locked at the key server")) == ("locked_at_key_server", True)
    with pytest.raises(ClientNotAuthorized):
        await callers.locked(certificate)
    locked = False
    changes.tell(tenant_hash(home.tenant_id))
    caller = await callers.identify(certificate, ADDRESS)
    locked = True
    assert at_once(callers.refresh(caller)) is caller
    changes.tell(None)  # as after each connection to a restored database
    with pytest.raises(LockedAtKeyServer):
        await callers.refresh(caller)
