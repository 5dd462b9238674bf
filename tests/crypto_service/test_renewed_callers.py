"""Kept connections whose certificate ends while their service has a newer one."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from core.errors.services import ClientNotAuthorized
from core.errors.tenants import TenantNotOperational
from core.tenants.lifecycle import State, Transition
from crypto_service.authentication import ClientCertificateAuthenticator
from crypto_service.interfaces import ClientIdentity
from database.postgres.change_feed import tenant_hash
from database.services.repository import ServiceCertificateRow
from tests.contracts.authorities import p256
from tests.crypto_service.authority import pem, service_names, signed
from tests.crypto_service.core.world import ADDRESS, HOUR, Changes, Clock, Home, Journal, World, at_once, der_of
from tests.crypto_service.test_authentication import callers, clock, home, wall_clock

__all__ = ["callers", "clock", "home", "wall_clock"]  # fixtures that pytest finds by name


class Kept:
    """A connection of a service, whose certificate ends after an hour."""

    def __init__(self, callers: ClientCertificateAuthenticator, home: Home, changes: Changes, now: Clock) -> None:
        self.callers, self.home, self.changes, self.now = callers, home, changes, now
        self.key = p256()
        home.connect("orders")
        self.certificate = der_of(home.issue("orders", 2, self.key))
        self.caller: ClientIdentity

    async def open(self) -> None:
        self.caller = await self.callers.identify(self.certificate, ADDRESS)

    def renew(self, generation: int = 3, home: Home | None = None) -> bytes:
        made = (home or self.home).issue("orders", generation, self.key, 3 * HOUR)
        self.changes.tell(tenant_hash(self.home.tenant_id))
        return der_of(made)

    def changed(self) -> None:
        self.changes.tell(tenant_hash(self.home.tenant_id))

    def wait(self, time: timedelta) -> None:
        self.now.now += time.total_seconds()

    def revoke(self, world: World, generation: int) -> None:
        with world.worker.raw_tx(self.home.tenant_id) as connection:
            connection.execute(
                "update okcm.service_certificate set revoked_at = clock_timestamp() where service = 'orders'"
                " and generation = %s",
                [generation],
            )
        self.changed()

    async def is_refused(self) -> bool:
        with pytest.raises(ClientNotAuthorized):
            await self.callers.refresh(self.caller)
        return True


@pytest.fixture
async def kept(callers: ClientCertificateAuthenticator, home: Home, changes: Changes, wall_clock: Clock) -> Kept:
    made = Kept(callers, home, changes, wall_clock)
    await made.open()
    return made


async def test_kept_connection_survives_its_certificate_until_the_end_of_the_newer_one(
    kept: Kept, callers: ClientCertificateAuthenticator, journal: Journal
) -> None:
    newer = kept.renew()
    assert await callers.refresh(kept.caller) == kept.caller
    kept.wait(2 * HOUR)
    assert at_once(callers.refresh(kept.caller)) is kept.caller  # without a read
    with pytest.raises(ClientNotAuthorized):  # no new connection with the old one
        await callers.identify(kept.certificate, ADDRESS)
    assert (await callers.identify(newer, ADDRESS)).service == "orders"
    kept.wait(1.1 * HOUR)
    assert await kept.is_refused()
    assert [entry.subject.partition(": ")[2] for entry in journal.entries] == ["expired", "expired"]


async def test_certificate_that_was_renewed_by_the_next_ca_survives_too(
    kept: Kept, callers: ClientCertificateAuthenticator, home: Home
) -> None:
    rolled = home.roll()
    kept.renew(home=rolled)
    kept.wait(2 * HOUR)
    assert await callers.refresh(kept.caller) == kept.caller
    rolled.end(home.authority)  # the kept certificate's own CA is no longer accepted
    kept.changed()
    assert await kept.is_refused()


async def test_kept_connection_ends_with_its_certificate_without_a_newer_one_for_its_key(
    kept: Kept, callers: ClientCertificateAuthenticator, home: Home
) -> None:
    home.certify("orders", 3)  # for another key, as after a loss of the first
    home.connect("billing")
    home.issue("billing", 2, kept.key, 3 * HOUR)  # of another service
    kept.changed()
    assert await callers.refresh(kept.caller) == kept.caller
    kept.wait(1.1 * HOUR)
    assert await kept.is_refused()


@pytest.mark.parametrize("generation", [2, 3])
async def test_revocation_of_either_certificate_ends_a_kept_connection(
    kept: Kept, world: World, generation: int
) -> None:
    kept.renew()
    kept.wait(2 * HOUR)
    assert await kept.callers.refresh(kept.caller) == kept.caller
    kept.revoke(world, generation)
    assert await kept.is_refused()


async def test_revocation_of_the_newer_certificate_leaves_the_rest_of_the_first(kept: Kept, world: World) -> None:
    kept.renew()
    kept.revoke(world, 3)
    assert await kept.callers.refresh(kept.caller) == kept.caller
    kept.wait(1.1 * HOUR)
    assert await kept.is_refused()


async def test_disconnection_or_lock_ends_a_kept_connection_after_its_certificate(kept: Kept, home: Home) -> None:
    kept.renew()
    kept.wait(2 * HOUR)
    home.move(Transition.LOCK)
    kept.changed()
    with pytest.raises(TenantNotOperational):
        await kept.callers.refresh(kept.caller)
    home.move(Transition.UNLOCK, State.ACTIVE)
    kept.changed()
    assert await kept.callers.refresh(kept.caller) == kept.caller
    home.disconnect("orders")
    kept.changed()
    assert await kept.is_refused()


async def test_forged_row_of_a_newer_certificate_does_not_extend_a_connection(
    kept: Kept, world: World, home: Home
) -> None:
    """A certificate under the name of the tenant's CA, that the CA did not sign."""
    issuer = x509.load_pem_x509_certificate(home.authority.certificate_pem.encode()).subject
    names = x509.SubjectAlternativeName(service_names(home.tenant_id, "orders"))
    start = datetime.now(UTC) - HOUR
    forged = signed("orders", kept.key.public_key(), issuer, p256(), (names, False), start=start, life=9 * HOUR)
    serial, dates = f"{forged.serial_number:x}", (forged.not_valid_before_utc, forged.not_valid_after_utc)
    row = ServiceCertificateRow(serial, "orders", 3, "request-1", pem(forged), *dates, home.authority.serial)
    with world.worker.tenant_tx(home.tenant_id) as tx:
        tx.services.record_leaf(row)
    kept.changed()
    assert await kept.callers.refresh(kept.caller) == kept.caller
    kept.wait(1.1 * HOUR)
    assert await kept.is_refused()
