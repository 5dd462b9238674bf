"""Who a certificate is, asked of a real database, with certificates of real tenant authorities."""

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from crypto.blocking import FairThreads
from crypto.callers import CertificateCallers
from crypto.interfaces import Caller
from database.interfaces import mark
from tenancy import ids
from tenancy.errors import AuditUnavailable, CallerRefused, DatabaseUnavailable, TenantClosed
from tenancy.lifecycle import Move, State
from tests.contracts.authorities import p256
from tests.crypto.core.world import ADDRESS, REGION, Changes, Clock, Home, Journal, Looking, World, at_once, signed_by
from vault.certificates import load_issuer


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def wall() -> Clock:
    return Clock(time.time())


@pytest.fixture
def callers(
    world: World, threads: FairThreads, journal: Journal, changes: Changes, *, clock: Clock, wall: Clock
) -> CertificateCallers:
    return CertificateCallers(world.crypto, threads, journal, changes, cache_seconds=60, monotonic=clock, clock=wall)


@pytest.fixture
def home(world: World) -> Home:
    return world.tenant()


async def test_a_certificate_on_record_names_tenant_and_service(callers: CertificateCallers, home: Home) -> None:
    certificate = home.connect("orders")
    caller = await callers.identify(certificate, ADDRESS)
    serial = format(x509.load_der_x509_certificate(certificate).serial_number, "x")
    assert caller == Caller(home.tenant_id, "orders", home.l2_key, REGION, caller.serial, State.ACTIVE)
    assert caller.serial.lstrip("0") == serial
    assert caller.address == ADDRESS


async def test_the_second_time_and_refreshing_cost_nothing(
    callers: CertificateCallers, home: Home, world: World, journal: Journal
) -> None:
    certificate = home.connect("orders")
    caller = await callers.identify(certificate, ADDRESS)
    with world.field.server.offline(world.field.name):
        assert at_once(callers.identify(certificate, "198.51.100.1")).address == "198.51.100.1"
        assert at_once(callers.refresh(caller)) is caller
    assert journal.entries == []


async def test_many_who_ask_at_once_are_answered_by_one_look(
    world: World, home: Home, journal: Journal, changes: Changes
) -> None:
    looks = Looking()
    callers = CertificateCallers(world.crypto, looks, journal, changes, cache_seconds=60)
    certificate = home.connect("orders")
    found = await asyncio.gather(*(callers.identify(certificate, str(number)) for number in range(50)))
    assert {caller.address for caller in found} == {str(number) for number in range(50)}
    assert len(set(found)) == looks.count == 1


async def test_after_the_cache_time_it_is_looked_up_again(
    callers: CertificateCallers, home: Home, clock: Clock
) -> None:
    caller = await callers.identify(home.connect("orders"), ADDRESS)
    home.disconnect("orders")
    clock.now += 59
    assert at_once(callers.refresh(caller)) is caller
    clock.now += 2
    with pytest.raises(CallerRefused):
        await callers.refresh(caller)


async def test_at_half_its_time_it_is_looked_up_again_and_nobody_waits(
    world: World, home: Home, journal: Journal, changes: Changes, clock: Clock
) -> None:
    """A database that goes down at any moment leaves at least the other half."""
    looks = Looking()
    callers = CertificateCallers(world.crypto, looks, journal, changes, cache_seconds=60, monotonic=clock)
    caller = await callers.identify(home.connect("orders"), ADDRESS)
    clock.now += 29
    assert at_once(callers.refresh(caller)) is caller
    clock.now += 2
    assert at_once(callers.refresh(caller)) is caller
    async with asyncio.timeout(10):
        while callers._known[home.tenant_id, caller.serial].until < clock.now + 59:  # noqa: ASYNC110 - done in a thread
            await asyncio.sleep(0.01)
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
    callers: CertificateCallers, home: Home, changes: Changes, word: str
) -> None:
    caller = await callers.identify(home.connect("orders"), ADDRESS)
    home.move(Move.LOCK)
    changes.tell(mark("somebody-else"))
    assert at_once(callers.refresh(caller)).tenant_state is State.ACTIVE
    changes.tell(mark(home.tenant_id) if word == "of the tenant" else None)
    with pytest.raises(TenantClosed):
        await callers.refresh(caller)


async def test_a_suspended_tenants_caller_is_told_so(callers: CertificateCallers, home: Home, changes: Changes) -> None:
    caller = await callers.identify(home.connect("orders"), ADDRESS)
    home.move(Move.SUSPEND)
    changes.tell(mark(home.tenant_id))
    fresh = await callers.refresh(caller)
    assert fresh == replace(caller, tenant_state=State.SUSPENDED)
    assert fresh.address == ADDRESS
    assert at_once(callers.refresh(caller)) == fresh


