"""The client with a real crypto service, database and key server."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from core.tenants.lifecycle import State, Transition
from openkcm.sdk.client import Client
from openkcm.sdk.errors import AccessRefused
from tests.contracts.authorities import p256
from tests.crypto_service.core.world import HOUR, Home, World
from tests.crypto_service.running.process import Service


@pytest.fixture
def serving(service: Service) -> Service:
    service.start()
    service.wait_ready()
    return service


@pytest.fixture
def home(world: World) -> Home:
    return world.tenant()


@pytest.fixture
def key(home: Home) -> ec.EllipticCurvePrivateKey:
    home.connect("orders")
    return p256()


@pytest.fixture
def client(serving: Service, home: Home, key: ec.EllipticCurvePrivateKey, tmp_path: Path) -> Iterator[Client]:
    with Client.from_folder(home.folder(tmp_path / "orders", "orders", key, serving.https)) as one:
        yield one


def refusal(client: Client, sealed: str, resource: str = "orders/1") -> str:
    """Decrypt until a change has reached the service, which takes a few milliseconds; return the code."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            client.decrypt(sealed, resource)
        except AccessRefused as refused:
            return refused.code
    pytest.fail("still served")


def test_service_renews_its_certificate_while_locked_and_works_until_disconnected(
    client: Client, home: Home, key: ec.EllipticCurvePrivateKey, tmp_path: Path
):
    sealed, message = client.encrypt(b"card", "orders/1"), client.encrypt_local(b"card", "orders/2")
    assert client.decrypt_local(message, "orders/2") == b"card"
    (again,) = client.rewrap_many([(sealed, "orders/1")])
    assert client.decrypt(str(again), "orders/1") == b"card"
    assert client.discover()["caller"] == {"tenant_id": home.tenant_id, "service": "orders", "region": "eu-west-1"}

    def is_renewed(generation: int) -> bool:
        renewed = home.issue("orders", generation, key, 2 * HOUR)
        assert client.renew_certificate()
        return (tmp_path / "orders" / "client.pem").read_text().strip().startswith(renewed.strip())

    assert is_renewed(3)
    assert client.decrypt(sealed, "orders/1") == b"card"
    assert not client.renew_certificate()
    home.move(Transition.LOCK)
    assert refusal(client, sealed) == "tenant_not_operational"
    assert is_renewed(4)
    assert refusal(client, sealed) == "tenant_not_operational"
    home.move(Transition.UNLOCK, State.ACTIVE)
    deadline, plaintext = time.monotonic() + 30, b""
    while not plaintext and time.monotonic() < deadline:
        with suppress(AccessRefused):
            plaintext = client.decrypt(sealed, "orders/1")
    assert plaintext == b"card"
    home.disconnect("orders")
    assert refusal(client, sealed) == "client_not_authorized"
