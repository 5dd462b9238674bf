"""Changes of managed objects while the processes of the service are killed: every change has its audit event."""

import json
import os
import random
import signal
import ssl
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from crypto_service.kmip.codec.enums import Operation
from crypto_service.kmip.codec.fields import text
from crypto_service.kmip.codec.tags import Tag
from tests.concurrency import wait_until
from tests.crypto_service.core.world import World
from tests.crypto_service.kmip.scene import creation
from tests.crypto_service.running.process import KmipClient, Service, connect_service

KILLS = 8


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
