"""A database that rejects the login: operators learn that, and customers learn that it is unavailable."""

from collections.abc import Callable, Iterator

import psycopg
import pytest
from structlog.testing import capture_logs

from core.errors.platform import DatabaseLoginRefused, DatabaseUnavailable
from database.connection.database import Database
from database.connection.readiness import DatabaseReadiness
from database.postgres.errors import is_login_refused, unavailable_for_operator
from tests.concurrency import wait_until
from tests.database.fixtures import Field
from tests.ports import free_port

Open = Callable[..., Database]


@pytest.fixture
def connect(field: Field) -> Iterator[Open]:
    """Return a function that opens a database as the worker with a wrong password."""
    opened: list[Database] = []

    def connect(url: str = field.url) -> Database:
        opened.append(Database(url, "worker", "wrong", field.server.context_keys["worker"], max_size=1))
        return opened[-1]

    yield connect
    for one in opened:
        one.close()


def test_customer_learns_only_that_the_database_is_unavailable(connect: Open) -> None:
    database = connect()
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable) as failed, database.tenant_tx("acme"):
            pass
        assert type(failed.value) is DatabaseUnavailable
        assert failed.value.message == DatabaseUnavailable.message


def test_operator_learns_of_the_refused_login_from_error_log_and_readiness(connect: Open) -> None:
    database = connect()
    with capture_logs() as lines:
        for _ in range(2):
            with pytest.raises(DatabaseLoginRefused, match="rejects the login"):
                database.require_ready()
    (line,) = [line for line in lines if line["event"] == "database login refused"]
    assert (line["role"], line["code"], line["log_level"]) == ("okcm_worker", "database_login_refused", "error")
    assert "wrong" not in str(lines)
    readiness = DatabaseReadiness(database)
    readiness.start()
    try:
        wait_until(lambda: readiness.answer() == (503, {"status": "not_ready", "reasons": ["database_login_refused"]}))
    finally:
        readiness.stop()


def test_unreachable_server_refuses_no_login(connect: Open) -> None:
    with pytest.raises(DatabaseUnavailable) as failed:
        connect(f"postgresql://127.0.0.1:{free_port()}/openkcm").require_ready()
    assert type(failed.value) is DatabaseUnavailable


def test_role_without_login_is_named_until_it_may_log_in_again(field: Field) -> None:
    database = field.open("marketplace", max_size=1)
    database.require_ready()
    with field.administrator() as administrator:
        administrator.execute("alter role okcm_marketplace nologin")
        try:
            administrator.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'okcm_marketplace'"
            )
            with pytest.raises(DatabaseLoginRefused):
                database.require_ready()
        finally:
            administrator.execute("alter role okcm_marketplace login")
    with field.server.offline(field.name), pytest.raises(DatabaseUnavailable) as failed:
        database.require_ready()
    assert type(failed.value) is DatabaseUnavailable
    database.require_ready()


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('FATAL:  password authentication failed for user "okcm_worker"', True),
        ('FATAL:  role "okcm_worker" does not exist', True),
        ('FATAL:  role "okcm_worker" is not permitted to log in', True),
        (
            'FATAL:  no pg_hba.conf entry for host "10.0.0.7", user "okcm_worker", database "openkcm", SSL encryption',
            True,
        ),
        ("FATAL:  SASL authentication failed", True),
        ("fe_sendauth: no password supplied", True),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.7", user "okcm_worker", database "o", no encryption', False),
        ('FATAL:  database "openkcm" does not exist', False),
        ("FATAL:  sorry, too many clients already", False),
        ("Connection refused", False),
    ],
)
def test_refused_login_is_recognised_in_the_texts_of_server_pooler_and_library(text: str, *, expected: bool) -> None:
    assert is_login_refused(psycopg.OperationalError(f"connection failed: {text}")) is expected


@pytest.mark.unit
@pytest.mark.parametrize("sqlstate", ["28P01", "28000"])
def test_refused_login_is_recognised_by_its_sqlstate(sqlstate: str) -> None:
    refused = psycopg.errors.lookup(sqlstate)("abgelehnt")
    assert type(unavailable_for_operator(refused)) is DatabaseLoginRefused
