"""A service's key gets a new version while its clients use the running service, over HTTPS and KMIP."""

import base64
import socket
import ssl
import struct
from pathlib import Path

from crypto import ciphertext
from crypto.kmip import ttlv
from crypto.kmip.enums import Operation
from crypto.kmip.fields import text
from crypto.kmip.items import Item
from crypto.kmip.tags import Tag
from tests.crypto.core.world import Home, World
from tests.crypto.kmip.messages import batch_item, message
from tests.crypto.kmip.scene import Answered, creation
from tests.crypto.running.process import Client, Service, connect_service
from tests.crypto.running.test_process import until

PLAIN = base64.b64encode(b"a record").decode()


class Kmip:
    def __init__(self, port: int, tls: ssl.SSLContext) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._stream = tls.wrap_socket(plain, server_hostname="localhost")

    def ask(self, operation: int, *payload: Item) -> Answered:
        self._stream.sendall(ttlv.encode(message(batch_item(operation, *payload))))
        head = self._receive(8)
        answer = ttlv.decode(head + self._receive(struct.unpack(">4xI", head)[0]))
        return Answered(next(answer.all(Tag.BATCH_ITEM)))

    def get(self, object_id: str) -> Answered:
        return self.ask(Operation.GET, text(Tag.UNIQUE_IDENTIFIER, object_id))

    def close(self) -> None:
        self._stream.close()

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._stream.recv(size - len(data))
            assert part
            data += part
        return data


def version_of(sealed: str) -> int:
    return ciphertext.header(ciphertext.from_text(sealed)).key_version


def lie_under(world: World, home: Home, service: str) -> set[int]:
    with world.crypto.tenant_tx(home.tenant_id) as tx:
        return {row.key_version for row in tx.objects.of_service(service)}


def test_a_new_version_is_used_at_once_old_texts_move_by_rewrapping_and_objects_by_themselves(
    service: Service, world: World, tmp_path: Path
):
    home = world.tenant()
    tls = connect_service(home, "orders", tmp_path)
    service.start()
    service.wait_ready()
    client, kmip = Client(service.https, tls), Kmip(service.kmip, tls)
    encrypted = client.post("/v1/encrypt", {"resource": "r", "plaintext": PLAIN})[1]["ciphertext"]
    left = client.post("/v1/encrypt", {"resource": "left", "plaintext": PLAIN})[1]["ciphertext"]
    objects = [kmip.ask(*creation()).object_id for _ in range(40)]
    materials = {object_id: kmip.get(object_id).material for object_id in objects}

    home.new_key("orders", 2)

    def encrypts_under_the_second() -> bool:
        status, answer = client.post("/v1/encrypt", {"resource": "r", "plaintext": PLAIN})
        assert status == 200
        return version_of(answer["ciphertext"]) == 2

    until(encrypts_under_the_second, 2)
    assert client.post("/v1/decrypt", {"resource": "r", "ciphertext": encrypted}) == (200, {"plaintext": PLAIN})
    status, moved = client.post("/v1/rewrap", {"resource": "r", "ciphertext": encrypted})
    assert (status, version_of(moved["ciphertext"])) == (200, 2)

    while lie_under(world, home, "orders") != {2}:
        for object_id in objects:
            assert kmip.get(object_id).material == materials[object_id]
    until(lambda: "openkcm_crypto_resealed_objects_total 40.0" in service.page("/metrics")[1])

    home.compromised("orders", 1)
    until(lambda: client.post("/v1/decrypt", {"resource": "r", "ciphertext": encrypted})[0] == 409, 2)
    for path, name in (("/v1/decrypt", "ciphertext"), ("/v1/rewrap", "ciphertext"), ("/v1/data-keys/open", "wrapped")):
        status, problem = client.post(path, {"resource": "left", name: left})
        assert (status, problem["code"]) == (409, "key_version_retired")
    status, answer = client.post("/v1/decrypt:batch", {"items": [{"resource": "left", "ciphertext": left}]})
    assert (status, answer["items"][0]["problem"]["code"]) == (200, "key_version_retired")
    assert client.post("/v1/decrypt", {"resource": "r", "ciphertext": moved["ciphertext"]})[0] == 200

    home.destroyed("orders", 1)
    for object_id in objects:
        assert kmip.get(object_id).material == materials[object_id]
    assert client.post("/v1/rewrap", {"resource": "left", "ciphertext": left})[1]["code"] == "key_version_retired"
    until(lambda: home.version("orders", 2).last_opened_at is not None, 5)
    client.close()
    kmip.close()
