"""`openkcmctl setup database` with an administrator that is not a superuser, on each supported PostgreSQL."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from core.errors.platform import DatabaseRefused
from database.connection.database import Database
from database.postgres.access import MIGRATOR, OWNER, PROCESSES, login
from database.schema.migrate import read_migrations
from database.schema.setup import prepare_database
from tests.database.builders import a_provisioned_tenant
from tests.database.schema import postgres_versions

pytestmark = pytest.mark.integration
_LONG = pytest.mark.full
_ENOUGH = "login createrole createdb"


@dataclass(frozen=True)
class BareServer:
    """A PostgreSQL that has only its superuser."""

    conninfo: str
    passwords: dict[str, str] = field(default_factory=lambda: {r: secrets.token_hex(8) for r in (MIGRATOR, *PROCESSES)})
    keys: dict[str, bytes] = field(default_factory=lambda: {r: secrets.token_bytes(32) for r in PROCESSES})

    @property
    def version(self) -> int:
        ((number,),) = self.execute("show server_version_num")
        return int(str(number)) // 10000

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        with psycopg.connect(self.conninfo, dbname=database, autocommit=True) as superuser:
            done = superuser.execute(statement)
            return done.fetchall() if done.description else []

    def prepare(self, administrator: str, database: str = "own") -> tuple[str, ...]:
        conninfo = make_conninfo(self.conninfo, user=administrator, dbname=database)
        return prepare_database(conninfo, passwords=self.passwords, context_keys=self.keys)

    def open(self, role: str) -> Database:
        parts = conninfo_to_dict(self.conninfo)
        url = f"postgresql://{parts['host']}:{parts['port']}/own"
        return Database(url, role, self.passwords[role], self.keys[role])


@pytest.fixture(
    params=["15", pytest.param("16", marks=_LONG), pytest.param("17", marks=_LONG), "embedded"],
)
def server(request: pytest.FixtureRequest) -> Iterator[BareServer]:
    with postgres_versions.running(request.param) as conninfo:
        yield BareServer(conninfo)


def test_setup_needs_no_superuser_and_reports_missing_rights(server: BareServer) -> None:
    for name, rights in {"installer": _ENOUGH, "weak": "login", "other": "login createrole"}.items():
        server.execute(f"create role {name} {rights}")
    server.execute("create database foreign_one")
    for administrator, database, reason in (
        ("weak", "own", "permission denied to create database"),
        ("other", "foreign_one", "does not own the database"),
    ):
        with pytest.raises(DatabaseRefused, match=reason) as refused:
            server.prepare(administrator, database)
        assert "CREATEROLE and CREATEDB" in refused.value.hint

    assert server.prepare("installer") == tuple(migration.name for migration in read_migrations())
    assert server.prepare("installer") == ()

    database = server.open("worker")
    a_provisioned_tenant(database, "acme")
    database.close()
    # The administrator keeps no membership with which its session could act as the owner of all rows.
    with (
        psycopg.connect(server.conninfo, user="installer", dbname="own") as session,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        session.execute(f"set role {OWNER}")

    server.execute(f"create role second {_ENOUGH}; alter database own owner to second")
    if server.version >= 16:  # before, CREATEROLE included the right to change every role
        with pytest.raises(DatabaseRefused, match="permission denied to alter role") as refused:
            server.prepare("second")
        assert "use the same role again" in refused.value.hint
        roles = ", ".join(login(role) for role in (MIGRATOR, *PROCESSES))
        server.execute(f"grant {OWNER}, {roles} to second with admin option")
    assert server.prepare("second") == ()
