"""A running PostgreSQL as tests use it, and clones of a migrated database."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field as dataclass_field

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from database.connection.database import Database
from database.postgres.access import MIGRATOR, PROCESSES, login
from database.schema.setup import prepare_database
from devstack.servers.postgres import PostgresServer


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
    opened: list[Database] = dataclass_field(default_factory=list)

    def open(self, role: str, **sizes: int) -> Database:
        server = self.server
        self.opened.append(Database(self.url, role, server.passwords[role], server.context_keys[role], **sizes))
        return self.opened[-1]

    def close(self) -> None:
        """Close what was opened; a database with connections cannot be cloned or dropped."""
        for database in self.opened:
            database.close()

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


def configure(running: PostgresServer) -> Server:
    """Return the running PostgreSQL with passwords and context keys for all roles, made fast for tests."""
    conninfo = make_conninfo(running.admin_conninfo, dbname="postgres")
    with psycopg.connect(conninfo, autocommit=True) as administrator:
        # These rows need not outlive the test and these passwords are random; nothing else differs from the real
        # stack. Every process logs in again for every test, with 4096 hashes on either side of the connection.
        administrator.execute("alter system set fsync = off")
        administrator.execute("alter system set scram_iterations = 1")
        administrator.execute("select pg_reload_conf()")
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
def clone(server: Server, template: str) -> Iterator[Field]:
    """Give a database of its own, made from `template`, and drop it at the end."""
    name = f"t_{secrets.token_hex(6)}"
    parts = conninfo_to_dict(server.conninfo)
    one = Field(server, name, f"postgresql://{parts['host']}:{parts['port']}/{name}")

    with psycopg.connect(server.conninfo, autocommit=True) as administrator:
        # Copying files takes less CPU than writing them through the log.
        administrator.execute(f"create database {name} template {template} strategy file_copy")
        try:
            # Rights on the database itself are not cloned.
            logins = ", ".join(login(role) for role in (MIGRATOR, *PROCESSES))
            administrator.execute(f"revoke all on database {name} from public")
            administrator.execute(f"grant connect on database {name} to {logins}")
            yield one
        finally:
            one.close()
            administrator.execute(f"drop database {name} with (force)")
