"""The client against `python -m crypto` with a real database and a real key server."""

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from crypto.client import AccessRefused, CiphertextRefused, Client
from database.interfaces import LeafRow
from tenancy.client_files import Offer, configuration
from tenancy.lifecycle import Move, State
from tenancy.services import ServiceKind
from tests.contracts.authorities import p256, request
from tests.crypto.core.world import Home, World
from tests.crypto.running.process import Service


@pytest.fixture
def serving(service: Service) -> Service:
    service.start()
    service.wait_ready()
    return service


def _issue(home: Home, name: str, key: ec.EllipticCurvePrivateKey, generation: int, life: timedelta) -> str:
    """Have the tenant's authority certify a key and put the certificate on record, as the workflow does."""
    issued = home.world.authorities.issue(home.authority, home.tenant_id, name, request(key), life)
    found = x509.load_pem_x509_certificate(issued.certificate_pem.encode())
    dates = (found.not_valid_before_utc, found.not_valid_after_utc)
    with home.world.worker.tenant_tx(home.tenant_id) as tx:
        tx.services.record_leaf(
            LeafRow(issued.serial, name, generation, "request", issued.certificate_pem, *dates, home.authority.serial)
        )
    return issued.certificate_pem


def _folder(folder: Path, home: Home, name: str, key: ec.EllipticCurvePrivateKey, port: int) -> Path:
    certificate = _issue(home, name, key, 2, timedelta(hours=1))
    folder.mkdir()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    authority, root = x509.load_pem_x509_certificates(home.authority.chain_pem.encode())
    pem = serialization.Encoding.PEM
    (folder / "client.key").write_bytes(private)
    (folder / "client.pem").write_bytes(certificate.encode() + b"\n" + authority.public_bytes(pem))
    (folder / "ca.pem").write_bytes(root.public_bytes(pem))
    offer = Offer(f"https://localhost:{port}", "localhost:1")
    for file, text in configuration(ServiceKind.MICROSERVICE, name, str(folder), offer, "").items():
        (folder / file).write_text(text)
    return folder


@pytest.fixture
def home(world: World) -> Home:
    return world.tenant()


@pytest.fixture
def key(home: Home) -> ec.EllipticCurvePrivateKey:
    home.connect("orders")
    return p256()


@pytest.fixture
def client(serving: Service, home: Home, key: ec.EllipticCurvePrivateKey, tmp_path: Path) -> Iterator[Client]:
    with Client.from_folder(_folder(tmp_path / "orders", home, "orders", key, serving.https)) as one:
        yield one


def _refusal(client: Client, sealed: str) -> AccessRefused:
    """Ask until the word of a change has come: at most 2 s later, in truth a few milliseconds."""
    end = time.monotonic() + 2
    while time.monotonic() < end:
        try:
            client.decrypt(sealed, "orders/1")
        except AccessRefused as refused:
            return refused
    pytest.fail("still served")


def _until_served(client: Client, sealed: str) -> None:
    end = time.monotonic() + 2
    while time.monotonic() < end:
        try:
            assert client.decrypt(sealed, "orders/1") == b"card"
        except AccessRefused:
            continue
        return
    pytest.fail("not served")


def test_a_service_encrypts_decrypts_and_stops_with_its_tenant(client: Client, home: Home):
    sealed, message = client.encrypt(b"card", "orders/1"), client.encrypt_local(b"card", "orders/2")
    assert client.decrypt(sealed, "orders/1") == b"card"
    assert client.decrypt_local(message, "orders/2") == b"card"
    (again,) = client.rewrap_many([(sealed, "orders/1")])
    assert client.decrypt(str(again), "orders/1") == b"card"
    assert client.discover()["caller"] == {"tenant_id": home.tenant_id, "service": "orders", "region": "eu-west-1"}
    home.move(Move.LOCK)
    assert _refusal(client, sealed).code == "tenant_closed"


def test_a_renewed_certificate_is_fetched_and_shown(
    client: Client, home: Home, key: ec.EllipticCurvePrivateKey, tmp_path: Path
):
    sealed = client.encrypt(b"card", "orders/1")
    renewed = _issue(home, "orders", key, 3, timedelta(hours=2))
    assert client.renew_certificate()
    assert (tmp_path / "orders" / "client.pem").read_text().strip().startswith(renewed.strip())
    assert client.decrypt(sealed, "orders/1") == b"card"
    assert not client.renew_certificate()
    home.disconnect("orders")
    assert _refusal(client, sealed).code == "caller_refused"


def test_a_service_whose_certificate_ends_in_a_lock_has_the_next_one_and_works_when_it_is_over(
    client: Client, home: Home, key: ec.EllipticCurvePrivateKey, tmp_path: Path
):
    sealed = client.encrypt(b"card", "orders/1")
    home.move(Move.LOCK)
    assert _refusal(client, sealed).code == "tenant_closed"
    renewed = _issue(home, "orders", key, 3, timedelta(hours=2))
    assert client.renew_certificate()
    assert (tmp_path / "orders" / "client.pem").read_text().strip().startswith(renewed.strip())
    assert _refusal(client, sealed).code == "tenant_closed"
    home.move(Move.UNLOCK, State.ACTIVE)
    _until_served(client, sealed)


def test_the_same_service_of_another_tenant_opens_nothing(
    client: Client, serving: Service, world: World, tmp_path: Path
):
    sealed, message = client.encrypt(b"card", "orders/1"), client.encrypt_local(b"card", "orders/2")
    stranger = world.tenant()
    stranger.connect("orders")
    with Client.from_folder(_folder(tmp_path / "stranger", stranger, "orders", p256(), serving.https)) as thief:
        with pytest.raises(CiphertextRefused):
            thief.decrypt(sealed, "orders/1")
        with pytest.raises(CiphertextRefused):
            thief.decrypt_local(message, "orders/2")
