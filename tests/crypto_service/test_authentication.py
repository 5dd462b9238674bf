"""Who a certificate is, asked of a real database, with certificates of real tenant authorities."""

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
from core.errors.tenants import TenantNotOperational
from core.tenants.lifecycle import State, Transition
from crypto_service.authentication import ClientCertificateAuthenticator
from crypto_service.interfaces import ClientIdentity
from crypto_service.server.executor import FairExecutor
from database.postgres.notify import tenant_hash
from tests.concurrency import wait_until_async
from tests.contracts.authorities import p256
from tests.crypto_service.core.world import (
    ADDRESS,
    REGION,
    Changes,
    Clock,
    Home,
    Journal,
    Looking,
    World,
    at_once,
    signed_by,
)
from tests.crypto_service.https.authority import signed
from vault.pki.certificates import load_issuer

pytestmark = pytest.mark.integration


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def wall() -> Clock:
    return Clock(time.time())


@pytest.fixture
def callers(
    world: World, threads: FairExecutor, journal: Journal, changes: Changes, *, clock: Clock, wall: Clock
) -> ClientCertificateAuthenticator:
    return ClientCertificateAuthenticator(
        world.crypto, threads, journal, changes, cache_seconds=60, monotonic=clock, clock=wall
    )


@pytest.fixture
def home(world: World) -> Home:
    return world.tenant()


async def test_a_certificate_on_record_names_tenant_and_service(callers: ClientCertificateAuthenticator, home: Home):
    certificate = home.connect("orders")
    caller = await callers.identify(certificate, ADDRESS)
    serial = format(x509.load_der_x509_certificate(certificate).serial_number, "x")
    assert caller == ClientIdentity(home.tenant_id, "orders", home.l2_key, REGION, caller.serial, State.ACTIVE)
    assert caller.serial.lstrip("0") == serial
    assert caller.address == ADDRESS


async def test_the_second_time_and_refreshing_cost_nothing(
    callers: ClientCertificateAuthenticator, home: Home, world: World, journal: Journal
):
    certificate = home.connect("orders")
    caller = await callers.identify(certificate, ADDRESS)
    with world.field.server.offline(world.field.name):
        assert at_once(callers.identify(certificate, "198.51.100.1")).address == "198.51.100.1"
        assert at_once(callers.refresh(caller)) is caller
    assert journal.entries == []


async def test_after_the_cache_time_it_is_looked_up_again(
    callers: ClientCertificateAuthenticator, home: Home, clock: Clock
):
    caller = await callers.identify(home.connect("orders"), ADDRESS)
    home.disconnect("orders")
    clock.now += 59
    assert at_once(callers.refresh(caller)) is caller
    clock.now += 2
    with pytest.raises(ClientNotAuthorized):
        await callers.refresh(caller)


async def test_at_half_its_time_it_is_looked_up_again_and_nobody_waits(
    world: World, home: Home, journal: Journal, changes: Changes, clock: Clock
):
    """A database that goes down at any moment leaves at least the other half."""
    looks = Looking()
    callers = ClientCertificateAuthenticator(world.crypto, looks, journal, changes, cache_seconds=60, monotonic=clock)
    certificate = home.connect("orders")
    found = await asyncio.gather(*(callers.identify(certificate, str(number)) for number in range(50)))
    assert {caller.address for caller in found} == {str(number) for number in range(50)}
    assert len(set(found)) == looks.count == 1  # many who ask at once are answered by one look
    caller = found[0]
    clock.now += 29
    assert at_once(callers.refresh(caller)) is caller
    clock.now += 2
    assert at_once(callers.refresh(caller)) is caller
    await wait_until_async(lambda: callers._known[home.tenant_id, caller.serial].until >= clock.now + 59)
    assert looks.count == 2
    with world.field.server.offline(world.field.name):
        clock.now += 45  # past the next half, which finds no database, and within its time
        assert at_once(callers.refresh(caller)) is caller
        await asyncio.sleep(0.1)
        clock.now += 10
        assert at_once(callers.refresh(caller)) is caller
        clock.now += 6
        with pytest.raises(DatabaseUnavailable):
            await callers.refresh(caller)


