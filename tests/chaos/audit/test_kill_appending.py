"""Kill -9 at random moments of every process that writes audit records for eight tenants, and of PostgreSQL.

Appenders, processes that respond after their log has the entry, and the shipper are killed and restarted. Afterwards
every stream is complete: no gap, no acknowledged record lost, none duplicated, none added.
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
from tests.chaos.audit.appending import APPENDER, DELIVERY, JOURNAL, SERVICE, Workspace
from tests.chaos.audited import whole_stream
from tests.database.builders import a_connected_service, a_provisioned_tenant
from tests.database.fixtures import Field, Server, prepare
from tests.ports import free_port

TENANTS = tuple(f"stream-{number}-corp" for number in range(1, 9))
ROLES = ((APPENDER, 1), (APPENDER, 2), (APPENDER, 3), (JOURNAL, 1), (JOURNAL, 2), (DELIVERY, 1))
KILLS = {False: (14, 1), True: (400, 20)}
"""The number of kills of processes and of PostgreSQL: in the short and in the long form."""
_TIMEOUT_SECONDS = 60
_POLL_SECONDS = 0.005


class Processes:
    """The processes by role; each is restarted after a kill."""

    def __init__(self, workspace: Workspace, file: Path) -> None:
        self._workspace = workspace
        self._launcher = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.audit.appending", str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pids = {one: self._start(*one) for one in ROLES}

    def _start(self, role: str, number: int) -> int:
        assert self._launcher.stdin is not None
        assert self._launcher.stdout is not None
        self._launcher.stdin.write(f"{role} {number}\n")
        self._launcher.stdin.flush()
        return int(self._launcher.stdout.readline())

    def kill_and_restart(self, one: tuple[str, int]) -> None:
        """Kill a process as soon as it has made progress, and restart it."""
        role, number = one
        ledger = self._workspace.ledger(role, number).path
        if role != DELIVERY:
            was = _size(ledger)
            until(lambda: _size(ledger) > was)
        self._end(one, signal.SIGKILL)
        self.pids[one] = self._start(role, number)

    def finish(self) -> None:
        """Let each appender complete its write, ship everything, and end all processes."""
        for one in ROLES:
            if one[0] == APPENDER:
                ledger = self._workspace.ledger(*one)
                was = _size(ledger.path)
                until(lambda path=ledger.path, was=was: _size(path) > was)
            if one[0] != DELIVERY:
                self._end(one, signal.SIGKILL)
        self._end((DELIVERY, 1), signal.SIGTERM)
        until(lambda: waiting_bytes(self._workspace.journals) == 0, self._deliver_again)

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
        self._launcher.communicate()  # it ends at the end of its input


def until(done: Callable[[], bool], meanwhile: Callable[[], None] = lambda: None) -> None:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while not done():
        assert time.monotonic() < deadline, "the condition was not reached"
        meanwhile()
        time.sleep(_POLL_SECONDS)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    """Start a PostgreSQL only for this test, because it is killed."""
    server = PostgresServer(tmp_path, free_port())
    server.prepare()
    server.start()
    server.wait_ready(60)
    yield server
    server.stop()


@pytest.fixture
def base(own_postgres: PostgresServer) -> Iterator[Field]:
    """Yield its database with eight active tenants and a service for each."""
    roles = ("migrator", "worker", "marketplace", "operator", "crypto", "dashboard")
    known = Server(
        make_conninfo(own_postgres.admin_conninfo, dbname="postgres"),
        {role: os.urandom(16).hex() for role in roles},
        {role: os.urandom(32) for role in roles if role != "migrator"},
    )
    prepare(known, "okcm_chaos")
    url = f"postgresql://127.0.0.1:{own_postgres.port}/okcm_chaos"
    base = Field(known, "okcm_chaos", url)
    worker = base.open("worker", max_size=2)
    for tenant in TENANTS:
        a_provisioned_tenant(worker, tenant)
        a_connected_service(base, tenant, SERVICE)
    base.close()
    yield base
    base.close()


@pytest.mark.chaos
def test_audit_streams_stay_complete_when_processes_are_killed(
    base: Field, own_postgres: PostgresServer, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    at_processes, at_postgres = KILLS[request.config.getoption("--long")]
    folder = tmp_path / "workspace"
    folder.mkdir()
    credentials = {role: (base.server.passwords[role], base.key(role).hex()) for role in ("worker", "crypto")}
    workspace = Workspace(base.url, credentials, TENANTS, str(folder))
    journal_folder(workspace.journals)
    file = folder / "workspace.json"
    file.write_text(json.dumps(vars(workspace)), encoding="ascii")
    random = Random(len(TENANTS))  # noqa: S311 - order of kills
    kills = [*(random.choice(ROLES) for _ in range(at_processes)), *[None] * at_postgres]
    random.shuffle(kills)
    processes = Processes(workspace, file)
    try:
        for one in kills:
            if one is None:
                kill_and_restart(own_postgres)
            else:
                processes.kill_and_restart(one)
        processes.finish()
    finally:
        processes.close()
    worker = base.open("worker", max_size=2)
    for tenant in TENANTS:
        assert_whole(worker, tenant, workspace)


def kill_and_restart(postgres: PostgresServer) -> None:
    assert postgres.pid is not None
    os.kill(postgres.pid, signal.SIGKILL)
    until(lambda: not postgres.alive)
    postgres.start()
    postgres.wait_ready(_TIMEOUT_SECONDS)


def assert_whole(worker: Database, tenant: str, workspace: Workspace) -> None:
    records = whole_stream(worker, tenant)
    assert [record["seq"] for record in records] == list(range(1, len(records) + 1))
    event_ids = Counter(record["event_id"] for record in records)
    assert set(event_ids.values()) == {1}, "an event is recorded twice"
    subjects = Counter(record["subject"] for record in records if record["correlation_id"] == "chaos")
    assert not subjects or set(subjects.values()) == {1}, "a write is recorded twice"
    writes = [one for who in ROLES for one in workspace.ledger(*who).writes() if one.tenant == tenant]
    found = set(subjects)
    for one in writes:
        there = found & set(one.ids)
        assert len(there) == len(one.ids) or not one.acknowledged, "an acknowledged write is lost"
        assert len(there) in {0, len(one.ids)}, "half of a write is recorded"
    assert found <= {name for one in writes for name in one.ids}, "a record was never written"
    with worker.tenant_tx(tenant) as tx:
        begun = begin_export(tx, AuditFilter(), datetime.now(UTC), PublicKeys({}).fingerprint)
    lines = "".join(begun.lines(worker, lambda _number: None)).encode().splitlines(keepends=True)
    verdict = verify_export(lines, None)
    assert (verdict.problem, verdict.events) == (None, len(records))
