"""Identification of callers while a tenant has two CAs, and after the former was retired."""

from dataclasses import replace

import pytest
from cryptography import x509

from core.certificates import AuthorityState
from core.errors.services import ClientNotAuthorized
from crypto_service.authentication import ClientCertificateAuthenticator
from database.certificates import AuthorityRow
from database.postgres.change_feed import tenant_hash
from database.provisioning import RouteRow
from tests.contracts.authorities import nothing_recorded
from tests.crypto_service.core.world import ADDRESS, REGION, Changes, Home, Journal, World, signed_by
from tests.crypto_service.test_authentication import callers, clock, home, wall_clock
from vault.pki.certificates import load_issuer

__all__ = ["callers", "clock", "home", "wall_clock"]  # fixtures that pytest finds by name


async def test_leaves_of_both_cas_are_accepted_until_the_former_is_retired(
    callers: ClientCertificateAuthenticator, home: Home, changes: Changes, journal: Journal
) -> None:
    old = home.connect("orders")
    on_old = await callers.identify(old, ADDRESS)
    rolled = home.roll()
    changes.tell(tenant_hash(home.tenant_id))
    assert await callers.refresh(on_old) == on_old
    assert (await callers.identify(old, ADDRESS)).service == "orders"
    on_new = await callers.identify(rolled.certify("orders", 2), ADDRESS)
    rolled.end(home.authority)
    changes.tell(tenant_hash(home.tenant_id))
    with pytest.raises(ClientNotAuthorized):
        await callers.refresh(on_old)
    with pytest.raises(ClientNotAuthorized):
        await callers.identify(old, ADDRESS)
    assert await callers.refresh(on_new) == on_new
    assert journal.entries == []


@pytest.mark.parametrize("retired_by", ["state", "route"])
async def test_retirement_of_a_ca_is_enforced_by_state_and_by_route(
    callers: ClientCertificateAuthenticator, home: Home, world: World, retired_by: str
) -> None:
    old = home.connect("orders")
    rolled = home.roll()
    with world.worker.tenant_tx(home.tenant_id) as tx:
        if retired_by == "state":
            tx.certificates.end(home.authority.serial)
        else:
            tx.routes.publish(RouteRow(home.l2_key, rolled.authority.fingerprint, REGION))
    with pytest.raises(ClientNotAuthorized):
        await callers.identify(old, ADDRESS)


async def test_unrecorded_leaf_of_the_former_ca_is_rejected(
    callers: ClientCertificateAuthenticator, home: Home, journal: Journal
) -> None:
    home.connect("orders")
    rolled = home.roll()
    before = home.unrecorded("orders")
    with pytest.raises(ClientNotAuthorized):
        await callers.identify(before, ADDRESS)
    assert journal.refusals() == [(home.tenant_id, "connect", "client_not_authorized")]
    rolled.end(home.authority)
    after = home.unrecorded("orders")  # its key still signs, but its signatures are no longer trusted
    with pytest.raises(ClientNotAuthorized):
        await callers.identify(after, ADDRESS)
    assert len(journal.entries) == 1  # the certificate does not belong to this tenant


async def test_leaf_forged_by_the_former_ca_is_rejected(
    callers: ClientCertificateAuthenticator, home: Home, world: World, journal: Journal
) -> None:
    """An attacker with the former key and a serial of the new CA is still rejected."""
    home.connect("orders")
    rolled = home.roll()
    serial = x509.load_der_x509_certificate(rolled.certify("orders", 2)).serial_number
    former = load_issuer(world.vault.session("worker"), home.tenant_id, home.authority.certificate_pem, 1)
    current = x509.load_pem_x509_certificate(rolled.authority.certificate_pem.encode())
    for name in (former.certificate.subject, current.subject):
        with pytest.raises(ClientNotAuthorized):
            await callers.identify(signed_by(name, former.key, home.tenant_id, "orders", serial), ADDRESS)
    assert journal.entries == []


async def test_leaf_of_a_prepared_ca_is_rejected(
    callers: ClientCertificateAuthenticator, home: Home, world: World, journal: Journal
) -> None:
    home.connect("orders")
    made = world.authorities.ensure(home.tenant_id, nothing_recorded, 2)
    row = AuthorityRow(made.serial, made.certificate_pem, made.chain_pem, made.not_after, 2, AuthorityState.PREPARED)
    with world.worker.tenant_tx(home.tenant_id) as tx:
        tx.certificates.record_authority(row)
    prepared = replace(home, authority=made)
    for certificate in (prepared.unrecorded("orders"), prepared.certify("orders", 2)):
        with pytest.raises(ClientNotAuthorized):
            await callers.identify(certificate, ADDRESS)
    assert journal.entries == []
