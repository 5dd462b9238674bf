"""Kill -9 at random moments of every process that writes audit records for eight tenants, and of PostgreSQL.

Appenders, processes that answer once their journal has the entry, and the delivery of journals are killed and started
again. Afterwards every stream is whole: no gap, nothing acknowledged lost, nothing doubled, nothing added.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest
from psycopg.conninfo import make_conninfo

from compliance.audit.export import begin_export
from core.audit import AuditFilter
from crypto_service.audit.wal import journal_folder, waiting_bytes
from database.connection.database import Database
from devstack.servers.postgres import PostgresServer
from openkcm.verification.audit_export import verify_export
from openkcm.verification.public_keys import PublicKeys
from tests.chaos.appending import APPENDER, DELIVERY, JOURNAL, SERVICE, Lair
from tests.chaos.audited import whole_stream
from tests.database.builders import a_connected_service, a_provisioned_tenant
from tests.database.fixtures import Field, Server, prepare
from tests.ports import free_port

TENANTS = tuple(f"stream-{number}-corp" for number in range(1, 9))
CREW = ((APPENDER, 1), (APPENDER, 2), (APPENDER, 3), (JOURNAL, 1), (JOURNAL, 2), (DELIVERY, 1))
SHOTS = {False: (14, 1), True: (400, 20)}
"""At processes, and at PostgreSQL: in the short form and in the long one."""
_PATIENCE_SECONDS = 60
_LOOK_SECONDS = 0.005


class Crew:
    """The processes, by what they do; each is started again by whoever shoots it."""

    def __init__(self, lair: Lair, file: Path) -> None:
        self._lair = lair
        self._launcher = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.appending", str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pids = {one: self._start(*one) for one in CREW}

    def _start(self, role: str, number: int) -> int:
        assert self._launcher.stdin is not None
        assert self._launcher.stdout is not None
        self._launcher.stdin.write(f"{role} {number}\n")
        self._launcher.stdin.flush()
        return int(self._launcher.stdout.readline())

    def shoot(self, one: tuple[str, int]) -> None:
        """Kill a process, as soon as it has come a little further, and start it again."""
        role, number = one
        ledger = self._lair.ledger(role, number).path
        if role != DELIVERY:
            was = _size(ledger)
            until(lambda: _size(ledger) > was)
        self._end(one, signal.SIGKILL)
        self.pids[one] = self._start(role, number)

    def finish(self) -> None:
        """Let each appender get what it was promised, and have everything delivered; then nobody is left."""
        for one in CREW:
            if one[0] == APPENDER:
                ledger = self._lair.ledger(*one)
                was = _size(ledger.path)
                until(lambda path=ledger.path, was=was: _size(path) > was)
            if one[0] != DELIVERY:
                self._end(one, signal.SIGKILL)
        self._end((DELIVERY, 1), signal.SIGTERM)
        until(lambda: waiting_bytes(self._lair.journals) == 0, self._deliver_again)

    def _deliver_again(self) -> None:
        if not _lives(self.pids[DELIVERY, 1]):
            self.pids[DELIVERY, 1] = self._start(DELIVERY, 1)
            self._end((DELIVERY, 1), signal.SIGTERM)

    def _end(self, one: tuple[str, int], how: signal.Signals) -> None:
        pid = self.pids[one]
        os.kill(pid, how)
        until(lambda: not _lives(pid))

    def close(self) -> None:
        for pid in self.pids.values():
            if _lives(pid):
                os.kill(pid, signal.SIGKILL)
        self._launcher.communicate()  # it ends when nothing more is to be read


def until(done: Callable[[], bool], meanwhile: Callable[[], None] = lambda: None) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not done():
        assert time.monotonic() < deadline, "it was never done"
        meanwhile()
        time.sleep(_LOOK_SECONDS)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def postgres_alone(tmp_path: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL that is nobody else's, because it is shot."""
    server = PostgresServer(tmp_path, free_port())
    server.prepare()
    server.start()
    server.wait_ready(60)
    yield server
    server.stop()


@pytest.fixture
def base(postgres_alone: PostgresServer) -> Iterator[Field]:
    """Its database, with eight active tenants and a service of each."""
    roles = ("migrator", "worker", "marketplace", "operator", "crypto", "dashboard")
    known = Server(
        make_conninfo(postgres_alone.admin_conninfo, dbname="postgres"),
        {role: os.urandom(16).hex() for role in roles},
        {role: os.urandom(32) for role in roles if role != "migrator"},
    )
    prepare(known, "okcm_chaos")
    url = f"postgresql://127.0.0.1:{postgres_alone.port}/okcm_chaos"
    base = Field(known, "okcm_chaos", url)
    worker = base.open("worker", max_size=2)
    for tenant in TENANTS:
        a_provisioned_tenant(worker, tenant)
        a_connected_service(base, tenant, SERVICE)
    base.close()
    yield base
    base.close()


@pytest.mark.chaos
def test_eight_streams_stay_whole_whoever_dies_while_they_grow(
    base: Field, postgres_alone: PostgresServer, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    at_processes, at_postgres = SHOTS[request.config.getoption("--long")]
    folder = tmp_path / "lair"
    folder.mkdir()
    credentials = {role: (base.server.passwords[role], base.key(role).hex()) for role in ("worker", "crypto")}
    lair = Lair(base.url, credentials, TENANTS, str(folder))
    journal_folder(lair.journals)
    file = folder / "lair.json"
    file.write_text(json.dumps(vars(lair)), encoding="ascii")
    random = Random(len(TENANTS))  # noqa: S311 - who is shot
    shots = [*(random.choice(CREW) for _ in range(at_processes)), *[None] * at_postgres]
    random.shuffle(shots)
    crew = Crew(lair, file)
    try:
        for one in shots:
            if one is None:
                shoot(postgres_alone)
            else:
                crew.shoot(one)
        crew.finish()
    finally:
        crew.close()
    worker = base.open("worker", max_size=2)
    for tenant in TENANTS:
        assert_whole(worker, tenant, lair)


def shoot(postgres: PostgresServer) -> None:
    assert postgres.pid is not None
    os.kill(postgres.pid, signal.SIGKILL)
    until(lambda: not postgres.alive)
    postgres.start()
    postgres.wait_ready(_PATIENCE_SECONDS)


def assert_whole(worker: Database, tenant: str, lair: Lair) -> None:
    records = whole_stream(worker, tenant)
    assert [record["seq"] for record in records] == list(range(1, len(records) + 1))
    event_ids = Counter(record["event_id"] for record in records)
    assert set(event_ids.values()) == {1}, "an event is on record twice"
    subjects = Counter(record["subject"] for record in records if record["correlation_id"] == "chaos")
    assert not subjects or set(subjects.values()) == {1}, "what happened once is on record twice"
    promises = [one for who in CREW for one in lair.ledger(*who).promises() if one.tenant == tenant]
    found = set(subjects)
    for one in promises:
        there = found & set(one.ids)
        assert len(there) == len(one.ids) or not one.kept, "something acknowledged is lost"
        assert len(there) in {0, len(one.ids)}, "half of a write is on record"
    assert found <= {name for one in promises for name in one.ids}, "something is on record that nobody wrote"
    with worker.tenant_tx(tenant) as tx:
        begun = begin_export(tx, AuditFilter(), datetime.now(UTC), PublicKeys({}).fingerprint)
    lines = "".join(begun.lines(worker, lambda _number: None)).encode().splitlines(keepends=True)
    verdict = verify_export(lines, None)
    assert (verdict.problem, verdict.events) == (None, len(records))
