"""Changes of managed objects while the processes of the service are killed: every change has its audit event."""

import json
import os
import random
import signal
import socket
import ssl
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from crypto_service.kmip.codec import ttlv
from crypto_service.kmip.codec.enums import Operation
from crypto_service.kmip.codec.fields import text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from tests.concurrency import wait_until
from tests.crypto_service.core.world import World
from tests.crypto_service.kmip.messages import batch_item, message
from tests.crypto_service.kmip.scene import Answered, creation
from tests.crypto_service.running.process import Service, connect_service

KILLS = 8


class KmipClient:
    """One connection of a service to the KMIP port."""

    def __init__(self, port: int, tls: ssl.SSLContext) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._socket = tls.wrap_socket(plain, server_hostname="localhost")
        self._file = self._socket.makefile("rb")

    def ask(self, operation: int, *payload: Item) -> Answered:
        """Return the answer; raise OSError when the connection ends first."""
        self._socket.sendall(ttlv.encode(message(batch_item(operation, *payload))))
        head = self._file.read(8)
        data = head + self._file.read(int.from_bytes(head[4:], "big"))
        if len(data) < 8:
            raise ConnectionResetError
        [item] = ttlv.decode(data).all(Tag.BATCH_ITEM)
        return Answered(item)

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def change_objects(service: Service, tls: ssl.SSLContext, stop: threading.Event, answered: Counter[str]) -> None:
    """Create, activate and destroy objects, on a new connection after each that ended."""
    while not stop.is_set():
        with suppress(OSError):
            client = KmipClient(service.kmip, tls)
            try:
                while not stop.is_set():
                    made = client.ask(*creation())
                    if made.reason is None:
                        answered["create"] += 1
                        one = text(Tag.UNIQUE_IDENTIFIER, made.object_id)
                        answered["activate"] += client.ask(Operation.ACTIVATE, one).reason is None
            finally:
                client.close()


def test_every_change_has_its_event_although_processes_are_killed(
    service: Service, world: World, tmp_path: Path, request: pytest.FixtureRequest
):
    home = world.tenant()
    tls = connect_service(home, "orders", tmp_path)
    service.start()
    service.wait_ready()
    stop, answered = threading.Event(), Counter[str]()
    clients = [threading.Thread(target=change_objects, args=(service, tls, stop, answered)) for _ in range(4)]
    for client in clients:
        client.start()
    chance = random.Random(request.config.getoption("randomly_seed"))  # noqa: S311 - no secret
    try:
        for _ in range(KILLS):
            reached = answered["create"] + 5
            wait_until(lambda reached=reached: answered["create"] >= reached)
            time.sleep(chance.uniform(0, 0.05))
            for child in service.children[: chance.randint(1, 3)]:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
    finally:
        stop.set()
        for client in clients:
            client.join(30)
    service.terminate()

    with world.field.administrator() as admin:
        states = admin.execute("select object_id, state from okcm.managed_object").fetchall()
        events = admin.execute("select record from okcm.audit_event where tenant_id = %s", [home.tenant_id]).fetchall()
    records = [json.loads(record) for (record,) in events]
    changes = Counter(
        (record["details"]["operation"], record["subject"])
        for record in records
        if record["name"] == "crypto.key_changed"
    )
    expected = Counter(("create", object_id) for object_id, _ in states)
    expected += Counter(("activate", object_id) for object_id, state in states if state != 1)
    assert changes == expected
    assert len(states) >= answered["create"] > KILLS
