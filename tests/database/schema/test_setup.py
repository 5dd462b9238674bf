import secrets

import psycopg
import pytest

from core.errors.platform import DatabaseUnavailable, SchemaRefused
from core.existing_secrets import ExistingSecrets
from database.connection.database import Database
from database.postgres.access import MIGRATOR
from database.schema.migrate import read_migrations
from database.schema.setup import prepare_database, require_prepared
from tests.database.builders import a_provisioned_tenant
from tests.database.fixtures import Field, Server, prepare


def test_empty_server_is_prepared_once(server: Server) -> None:
    name = f"t_{secrets.token_hex(6)}"
    try:
        assert prepare(server, name) == tuple(migration.name for migration in read_migrations())
        assert prepare(server, name) == ()
    finally:
        with psycopg.connect(server.conninfo, autocommit=True) as administrator:
            administrator.execute(f"drop database {name}")


def test_database_without_a_migration_of_this_version_is_rejected(field: Field) -> None:
    password = field.server.passwords[MIGRATOR]
    require_prepared(field.url, password)
    with field.administrator() as administrator:
        administrator.execute("delete from okcm.schema_migration")
        with pytest.raises(SchemaRefused, match="lacks migrations") as refused:
            require_prepared(field.url, password)
        administrator.execute("drop table okcm.schema_migration")
        with pytest.raises(SchemaRefused):
            require_prepared(field.url, password)

    assert "openkcmctl setup database" in refused.value.hint


def test_repeated_setup_writes_no_row(field: Field) -> None:
    versions = (
        "select xmin::text, ctid::text from okcm.schema_migration"
        " union all select xmin::text, ctid::text from okcm.context_key"
    )
    with field.administrator() as administrator:
        before = administrator.execute(versions).fetchall()
        prepare(field.server, field.name)
        assert administrator.execute(versions).fetchall() == before


def test_setup_revokes_manually_added_role_attributes(field: Field) -> None:
    with field.administrator() as administrator:
        administrator.execute("alter role okcm_worker createrole inherit")
        prepare(field.server, field.name)
        rights = "select rolcreaterole, rolinherit from pg_roles where rolname = 'okcm_worker'"
        assert administrator.execute(rights).fetchone() == (False, False)


def test_new_context_key_replaces_the_old_one(field: Field) -> None:
    a_provisioned_tenant(field.open("worker"), "acme")
    fresh = {role: secrets.token_bytes(32) for role in field.server.context_keys}
    prepare_database(
        field.server.administrator(field.name),
        passwords=field.server.passwords,
        context_keys=fresh,
        existing=ExistingSecrets.REPLACE,
    )
    with field.open("worker").tenant_tx("acme") as tx:
        assert tx.tenants.get() is None
    renewed = Database(field.url, "worker", field.server.passwords["worker"], fresh["worker"])
    with renewed.tenant_tx("acme") as tx:
        assert tx.tenants.get() is not None
    renewed.close()


def test_passwords_are_stored_as_scram_verifiers(field: Field) -> None:
    with field.administrator() as administrator:
        kept = administrator.execute(
            "select rolpassword from pg_authid where rolname like 'okcm%' and rolcanlogin"
        ).fetchall()
    assert len(kept) == len(field.server.passwords)
    assert all(verifier.startswith("SCRAM-SHA-256$") for (verifier,) in kept)


def test_setup_raises_unavailable_without_a_server(server: Server) -> None:
    with pytest.raises(DatabaseUnavailable):
        prepare_database(
            "host=127.0.0.1 port=1 dbname=x user=x", passwords=server.passwords, context_keys=server.context_keys
        )
