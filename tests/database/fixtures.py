"""A running PostgreSQL for tests, and clones of a migrated database."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field as dataclass_field

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import PoolTimeout

from config.settings import LOOPBACK
from core.errors.platform import DatabaseUnavailable
from database.connection.database import Database
from database.postgres.access import MIGRATOR, PROCESSES, login
from database.schema.setup import prepare_database
from devstack.servers.postgres import PostgresServer

_ATTEMPTS = 5


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL with the connection string of a superuser and the secrets of every role."""

    conninfo: str
    passwords: dict[str, str]
    context_keys: dict[str, bytes]

    def administrator(self, database: str) -> str:
        return make_conninfo(self.conninfo, dbname=database)

    @contextmanager
    def offline(self, database: str) -> Iterator[None]:
        """End every connection to a database and reject new ones, as during a restart of the server."""
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
    """The database of one test."""

    server: Server
    name: str
    url: str
    opened: list[Database] = dataclass_field(default_factory=list)

    def open(self, role: str, **sizes: int) -> Database:
        """Return connected access with a process's role, or unconnected access if the server does not accept it.

        The product waits two seconds for a connection, and the server of a busy machine may need more.
        """
        server = self.server
        database = Database(self.url, role, server.passwords[role], server.context_keys[role], **sizes)
        self.opened.append(database)
        for _ in range(_ATTEMPTS):
            try:
                database.require_ready()
            except DatabaseUnavailable as failed:
                if isinstance(failed.__cause__, PoolTimeout):
                    continue
            break
        return database

    def close(self) -> None:
        """Close all opened databases: a database with connections cannot be cloned or dropped."""
        for database in self.opened:
            database.close()

    def administrator(self) -> psycopg.Connection:
        return psycopg.connect(self.server.administrator(self.name), autocommit=True)

    def administrator_url(self) -> str:
        parts = conninfo_to_dict(self.server.conninfo)
        return f"postgresql://{parts['user']}:{parts['password']}@{parts['host']}:{parts['port']}/{self.name}"

    def session(self, role: str) -> psycopg.Connection:
        """Log in with a process's role without the product's code, as an attacker would."""
        return psycopg.connect(self.server.session(self.name, role))

    def key(self, role: str) -> bytes:
        return self.server.context_keys[role]

    def back_up(self) -> str:
        """Return the name of a copy of this database as it is now."""
        backup = f"backup_{secrets.token_hex(6)}"
        with self.server.offline(self.name), psycopg.connect(self.server.conninfo, autocommit=True) as administrator:
            copy_database(administrator, self.name, backup)
        return backup

    def restore(self, backup: str) -> None:
        """Replace this database by a copy; every connection ends, as during a restore."""
        with psycopg.connect(self.server.conninfo, autocommit=True) as administrator:
            administrator.execute(f"drop database {self.name} with (force)")
            administrator.execute(f"alter database {backup} rename to {self.name}")


def configure(running: PostgresServer) -> Server:
    """Return the running PostgreSQL with passwords and context keys for all roles, tuned for tests."""
    conninfo = make_conninfo(running.admin_conninfo, dbname="postgres")
    with psycopg.connect(conninfo, autocommit=True) as administrator:
        # The rows need not be durable and the passwords are random; all other settings are those of the real stack.
        # Every process logs in again for every test, with 4096 hashes on each side of the connection.
        administrator.execute("alter system set fsync = off")
        administrator.execute("alter system set scram_iterations = 1")
        administrator.execute("select pg_reload_conf()")
    return with_secrets(conninfo)


def with_secrets(conninfo: str) -> Server:
    """Return a server with new passwords and context keys for all roles."""
    return Server(
        conninfo,
        {role: secrets.token_hex(16) for role in (MIGRATOR, *PROCESSES)},
        {role: secrets.token_bytes(32) for role in PROCESSES},
    )


def prepare(server: Server, database: str) -> tuple[str, ...]:
    return prepare_database(
        server.administrator(database), passwords=server.passwords, context_keys=server.context_keys
    )


@contextmanager
def durable_database(running: PostgresServer) -> Iterator[Field]:
    """Start a new PostgreSQL with the settings of the real stack; yield its migrated, empty database."""
    running.prepare()
    running.start()
    try:
        running.wait_ready(60)
        server = with_secrets(make_conninfo(running.admin_conninfo, dbname="postgres"))
        name = "openkcm"
        prepare(server, name)
        field = Field(server, name, f"postgresql://{LOOPBACK}:{running.port}/{name}")
        try:
            yield field
        finally:
            field.close()
    finally:
        running.stop()


def copy_database(administrator: psycopg.Connection, template: str, name: str) -> None:
    """Create a database from a template without connections."""
    # Copying files takes less CPU than copying pages through the write-ahead log.
    administrator.execute(f"create database {name} template {template} strategy file_copy")
    # A clone does not have the grants on its template.
    logins = ", ".join(login(role) for role in (MIGRATOR, *PROCESSES))
    administrator.execute(f"revoke all on database {name} from public")
    administrator.execute(f"grant connect on database {name} to {logins}")


@contextmanager
def clone(server: Server, template: str) -> Iterator[Field]:
    """Yield a new database, cloned from `template`, and drop it at the end."""
    name = f"t_{secrets.token_hex(6)}"
    parts = conninfo_to_dict(server.conninfo)
    one = Field(server, name, f"postgresql://{parts['host']}:{parts['port']}/{name}")

    with psycopg.connect(server.conninfo, autocommit=True) as administrator:
        copy_database(administrator, template, name)
        try:
            yield one
        finally:
            one.close()
            administrator.execute(f"drop database {name} with (force)")