@pytest.mark.parametrize("word", ["of the tenant", "of everything"])
async def test_word_of_a_change_makes_the_next_answer_a_new_one(
    callers: ClientCertificateAuthenticator, home: Home, changes: Changes, word: str
):
    caller, told = await callers.identify(home.connect("orders"), ADDRESS), tenant_hash(home.tenant_id)
    home.move(Transition.SUSPEND)
    changes.tell(tenant_hash("somebody-else"))
    assert at_once(callers.refresh(caller)).tenant_state is State.ACTIVE
    changes.tell(told if word == "of the tenant" else None)
    fresh = await callers.refresh(caller)
    assert (fresh, fresh.address) == (replace(caller, tenant_state=State.SUSPENDED), ADDRESS)
    assert at_once(callers.refresh(caller)) == fresh
    home.move(Transition.LOCK)
    changes.tell(told if word == "of the tenant" else None)
    with pytest.raises(TenantNotOperational):
        await callers.refresh(caller)


async def test_a_locked_tenant_is_closed_and_the_denial_is_in_its_stream(
    callers: ClientCertificateAuthenticator, home: Home, journal: Journal
):
    certificate = home.connect("orders")
    home.move(Transition.LOCK)
    for _ in range(2):
        with pytest.raises(TenantNotOperational):
            await callers.identify(certificate, ADDRESS)
    journal.full = True
    with pytest.raises(AuditUnavailable):  # no denial without its record
        await callers.identify(certificate, ADDRESS)
    assert journal.refusals() == [(home.tenant_id, "connect", "tenant_closed")] * 2
    assert {(entry.service, entry.source) for entry in journal.entries} == {("orders", ADDRESS)}
    assert journal.entries[0].correlation_id
    assert journal.entries[0].subject.endswith(": tenant closed")


async def test_locked_returns_a_caller_only_where_nothing_but_the_lock_refuses_it(
    callers: ClientCertificateAuthenticator, home: Home, changes: Changes, wall: Clock
):
    certificate = home.connect("orders")
    caller = await callers.identify(certificate, ADDRESS)
    with pytest.raises(ClientNotAuthorized):  # nothing keeps it out
        await callers.locked(certificate)
    home.move(Transition.LOCK)
    changes.tell(tenant_hash(home.tenant_id))
    assert await callers.locked(certificate) == replace(caller, tenant_state=State.LOCKED, address="")
    with pytest.raises(TenantNotOperational):
        await callers.refresh(caller)
    now, wall.now = wall.now, wall.now + 73 * 3600
    with pytest.raises(ClientNotAuthorized):
        await callers.locked(certificate)
    wall.now = now
    for close in (lambda: home.move(Transition.LEAVE), lambda: home.disconnect("orders")):
        close()
        changes.tell(tenant_hash(home.tenant_id))
        with pytest.raises(ClientNotAuthorized):
            await callers.locked(certificate)


async def test_a_disconnected_service_is_refused_with_every_certificate_it_had_until_it_is_connected_again(
    callers: ClientCertificateAuthenticator, home: Home, journal: Journal, changes: Changes
):
    certificates = [home.connect("orders"), home.certify("orders", 2)]
    home.disconnect("orders")
    for certificate in certificates:
        with pytest.raises(ClientNotAuthorized):
            await callers.identify(certificate, ADDRESS)
    assert journal.refusals() == [(home.tenant_id, "connect", "caller_refused")] * 2
    assert all(entry.subject.endswith(": revoked") for entry in journal.entries)
    renewed = home.connect("orders", 3)
    changes.tell(tenant_hash(home.tenant_id))
    assert (await callers.identify(renewed, ADDRESS)).service == "orders"
    with pytest.raises(ClientNotAuthorized):  # what was revoked stays so
        await callers.identify(certificates[0], ADDRESS)


