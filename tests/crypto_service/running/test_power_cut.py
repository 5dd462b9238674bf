"""Changes of managed objects while the power of the database fails: each answered change and its record survive.

The database runs with a library (unsynced.c) that copies a file when it is flushed. At the cut all its processes are
killed, and it starts again with the copies: everything that was written and not flushed is lost.
"""

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from crypto_service.kmip.codec.enums import Operation, State
from devstack.servers import process
from devstack.servers.postgres import PostgresServer
from tests.concurrency import wait_until_async
from tests.crypto_service.kmip.scene import Base, Scene, creation
from tests.database.fixtures import Field, durable_database
from tests.ports import free_port

pytestmark = pytest.mark.full
_LIBRARY, _DISK = "unsynced.so", "unsynced"
CUTS = 3
CHANGES = "create", "activate", "revoke", "destroy"
STATES = State.PRE_ACTIVE, State.ACTIVE, State.DEACTIVATED, State.DESTROYED
"""The states of an object after each of the changes."""


class UnsyncedPostgres(PostgresServer):
    """A PostgreSQL whose power can fail, with the settings of the real stack."""

    def environment(self) -> Mapping[str, str]:
        data = self.working_directory()
        preload = {"LD_PRELOAD": f"/proc/self/cwd/{_LIBRARY}"} if (data / _DISK).exists() else {}
        return {**super().environment(), **preload}

    def observe(self) -> None:
        """Keep what the disk has of the data folder, from now on. The server must have been stopped, not killed."""
        data = self.working_directory()
        if not (data / _LIBRARY).exists():
            source = Path(__file__).with_name("unsynced.c")
            subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", data / _LIBRARY, source, "-ldl"], check=True)
        copy = data.with_name(_DISK)
        shutil.copytree(data, copy)
        self._own(copy)
        copy.replace(data / _DISK)

    def lose_power(self) -> None:
        """Kill all processes, and keep only what was flushed."""
        data = self.working_directory()
        self.kill()
        for identity in process.working_in(data):
            identity.end(signal.SIGKILL, 5.0)
        disk = data.with_name(_DISK)
        (data / _DISK).replace(disk)
        shutil.rmtree(data)
        disk.replace(data)
        self.observe()

    def _own(self, folder: Path) -> None:
        uid, gid = self.user()
        for path in (folder, *folder.rglob("*")):
            os.chown(path, uid, gid)


@contextmanager
def running(folder: Path) -> Iterator[tuple[UnsyncedPostgres, Field]]:
    server = UnsyncedPostgres(folder, free_port())
    with durable_database(server) as field:
        server.stop()
        server.observe()
        server.start()
        server.wait_ready(60)
        yield server, field


@contextmanager
def a_scene(field: Field) -> Iterator[Scene]:
    made = Scene(Base(field, field.open("worker", max_size=1), field.open("crypto", max_size=4)))
    try:
        yield made
    finally:
        made.close()


def stored(field: Field, tenant_id: str) -> tuple[dict[str, int], Counter[tuple[str, str]]]:
    """Return the states of a tenant's objects, and the changes in its audit stream."""
    with field.administrator() as admin:
        states = admin.execute("select object_id, state from okcm.managed_object").fetchall()
        events = admin.execute("select record from okcm.audit_event where tenant_id = %s", [tenant_id]).fetchall()
    records = [json.loads(record) for (record,) in events]
    changes = Counter(
        (record["details"]["operation"], record["subject"])
        for record in records
        if record["name"] == "crypto.key_changed"
    )
    return dict(states), changes


def expected(states: Mapping[str, int]) -> Counter[tuple[str, str]]:
    """Return the changes that lead to the states of objects."""
    return Counter((change, one) for one, state in states.items() for change in CHANGES[: STATES.index(state) + 1])


async def change_until_the_cut(scene: Scene, server: UnsyncedPostgres, more: int) -> dict[str, int]:
    """Change objects on four connections, cut the power after `more` of them were created, and start again.

    Return the number of answered changes of each object.
    """
    answered, cut = dict[str, int](), asyncio.Event()

    async def change() -> None:
        client = scene.client()
        while not cut.is_set():
            made = await client.ask(*creation())
            if made.reason is not None:
                continue
            one = made.object_id
            answered[one] = 1
            for step in (
                client.about(Operation.ACTIVATE, one),
                client.revoke(one, 5),
                client.about(Operation.DESTROY, one),
            ):
                answered[one] += (await step).reason is None

    clients = [asyncio.create_task(change()) for _ in range(4)]
    try:
        await wait_until_async(lambda: len(answered) >= more)
        await asyncio.to_thread(server.lose_power)
    finally:
        cut.set()
        await asyncio.gather(*clients)
    await asyncio.to_thread(server.start)
    await asyncio.to_thread(server.wait_ready, 60)
    return answered


async def test_answered_changes_and_their_records_survive_a_power_cut(tmp_path: Path, request: pytest.FixtureRequest):
    chance = random.Random(request.config.getoption("randomly_seed"))  # noqa: S311 - no secret
    with running(tmp_path) as (server, field), a_scene(field) as scene:
        for _ in range(CUTS):
            answered = await change_until_the_cut(scene, server, chance.randrange(10, 100))
            states, changes = stored(field, scene.tenant)
            assert changes == expected(states)
            survived = {one: STATES.index(states[one]) + 1 if one in states else 0 for one in answered}
            assert all(survived[one] >= count for one, count in answered.items())


async def test_power_cut_loses_what_was_not_flushed(tmp_path: Path):
    """The simulation itself: with a database that does not flush, answered changes are lost, with their records."""
    with running(tmp_path) as (server, field), a_scene(field) as scene:
        with field.administrator() as admin:
            admin.execute("alter system set fsync = off")
            admin.execute("select pg_reload_conf()")
        answered = await change_until_the_cut(scene, server, 10)
        states, changes = stored(field, scene.tenant)
        assert changes == expected(states)
        assert answered.keys() - states.keys()
