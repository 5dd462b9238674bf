"""Passwords and context keys of a database that is already set up: kept, or replaced without an interruption."""

import secrets
from collections.abc import Iterator

import psycopg
import pytest

from core.errors.platform import DatabaseUnavailable, SecretsDiffer
from core.existing_secrets import ExistingSecrets
from database.connection.database import Database
from database.postgres.access import MIGRATOR, PROCESSES, login
from database.schema.setup import prepare_database, require_same_secrets
from devstack.servers.postgres import PostgresServer
from tests.database.builders import a_provisioned_tenant
from tests.database.fixtures import Field, Server, durable_database, with_secrets
from tests.ports import free_port

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    """A separate server, because all databases of a server share its roles."""
    with durable_database(PostgresServer(tmp_path_factory.mktemp("postgres"), free_port())) as field:
        yield field


def state_of(field: Field) -> list[tuple[object, ...]]:
    """Return the version of each row that has a secret or a right."""
    with field.administrator() as administrator:
        return administrator.execute(
            "select xmin::text, rolname::text, rolpassword from pg_authid where rolname like 'okcm%'"
            " union all select xmin::text, role, inner_pad::text from okcm.context_key"
            " union all select xmin::text, nspname::text, nspacl::text from pg_namespace"
            " union all select xmin::text, datname::text, datacl::text from pg_database order by 1, 2, 3"
        ).fetchall()


def prepare(field: Field, wanted: Server, existing: ExistingSecrets) -> tuple[str, ...]:
    if existing is ExistingSecrets.KEEP:
        require_same_secrets(field.server.administrator(field.name), wanted.passwords, wanted.context_keys)
    return prepare_database(
        field.server.administrator(field.name),
        passwords=wanted.passwords,
        context_keys=wanted.context_keys,
        existing=existing,
    )


def sees_its_tenant(field: Field, password: str, key: bytes) -> bool:
    database = Database(field.url, "worker", password, key, max_size=1)
    try:
        with database.tenant_tx("acme") as tx:
            return tx.tenants.get() is not None
    finally:
        database.close()


def test_setup_with_other_passwords_changes_nothing(field: Field) -> None:
    before = state_of(field)
    other = with_secrets(field.server.conninfo)
    with pytest.raises(SecretsDiffer) as refused:
        prepare(field, other, ExistingSecrets.KEEP)
    assert all(login(role) in refused.value.message for role in (MIGRATOR, *PROCESSES))
    assert state_of(field) == before


def test_setup_with_one_other_secret_changes_nothing(field: Field) -> None:
    before, same = state_of(field), field.server
    for different in (
        Server(same.conninfo, same.passwords | {"crypto": secrets.token_hex(16)}, same.context_keys),
        Server(same.conninfo, same.passwords, same.context_keys | {"crypto": secrets.token_bytes(32)}),
    ):
        with pytest.raises(SecretsDiffer, match="okcm_crypto") as refused:
            prepare(field, different, ExistingSecrets.KEEP)
        assert "okcm_worker" not in refused.value.message
    assert state_of(field) == before


def test_setup_for_a_missing_database_of_a_prepared_server_creates_none(field: Field) -> None:
    other = with_secrets(field.server.conninfo)
    name = f"t_{secrets.token_hex(6)}"
    with pytest.raises(SecretsDiffer):
        require_same_secrets(field.server.administrator(name), other.passwords, other.context_keys)
    with psycopg.connect(field.server.conninfo) as administrator:
        assert administrator.execute("select from pg_database where datname = %s", [name]).fetchone() is None


def test_setup_without_secrets_of_a_prepared_server_is_rejected(field: Field) -> None:
    same = field.server
    for lacking, missing in (
        (({}, {}), "this host has no password of okcm_migrator"),
        ((same.passwords, {}), "this host has no context key of okcm_worker"),
    ):
        with pytest.raises(SecretsDiffer, match=missing):
            require_same_secrets(same.administrator(field.name), *lacking)


def test_secrets_are_replaced_without_an_interruption(running: Field) -> None:
    a_provisioned_tenant(running.open("worker"), "acme")
    former, new = running.server, with_secrets(running.server.conninfo)
    both = f"{new.passwords['worker']}\n{former.passwords['worker']}"
    old_process = former.passwords["worker"], former.context_keys["worker"]
    restarted = both, new.context_keys["worker"]
    assert not sees_its_tenant(running, *restarted)

    for _ in range(2):
        prepare(running, new, ExistingSecrets.ADD)
        assert sees_its_tenant(running, *old_process)
        assert sees_its_tenant(running, *restarted)

    for _ in range(2):
        prepare(running, new, ExistingSecrets.REPLACE)
        assert sees_its_tenant(running, *restarted)
        assert sees_its_tenant(running, new.passwords["worker"], new.context_keys["worker"])
        assert not sees_its_tenant(running, new.passwords["worker"], former.context_keys["worker"])
        with pytest.raises(DatabaseUnavailable):
            sees_its_tenant(running, *old_process)

    assert prepare(running, new, ExistingSecrets.KEEP) == ()
    with pytest.raises(SecretsDiffer):
        prepare(running, former, ExistingSecrets.KEEP)
