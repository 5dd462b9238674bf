"""A real PgBouncer in transaction mode between processes and database; scripts/setup.sh installs it."""

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from compliance.isolation.postgres.row_security import RowSecuritySuite
from core.errors.platform import DatabaseRefused, DatabaseUnavailable
from core.isolation import breaches
from database.postgres.access import PROCESSES, SESSION_SETTINGS, login
from database.postgres.change_feed import ChangeFeed, tenant_hash
from tests.concurrency import wait_until
from tests.database.builders import a_leaving
from tests.database.fixtures import Field
from tests.database.templates import filled_template, two_tenants
from tests.ports import free_port
from tests.programs import child, give, program, unprivileged

pytestmark = pytest.mark.integration
_SERVER_CONNECTIONS = 2
_CONFIGURATION = """
[databases]
{name} = host={host} port={port} dbname={name}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listening}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {connections}
{more}
"""


def fill(field: Field) -> None:
    two_tenants(root_keys=True)(field)
    for tenant in ("acme", "beta"):
        a_leaving(field, tenant)


template = filled_template(fill)


@contextmanager
def pooled(field: Field, more: str = "ignore_startup_parameters = options") -> Iterator[Field]:
    """Yield the database as processes see it behind a pooler."""
    account = unprivileged()
    folder, listening = Path(tempfile.mkdtemp()), free_port()
    try:
        folder.chmod(0o755)
        server = conninfo_to_dict(field.url)
        text = _CONFIGURATION.format(
            name=field.name,
            host=server["host"],
            port=server["port"],
            listening=listening,
            folder=folder,
            connections=_SERVER_CONNECTIONS,
            more=more,
        )
        (folder / "pgbouncer.ini").write_text(text)
        users = "".join(f'"{login(role)}" "{field.server.passwords[role]}"\n' for role in PROCESSES)
        (folder / "users").write_text(users)
        for file in folder.iterdir():
            file.chmod(0o600)
            give(account, file)
        pgbouncer, environment = program("pgbouncer", "usr/sbin/pgbouncer", folder / "package")
        command = [*child(account, signal.SIGTERM), pgbouncer, folder / "pgbouncer.ini"]
        with (folder / "log").open("wb") as log:
            pooler = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", env=os.environ | environment)
        behind = Field(field.server, field.name, f"postgresql://127.0.0.1:{listening}/{field.name}")
        try:
            wait_until(lambda: _answers(behind), lambda: (folder / "log").read_text(encoding="utf-8"))
            yield behind
        finally:
            behind.close()
            pooler.send_signal(signal.SIGQUIT)  # at once: SIGTERM waits until all clients have left
            pooler.wait(30)
    finally:
        shutil.rmtree(folder)


def _answers(field: Field) -> bool:
    try:
        psycopg.connect(
            field.url, user=login("worker"), password=field.server.passwords["worker"], connect_timeout=2
        ).close()
    except psycopg.OperationalError:
        return False
    return True


def test_isolation_and_limits_hold_behind_a_pooler(field: Field) -> None:
    with pooled(field) as behind:
        worker = behind.open("worker", max_size=8)
        forth, back = RowSecuritySuite(worker).attack_each_other("acme", "beta")
        assert breaches((*forth, *back)) == ()
        with worker.raw_tx("acme") as connection:
            shown = {name: connection.execute(f"show {name}").fetchone() for name in SESSION_SETTINGS}
        assert shown == {name: (value,) for name, value in SESSION_SETTINGS.items()}


def test_transactions_of_tenants_share_few_connections(field: Field) -> None:
    """Each sees its own tenant only, although the pooler gives its connection to another one afterwards."""
    with pooled(field) as behind:
        worker = behind.open("worker", max_size=8)

        def own(number: int) -> bool:
            tenant = ("acme", "beta")[number % 2]
            with worker.raw_tx(tenant) as connection:
                rows = connection.execute("select distinct tenant_id from okcm.tenant").fetchall()
                connection.execute("set search_path = public; set statement_timeout = 0")
            return rows == [(tenant,)]

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(own, range(400)))
        with field.administrator() as administrator:
            sessions = administrator.execute(
                "select count(*) from pg_stat_activity where datname = %s and usename = %s",
                [field.name, login("worker")],
            ).fetchone()
        assert sessions is not None
        assert sessions[0] <= _SERVER_CONNECTIONS


def test_changes_are_read_through_a_pooler(field: Field) -> None:
    changed, stop = list[str](), threading.Event()
    with pooled(field) as behind:
        feed = ChangeFeed(behind.url, "crypto", field.server.passwords["crypto"])
        lost = threading.Event()
        thread = threading.Thread(target=feed.listen, args=(changed.append, lost.set, stop))
        thread.start()
        try:
            assert lost.wait(30)
            with field.administrator() as administrator:
                administrator.execute("update okcm.tenant set state = 'locked' where tenant_id = 'acme'")
            wait_until(lambda: tenant_hash("acme") in changed)
        finally:
            stop.set()
            thread.join()


def test_session_without_its_settings_is_rejected(field: Field) -> None:
    """The role has no defaults, as in a database that an older version prepared, and the pooler drops the options."""
    worker = login("worker")
    try:
        with field.administrator() as administrator:
            administrator.execute(f"alter role {worker} in database {field.name} set statement_timeout = 0")
        with (
            pooled(field) as behind,
            pytest.raises(DatabaseRefused, match="statement_timeout") as refused,
            behind.open("worker").tenant_tx("acme"),
        ):
            pass
        assert "own-servers.md#connection-poolers" in refused.value.hint
        with field.open("worker").tenant_tx("acme") as tx:
            assert tx.tenants.get() is not None
    finally:
        with field.administrator() as administrator:
            administrator.execute(f"alter role {worker} in database {field.name} reset all")


def test_pooler_that_rejects_the_options_is_reported(field: Field) -> None:
    with (
        pooled(field, more="") as behind,
        pytest.raises(DatabaseUnavailable),
        behind.open("worker").tenant_tx("acme"),
    ):
        pass