async def test_a_locked_tenant_is_closed_and_the_denial_is_in_its_stream(
    callers: CertificateCallers, home: Home, journal: Journal
) -> None:
    certificate = home.connect("orders")
    home.move(Move.LOCK)
    for _ in range(2):
        with pytest.raises(TenantClosed):
            await callers.identify(certificate, ADDRESS)
    assert journal.refusals() == [(home.tenant_id, "connect", "tenant_closed")] * 2
    assert {(entry.service, entry.source) for entry in journal.entries} == {("orders", ADDRESS)}
    assert journal.entries[0].correlation_id
    assert journal.entries[0].subject.endswith(": tenant closed")


async def test_whom_only_the_lock_keeps_out_may_ask_for_a_certificate_and_is_of_a_locked_tenant(
    callers: CertificateCallers, home: Home, changes: Changes, wall: Clock
) -> None:
    certificate = home.connect("orders")
    caller = await callers.identify(certificate, ADDRESS)
    with pytest.raises(CallerRefused):  # nothing keeps it out
        await callers.locked(certificate)
    home.move(Move.LOCK)
    changes.tell(mark(home.tenant_id))
    assert await callers.locked(certificate) == replace(caller, tenant_state=State.LOCKED, address="")
    with pytest.raises(TenantClosed):
        await callers.refresh(caller)
    now, wall.now = wall.now, wall.now + 73 * 3600
    with pytest.raises(CallerRefused):
        await callers.locked(certificate)
    wall.now = now
    home.disconnect("orders")
    changes.tell(mark(home.tenant_id))
    with pytest.raises(CallerRefused):
        await callers.locked(certificate)


async def test_of_a_tenant_that_leaves_nobody_may_ask_for_a_certificate(
    callers: CertificateCallers, home: Home
) -> None:
    certificate = home.connect("orders")
    home.move(Move.LEAVE)
    with pytest.raises(CallerRefused):
        await callers.locked(certificate)


async def test_a_disconnected_service_is_refused_with_every_certificate_it_had(
    callers: CertificateCallers, home: Home, journal: Journal
) -> None:
    certificates = [home.connect("orders"), home.certify("orders", 2)]
    home.disconnect("orders")
    for certificate in certificates:
        with pytest.raises(CallerRefused):
            await callers.identify(certificate, ADDRESS)
    assert journal.refusals() == [(home.tenant_id, "connect", "caller_refused")] * 2
    assert all(entry.subject.endswith(": revoked") for entry in journal.entries)


async def test_a_certificate_that_is_not_on_record_is_refused_in_its_tenants_stream(
    callers: CertificateCallers, home: Home, journal: Journal
) -> None:
    home.connect("orders")
    _, certificate = home.unrecorded("orders")
    with pytest.raises(CallerRefused):
        await callers.identify(certificate, ADDRESS)
    assert journal.refusals() == [(home.tenant_id, "connect", "caller_refused")]


async def test_a_certificate_put_on_record_later_is_found_after_the_word_of_it(
    callers: CertificateCallers, home: Home, changes: Changes
) -> None:
    certificate = home.connect("orders")
    home.disconnect("orders")
    with pytest.raises(CallerRefused):
        await callers.identify(certificate, ADDRESS)
    renewed = home.connect_again("orders", 2)
    changes.tell(mark(home.tenant_id))
    assert (await callers.identify(renewed, ADDRESS)).service == "orders"
    with pytest.raises(CallerRefused):  # what was revoked stays so
        await callers.identify(certificate, ADDRESS)


async def test_the_issuer_decides_whatever_a_certificate_says_of_itself(
    callers: CertificateCallers, world: World, home: Home, journal: Journal
) -> None:
    serial = x509.load_der_x509_certificate(home.connect("orders")).serial_number
    authority = x509.load_pem_x509_certificate(home.authority.certificate_pem.encode())
    other = world.tenant()
    foreign = load_issuer(world.vault.session("worker"), other.tenant_id, other.authority.certificate_pem, 1)
    attacks = {
        "self-signed": signed_by(authority.subject, p256(), home.tenant_id, "orders", serial),
        "by another tenant's authority": signed_by(
            foreign.certificate.subject, foreign.key, home.tenant_id, "orders", serial
        ),
        "by it, under this one's name": signed_by(authority.subject, foreign.key, home.tenant_id, "orders", serial),
    }
    for certificate in attacks.values():
        with pytest.raises(CallerRefused):
            await callers.identify(certificate, ADDRESS)
    # Nobody proved to be of this tenant, so nothing is in its stream; and the true certificate's record is untouched.
    assert journal.entries == []