async def test_a_certificate_without_a_record_of_its_tenant_is_refused_in_its_stream(
    callers: ClientCertificateAuthenticator, world: World, home: Home, journal: Journal
):
    home.connect("orders")
    serial = x509.load_der_x509_certificate(world.tenant().connect("orders")).serial_number
    own = load_issuer(world.vault.session("worker"), home.tenant_id, home.authority.certificate_pem, 1)
    others = signed_by(own.certificate.subject, own.key, home.tenant_id, "orders", serial)
    for certificate in (home.unrecorded("orders"), others):
        with pytest.raises(ClientNotAuthorized):
            await callers.identify(certificate, ADDRESS)
    assert journal.refusals() == [(home.tenant_id, "connect", "caller_refused")] * 2


async def test_only_a_certificate_that_the_named_tenants_authority_signed_is_believed(
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
    # No tenant is proven, so no stream has a record; and the record of the true certificate is untouched.
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
async def test_a_certificate_without_exactly_one_tenants_name_is_refused(names: tuple[str, ...]):
    nothing, journal, key = cast("Any", None), Journal(), p256()
    callers = ClientCertificateAuthenticator(nothing, nothing, journal, Changes(), cache_seconds=60)
    extensions = [(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False)] if names else []
    now, day = datetime.now(UTC), timedelta(days=1)
    certificate = signed("orders", key.public_key(), None, key, *extensions, start=now, life=day)
    for shown in (certificate.public_bytes(Encoding.DER), b"", b"\x30", b"\x30\x82\xff\xff", bytes(2000)):
        with pytest.raises(ClientNotAuthorized):
            await callers.identify(shown, ADDRESS)
    assert journal.entries == []


async def test_a_certificate_ends_on_an_open_connection_too(
    callers: ClientCertificateAuthenticator, home: Home, wall: Clock, journal: Journal
):
    caller = await callers.identify(home.connect("orders"), ADDRESS)
    wall.now += timedelta(hours=71).total_seconds()
    assert at_once(callers.refresh(caller)) is caller
    wall.now += timedelta(hours=2).total_seconds()
    with pytest.raises(ClientNotAuthorized):
        at_once(callers.refresh(caller))
    assert journal.refusals() == [(home.tenant_id, "connect", "caller_refused")]


async def test_without_a_route_to_its_authority_a_tenants_callers_are_refused(
    callers: ClientCertificateAuthenticator, home: Home, world: World, changes: Changes
):
    certificate = home.connect("orders")
    caller = await callers.identify(certificate, ADDRESS)
    with world.worker.tenant_tx(home.tenant_id) as tx:
        route = tx.routes.get()
        assert route is not None
        tx.routes.publish(replace(route, issuer_fingerprint="ab" * 32))
    changes.tell(tenant_hash(home.tenant_id))
    with pytest.raises(ClientNotAuthorized):
        await callers.identify(certificate, ADDRESS)
    with world.worker.tenant_tx(home.tenant_id) as tx:
        tx.routes.withdraw()
    changes.tell(tenant_hash(home.tenant_id))
    with pytest.raises(ClientNotAuthorized):
        await callers.refresh(caller)


async def test_a_database_that_is_away_is_said_and_not_remembered(
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


async def test_a_change_during_the_look_is_looked_at_before_the_answer(
    world: World, home: Home, journal: Journal, changes: Changes
):
    certificate = home.connect("orders")

    async def lock() -> None:
        await asyncio.to_thread(home.move, Transition.LOCK)
        changes.tell(tenant_hash(home.tenant_id))

    looks = Looking(after_first=lock)
    callers = ClientCertificateAuthenticator(world.crypto, looks, journal, changes, cache_seconds=60)
    with pytest.raises(TenantNotOperational):
        await callers.identify(certificate, ADDRESS)
    assert looks.count == 2


async def test_who_was_never_identified_is_not_refreshed(callers: ClientCertificateAuthenticator, home: Home):
    stranger = ClientIdentity(home.tenant_id, "orders", ids.l2_key(home.tenant_id), REGION, "1a", State.ACTIVE)
    with pytest.raises(ClientNotAuthorized):
        await callers.refresh(stranger)
