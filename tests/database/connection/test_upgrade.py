"""Upgrade of a database of an earlier release: its rows are kept."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from database.connection.database import Database
from database.postgres.access import MIGRATOR, OWNER, PROCESSES, login, pads
from database.schema.migrate import read_migrations
from devstack.servers.postgres import PostgresServer
from openkcm.contract.audit_events import verify_chain
from tests.database.builders import a_connected_service, an_audit_event
from tests.database.fixtures import Field, Server, prepare
from tests.ports import free_port

pytestmark = pytest.mark.integration  # starts a separate PostgreSQL
NAME = "okcm"
BEFORE = 5
"""The last migration before the crypto service existed."""

SCHEMA = f"""
create schema okcm authorization {OWNER};
set role {OWNER};
create table okcm.schema_migration (version integer primary key, name text not null, sha256 text not null,
    applied_at timestamptz not null default now());
"""
ROWS = """
reset role;
insert into okcm.tenant (tenant_id, organization, region, state) values ('acme', 'ACME', 'eu-west-1', 'active');
insert into okcm.key (tenant_id, name, kind, version) values ('acme', 'L2-acme-primary', 'L2', 1);
insert into okcm.certificate_authority values ('acme', 'aa', 'certificate', 'chain', now());
insert into okcm.route values ('acme', 'L2-acme-primary', repeat('a', 64), 'eu-west-1');
"""


@pytest.fixture
def older(tmp_path: Path) -> Iterator[Field]:
    """A database of the earlier release, on a separate server because roles are shared by a whole server."""
    running = PostgresServer(tmp_path, free_port())
    running.prepare()
    running.start()
    running.wait_ready(60)
    passwords = {role: secrets.token_hex(16) for role in (MIGRATOR, *PROCESSES)}
    server = Server(running.admin_conninfo, passwords, {role: secrets.token_bytes(32) for role in PROCESSES})
    field = Field(server, NAME, f"postgresql://127.0.0.1:{running.port}/{NAME}")
    with psycopg.connect(server.administrator("postgres"), autocommit=True) as administrator:
        administrator.execute(f"create database {NAME} template template0 encoding 'UTF8' locale 'C'")
        _create_roles(administrator, server)
    with field.administrator() as administrator:
        _create_schema(administrator, server)
    yield field
    field.close()
    running.stop()


def _roles() -> list[str]:
    return [role for role in PROCESSES if role not in {"crypto", "dashboard"}]


def _create_roles(administrator: psycopg.Connection, server: Server) -> None:
    administrator.execute(f"create role {OWNER} nologin")
    for role in (MIGRATOR, *_roles()):
        administrator.execute(f"create role {login(role)} login noinherit password '{server.passwords[role]}'")
    administrator.execute(f"grant {OWNER} to {login(MIGRATOR)}")


def _create_schema(administrator: psycopg.Connection, server: Server) -> None:
    administrator.execute(SCHEMA)
    for migration in read_migrations()[:BEFORE]:
        administrator.execute(migration.text.encode())
        administrator.execute(
            "insert into okcm.schema_migration (version, name, sha256) values (%s, %s, %s)",
            [migration.version, migration.name, migration.sha256],
        )
    for role in _roles():
        administrator.execute(
            "insert into okcm.context_key values (%s, %s, %s)", [login(role), *pads(server.context_keys[role])]
        )
    administrator.execute(ROWS)


def stored_rows(worker: Database) -> tuple[object, ...]:
    with worker.raw_tx("acme") as connection:
        tenant = connection.execute("select organization, state, root_key_mode from okcm.tenant").fetchone()
        authority = connection.execute("select serial, chain_pem from okcm.certificate_authority").fetchone()
        route = connection.execute("select l2_key, issuer_fingerprint from okcm.route").fetchone()
        keys = connection.execute("select name, kind, version, created_at from okcm.key").fetchall()
    with worker.tenant_tx("acme") as tx:
        rows = (tenant, keys, authority, route, tx.audit.records())
        assert all(rows)
        return rows


def test_upgrade_keeps_rows_and_adds_the_role_of_the_crypto_service(older: Field) -> None:
    worker = older.open("worker", max_size=1)
    with worker.raw_tx("acme") as connection:
        connection.execute("select okcm.audit_append(%s::jsonb)", [an_audit_event("before").as_json()])
    before = stored_rows(worker)

    assert prepare(older.server, NAME) == tuple(migration.name for migration in read_migrations()[BEFORE:])
    assert prepare(older.server, NAME) == ()

    assert stored_rows(worker) == before
    with worker.tenant_tx("acme") as tx:
        [key] = tx.keys.all()
        assert key.rotated_at == key.created_at
    a_connected_service(older, "acme", serial="aa01")
    with older.open("crypto").tenant_tx("acme") as tx:
        assert tx.services.caller("aa01") is not None
        assert [row.object_id for row in tx.objects.of_service("orders")] == ["object-orders"]
        tx.audit.append_all([an_audit_event("after")])
    with worker.tenant_tx("acme") as tx:
        assert tx.audit.append(an_audit_event("before")) == 1
        assert verify_chain(tx.audit.records()) == tx.audit.head()
