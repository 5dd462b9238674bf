"""Clients that send only their leaf certificate: the server finds the CA of their tenant, and trusts no other."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from core.certificates import AuthorityState
from crypto_service.cache_invalidation import NotifyInvalidations
from crypto_service.server.client_authorities import ClientAuthorities, authorities_folder, name_hash
from crypto_service.server.executor import FairExecutor
from crypto_service.server.tls import ServerCertificate, new_identity, server_context
from database.certificates import AuthorityRow
from database.platform.scheduled import PlatformQueries
from database.postgres.change_feed import ChangeFeed
from tests.concurrency import wait_until_async
from tests.contracts.authorities import nothing_recorded, p256
from tests.crypto_service import authority
from tests.crypto_service.core.world import Changes, Home, World
from tests.crypto_service.server.test_tls import NAMES, shake
from vault.pki.certificates import load_issuer
from vault.pki.server_certificates import PkiServerCertificates

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def identity(world: World) -> ServerCertificate:
    return new_identity(PkiServerCertificates(world.vault.session("crypto")), NAMES)


@pytest.fixture
async def authorities(world: World, threads: FairExecutor, tmp_path: Path) -> AsyncIterator[ClientAuthorities]:
    """Return the authorities of a process that follows the changes of its database."""
    password = world.field.server.passwords["crypto"]
    feed = NotifyInvalidations(ChangeFeed(world.field.url, "crypto", password))
    made = ClientAuthorities(PlatformQueries(world.crypto), threads, feed, authorities_folder(tmp_path))
    task = asyncio.create_task(made.run())
    feed.start()
    await asyncio.wait_for(made.loaded(), 10)
    yield made
    task.cancel()
    await feed.stop()


def client(identity: ServerCertificate, folder: Path, key: ec.EllipticCurvePrivateKey, *pems: str) -> ssl.SSLContext:
    """Return a client that presents exactly these certificates."""
    file = folder / f"{p256().public_key().public_numbers().x:x}.pem"
    file.write_text(authority.key_pem(key) + "\n".join(pems), encoding="ascii")
    context = ssl.create_default_context(cadata=identity.root_pem)
    context.load_cert_chain(file)
    return context


def leaf_client(identity: ServerCertificate, folder: Path, home: Home, generation: int = 2) -> ssl.SSLContext:
    """Return a client with a recorded certificate of a service, without its chain."""
    if generation == 2:
        home.connect("orders")
    key = p256()
    return client(identity, folder, key, home.issue("orders", generation, key))


def is_admitted(server: ssl.SSLContext, asking: ssl.SSLContext) -> bool:
    try:
        served, _ = shake(server, asking)
    except ssl.SSLError:
        return False
    return served.getpeercert(binary_form=True) is not None


def prepare(home: Home) -> Home:
    """Record a prepared CA, as a rotation does; return the tenant that issues with it."""
    made = home.world.authorities.ensure(home.tenant_id, nothing_recorded, home.authority.key_version + 1)
    state = AuthorityState.PREPARED
    row = AuthorityRow(made.serial, made.certificate_pem, made.chain_pem, made.not_after, made.key_version, state)
    with home.world.worker.tenant_tx(home.tenant_id) as tx:
        tx.certificates.record_authority(row)
    return Home(home.world, home.tenant_id, made)


def record(world: World, tenant_id: str, pem: str, serial: str, key_version: int) -> None:
    row = AuthorityRow(serial, pem, pem, datetime.now(UTC) + timedelta(days=1), key_version, AuthorityState.PREPARED)
    with world.worker.tenant_tx(tenant_id) as tx:
        tx.certificates.record_authority(row)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_client_without_its_chain_is_admitted(
    authorities: ClientAuthorities, identity: ServerCertificate, world: World, tmp_path: Path, version: ssl.TLSVersion
):
    asking = leaf_client(identity, tmp_path, world.tenant())
    asking.minimum_version = asking.maximum_version = version
    assert not is_admitted(server_context(identity), asking)
    server = server_context(identity, (), authorities.folder)
    await wait_until_async(lambda: is_admitted(server, asking))


async def test_new_and_prepared_authorities_are_known_to_a_server_in_use_within_a_second(
    authorities: ClientAuthorities, identity: ServerCertificate, world: World, tmp_path: Path
):
    server = server_context(identity, (), authorities.folder)
    home = world.tenant()
    first = leaf_client(identity, tmp_path, home)
    await asyncio.sleep(1)
    assert is_admitted(server, first)
    prepared = prepare(home)
    await asyncio.sleep(1)
    assert is_admitted(server, leaf_client(identity, tmp_path, prepared, 3))
    assert is_admitted(server, first)


async def test_issuer_that_the_root_did_not_sign_is_refused(
    authorities: ClientAuthorities, identity: ServerCertificate, world: World, tmp_path: Path
):
    home, other = world.tenant(), world.tenant()
    server = server_context(identity, (), authorities.folder)
    await wait_until_async(lambda: is_admitted(server, leaf_client(identity, tmp_path, home)))
    own = x509.load_pem_x509_certificate(home.authority.certificate_pem.encode())
    foreign = load_issuer(world.vault.session("worker"), other.tenant_id, other.authority.certificate_pem, 1)
    made = authority.tenant_authority(home.tenant_id)  # of another root
    names = authority.service_names(home.tenant_id, "orders")
    usage = x509.ExtendedKeyUsageOID.CLIENT_AUTH
    same_name = authority.Issuer(_renamed(own.subject, made), made.key)
    attacks: dict[str, tuple[authority.Issuer, Sequence[str]]] = {
        "other tenant's CA": (authority.Issuer(foreign.certificate, foreign.key), ()),
        "intermediate with the same name": (same_name, ()),
        "the same, sent": (same_name, (same_name.pem,)),
        "the same and the CA's certificate": (same_name, (same_name.pem, home.authority.certificate_pem)),
        "other root": (made, (made.pem, authority.root().pem)),
    }
    for name, (issuer, sent) in attacks.items():
        leaf = authority._leaf(issuer, "orders", names, usage)
        assert not is_admitted(server, client(identity, tmp_path, leaf.key, leaf.pem, *sent)), name


def _renamed(name: x509.Name, issuer: authority.Issuer) -> x509.Certificate:
    """Return a CA certificate that is self-issued under another CA's name."""
    start, life = datetime.now(UTC) - timedelta(hours=1), timedelta(days=1)
    extensions = authority._common(issuer.key, issuer.key, signs=True)
    common = str(name.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
    return authority.signed(common, issuer.key.public_key(), None, issuer.key, *extensions, start=start, life=life)


async def test_recorded_certificate_is_no_second_root_and_does_not_exclude_others(
    authorities: ClientAuthorities, identity: ServerCertificate, world: World, tmp_path: Path
):
    """A row that a faulty worker writes: self-issued, unreadable, or of another root."""
    home = world.tenant()
    record(world, home.tenant_id, "no certificate", "aa", 7)
    record(world, home.tenant_id, authority.root().pem, "ab", 8)
    record(world, home.tenant_id, authority.tenant_authority(home.tenant_id).pem, "ac", 9)
    later = world.tenant()
    server = server_context(identity, (), authorities.folder)
    await wait_until_async(lambda: is_admitted(server, leaf_client(identity, tmp_path, later)))
    forged = authority.service_leaf(home.tenant_id, "orders")
    assert not is_admitted(server, client(identity, tmp_path, forged.key, forged.pem))
    assert not (authorities.folder / f"{name_hash(authority.root().certificate.subject)}.0").exists()


async def test_names_with_one_hash_share_a_file(world: World, threads: FairExecutor, tmp_path: Path):
    home, changes = world.tenant(), Changes()
    made = ClientAuthorities(PlatformQueries(world.crypto), threads, changes, authorities_folder(tmp_path))
    pems = [authority._authority(name, authority.root(), None).pem for name in ("Some Name", "some  name")]
    for number, pem in enumerate(pems):
        record(world, home.tenant_id, pem, f"b{number}", 20 + number)
    task = asyncio.create_task(made.run())
    for _ in range(2):  # the feed is lost once
        changes.tell(None)
        await asyncio.wait_for(made.loaded(), 10)
    hashed = name_hash(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Some Name")]))
    assert (made.folder / f"{hashed}.0").read_text() == "".join(pems)
    task.cancel()


async def test_authorities_are_read_after_an_outage_of_the_database(
    world: World, threads: FairExecutor, tmp_path: Path
):
    changes = Changes()
    made = ClientAuthorities(PlatformQueries(world.crypto), threads, changes, authorities_folder(tmp_path))
    home = world.tenant()
    task = asyncio.create_task(made.run())
    with world.field.server.offline(world.field.name):
        changes.tell(None)
        await asyncio.sleep(0.2)
        assert not made._loaded.is_set()
    await asyncio.wait_for(made.loaded(), 10)
    own = x509.load_pem_x509_certificate(home.authority.certificate_pem.encode())
    assert (made.folder / f"{name_hash(own.subject)}.0").exists()
    task.cancel()


@pytest.mark.parametrize("name", ["OpenKCM tenant acme-corp-12345", "OpenKCM tenant acme (2)", "A  B ", "é" * 32])
def test_name_hash_is_that_of_openssl(tmp_path: Path, name: str):
    key = p256()
    now, day = datetime.now(UTC), timedelta(days=1)
    file = tmp_path / "one.pem"
    made = authority.signed(name, key.public_key(), None, key, start=now, life=day)
    file.write_text(authority.pem(made), encoding="ascii")
    command = ["openssl", "x509", "-noout", "-subject_hash", "-in", str(file)]
    expected = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    assert name_hash(made.subject) == expected
