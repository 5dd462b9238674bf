"""The PyKMIP client, a stranger to our code, drives the front over real TLS and PostgreSQL."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from kmip.core import enums
from kmip.core.attributes import Name
from kmip.core.factories.attributes import AttributeFactory
from kmip.core.objects import Attribute
from kmip.pie.client import ProxyKmipClient
from kmip.pie.exceptions import KmipOperationFailure
from kmip.pie.objects import SecretData, SymmetricKey

from crypto.connections import Connections
from crypto.kmip.server import KmipFront
from crypto.tls import server_context
from tests.crypto.echo import identity
from tests.crypto.https import authority
from tests.crypto.kmip.oasis_service import TENANT, Services
from tests.database.fixtures import Server, clone

pytestmark = pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLS is deprecated")  # what PyKMIP asks ssl for
VERSIONS = [version for version in enums.KMIPVersion if version < enums.KMIPVersion.KMIP_2_0]
CBC = {
    "cryptographic_algorithm": enums.CryptographicAlgorithm.AES,
    "block_cipher_mode": enums.BlockCipherMode.CBC,
    "padding_method": enums.PaddingMethod.PKCS5,
}
ENCRYPT_AND_DECRYPT = [enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT]
Open = Callable[..., ProxyKmipClient]


class Front:
    """The real front on a loop of its own, in a thread, because PyKMIP blocks."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="kmip front")
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serving())

    async def _serving(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        self._services.open("orders")
        connections = Connections(self._services.parts)
        front = KmipFront(self._services.parts, connections, self._services.objects, 1 << 20)
        server = await self._loop.create_server(front.protocol, "127.0.0.1", 0, ssl=server_context(identity()))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._ended.wait()
        server.close()
        await connections.drain(1)
        connections.stop()


@pytest.fixture(scope="module")
def front(server: Server, template: str) -> Iterator[Front]:
    with clone(server, template) as field:
        services = Services(field)
        running = Front(services)
        yield running
        running.stop()
        services.close()


@pytest.fixture
def client(front: Front, tmp_path: Path) -> Iterator[Open]:
    leaf = authority.service_leaf(TENANT, "orders")
    key, chain, root = tmp_path / "client.key", tmp_path / "client.pem", tmp_path / "ca.pem"
    key.write_text(leaf.key_pem, "ascii")
    chain.write_text(leaf.pem + authority.tenant_authority(TENANT).pem, "ascii")
    root.write_text(authority.root().pem, "ascii")
    opened: list[ProxyKmipClient] = []

    def connect(version: enums.KMIPVersion = enums.KMIPVersion.KMIP_1_4) -> ProxyKmipClient:
        proxy = ProxyKmipClient(
            "127.0.0.1", front.port, str(chain), str(key), str(root), "PROTOCOL_SSLv23", kmip_version=version
        )
        proxy.open()
        opened.append(proxy)
        return proxy

    yield connect
    for proxy in opened:
        proxy.close()


def an_active_key(client: ProxyKmipClient, **more: Any) -> str:
    identifier = client.create(
        enums.CryptographicAlgorithm.AES, 256, cryptographic_usage_mask=ENCRYPT_AND_DECRYPT, **more
    )
    client.activate(identifier)
    return identifier


def reason(ask: Callable[[], object]) -> enums.ResultReason:
    with pytest.raises(KmipOperationFailure) as failed:
        ask()
    return failed.value.reason


@pytest.mark.parametrize("version", VERSIONS)
def test_a_key_lives_and_dies_in_every_version(client: Open, version: enums.KMIPVersion):
    here = client(version)
    name = f"key of {version.name}"
    identifier = an_active_key(here, name=name)
    key = here.get(identifier)
    assert isinstance(key, SymmetricKey)
    assert (len(key.value), key.cryptographic_length) == (32, 256)
    assert here.locate(attributes=[a_name(name)]) == [identifier]
    assert "State" in here.get_attribute_list(identifier)
    _, (state,) = here.get_attributes(identifier, ["State"])
    assert state.attribute_value.value == enums.State.ACTIVE
    here.revoke(enums.RevocationReasonCode.CESSATION_OF_OPERATION, identifier)
    assert reason(lambda: here.get(identifier)) == enums.ResultReason.PERMISSION_DENIED
    here.destroy(identifier)
    assert reason(lambda: here.get(identifier)) in (
        enums.ResultReason.ITEM_NOT_FOUND,
        enums.ResultReason.PERMISSION_DENIED,
    )


def a_name(name: str) -> Attribute:
    value = Name.create(name, enums.NameType.UNINTERPRETED_TEXT_STRING)
    return AttributeFactory().create_attribute(enums.AttributeType.NAME, value)


@pytest.mark.parametrize("version", [version for version in VERSIONS if version >= enums.KMIPVersion.KMIP_1_2])
def test_what_it_encrypts_it_decrypts_and_a_mac_is_made(client: Open, version: enums.KMIPVersion):
    here = client(version)
    identifier = an_active_key(here)
    encrypted, nonce = here.encrypt(b"a record", identifier, CBC, bytes(16))[:2]
    assert here.decrypt(encrypted, identifier, CBC, nonce or bytes(16)) == b"a record"
    mac_key = here.create(
        enums.CryptographicAlgorithm.HMAC_SHA256,
        256,
        cryptographic_usage_mask=[enums.CryptographicUsageMask.MAC_GENERATE],
    )
    here.activate(mac_key)
    assert len(here.mac(b"a record", mac_key, enums.CryptographicAlgorithm.HMAC_SHA256)[1]) == 32


def test_what_it_registers_comes_back(client: Open):
    here = client()
    key = here.register(SymmetricKey(enums.CryptographicAlgorithm.AES, 128, bytes(range(16)), ENCRYPT_AND_DECRYPT))
    secret = here.register(SecretData(b"x" * 96, enums.SecretDataType.SEED))
    assert here.get(key).value == bytes(range(16))
    assert here.get(secret).value == b"x" * 96


def test_it_changes_attributes_checks_and_makes_successors(client: Open):
    here = client()
    identifier = an_active_key(here, name="first name")
    assert here.check(identifier, cryptographic_usage_mask=ENCRYPT_AND_DECRYPT) == identifier
    changed = here.modify_attribute(identifier, attribute=a_name("second name"))
    assert changed[0] == identifier
    assert here.locate(attributes=[a_name("second name")]) == [identifier]
    here.delete_attribute(identifier, attribute_name="Name", attribute_index=0)
    assert here.locate(attributes=[a_name("second name")]) == []
    successor = here.rekey(identifier)
    assert successor != identifier
    public, private = here.create_key_pair(enums.CryptographicAlgorithm.EC, 256)
    assert len({public, private, identifier, successor}) == 4


def test_what_is_not_there_or_not_allowed_is_told_by_its_reason(client: Open):
    here = client()
    assert reason(lambda: here.get("0b9b1c4e-6a1f-4b39-9a70-3f2f8d8b7c11")) == enums.ResultReason.ITEM_NOT_FOUND
    identifier = an_active_key(here)
    signing = {"hashing_algorithm": enums.HashingAlgorithm.SHA_256}
    assert reason(lambda: here.sign(b"text", identifier, signing)) == enums.ResultReason.PERMISSION_DENIED


def test_it_asks_what_the_server_can_do(client: Open):
    proxy = client().proxy
    spoken = proxy.discover_versions().protocol_versions
    assert [(version.major, version.minor) for version in spoken] == [(1, 4), (1, 3), (1, 2), (1, 1), (1, 0)]
    asked = proxy.query(query_functions=[enums.QueryFunction.QUERY_OPERATIONS, enums.QueryFunction.QUERY_OBJECTS])
    assert asked.result_status.value == enums.ResultStatus.SUCCESS
    assert enums.Operation.ENCRYPT in asked.operations
    assert enums.ObjectType.SYMMETRIC_KEY in asked.object_types