async def test_a_serial_of_another_tenant_is_not_there(
    callers: CertificateCallers, world: World, home: Home, journal: Journal
) -> None:
    theirs = world.tenant()
    serial = x509.load_der_x509_certificate(theirs.connect("orders")).serial_number
    own = load_issuer(world.vault.session("worker"), home.tenant_id, home.authority.certificate_pem, 1)
    certificate = signed_by(own.certificate.subject, own.key, home.tenant_id, "orders", serial)
    with pytest.raises(CallerRefused):
        await callers.identify(certificate, ADDRESS)
    assert journal.refusals() == [(home.tenant_id, "connect", "caller_refused")]


async def test_a_leaf_for_another_tenants_name_is_looked_for_there_and_not_believed(
    callers: CertificateCallers, world: World, home: Home, journal: Journal
) -> None:
    other = world.tenant()
    serial = x509.load_der_x509_certificate(home.connect("orders")).serial_number
    own = load_issuer(world.vault.session("worker"), home.tenant_id, home.authority.certificate_pem, 1)
    certificate = signed_by(own.certificate.subject, own.key, other.tenant_id, "orders", serial)
    with pytest.raises(CallerRefused):
        await callers.identify(certificate, ADDRESS)
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
async def test_a_certificate_without_exactly_one_tenants_name_is_refused(
    callers: CertificateCallers, journal: Journal, names: tuple[str, ...]
) -> None:
    key = p256()
    subject = x509.Name([])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1)
    now = datetime.now(UTC)
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1))
    if names:
        general = [x509.DNSName(name) for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
    with pytest.raises(CallerRefused):
        await callers.identify(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER), ADDRESS)
    assert journal.entries == []


@pytest.mark.parametrize("noise", [b"", b"\x30", b"\x30\x82\xff\xff", bytes(2000)])
async def test_what_is_no_certificate_is_refused(callers: CertificateCallers, noise: bytes) -> None:
    with pytest.raises(CallerRefused):
        await callers.identify(noise, ADDRESS)


async def test_a_certificate_ends_on_an_open_connection_too(
    callers: CertificateCallers, home: Home, wall: Clock, journal: Journal
) -> None:
    caller = await callers.identify(home.connect("orders"), ADDRESS)
    wall.now += timedelta(hours=71).total_seconds()
    assert at_once(callers.refresh(caller)) is caller
    wall.now += timedelta(hours=2).total_seconds()
    with pytest.raises(CallerRefused):
        at_once(callers.refresh(caller))
    assert journal.refusals() == [(home.tenant_id, "connect", "caller_refused")]


async def test_a_tenant_whose_route_is_withdrawn_lets_nobody_in(
    callers: CertificateCallers, home: Home, world: World, changes: Changes
) -> None:
    caller = await callers.identify(home.connect("orders"), ADDRESS)
    with world.worker.tenant_tx(home.tenant_id) as tx:
        tx.routes.withdraw()
    changes.tell(mark(home.tenant_id))
    with pytest.raises(CallerRefused):
        await callers.refresh(caller)


async def test_a_route_to_another_authority_lets_nobody_in(
    callers: CertificateCallers, home: Home, world: World, journal: Journal
) -> None:
    certificate = home.connect("orders")
    with world.worker.tenant_tx(home.tenant_id) as tx:
        route = tx.routes.get()
        assert route is not None
        tx.routes.publish(replace(route, issuer_fingerprint="ab" * 32))
    with pytest.raises(CallerRefused):
        await callers.identify(certificate, ADDRESS)
    assert journal.entries == []


async def test_no_denial_is_answered_without_its_record(
    callers: CertificateCallers, home: Home, journal: Journal
) -> None:
    certificate = home.connect("orders")
    home.move(Move.LOCK)
    journal.full = True
    with pytest.raises(AuditUnavailable):
        await callers.identify(certificate, ADDRESS)


async def test_a_database_that_is_away_is_said_and_not_remembered(
    callers: CertificateCallers, home: Home, world: World, changes: Changes
) -> None:
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
) -> None:
    certificate = home.connect("orders")

    async def lock() -> None:
        await asyncio.to_thread(home.move, Move.LOCK)
        changes.tell(mark(home.tenant_id))

    looks = Looking(after_first=lock)
    callers = CertificateCallers(world.crypto, looks, journal, changes, cache_seconds=60)
    with pytest.raises(TenantClosed):
        await callers.identify(certificate, ADDRESS)
    assert looks.count == 2


async def test_who_was_never_identified_is_not_refreshed(callers: CertificateCallers, home: Home) -> None:
    stranger = Caller(home.tenant_id, "orders", ids.l2_key(home.tenant_id), REGION, "1a", State.ACTIVE)
    with pytest.raises(CallerRefused):
        await callers.refresh(stranger)
