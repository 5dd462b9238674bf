"""Two setups of one database: the second one waits, names the first one, and gives up without an effect."""

import psycopg
import pytest

from core.errors.platform import DatabaseUnavailable
from database.schema import migrate as migrations
from database.schema import setup
from database.schema.setup_lock import APPLICATION_NAME
from tests.database.fixtures import Field

LOCKS = {"the roles": setup._LOCK, "the migrations": migrations._LOCK}


def prepare(field: Field, *, seconds: float = 60) -> tuple[list[str], tuple[str, ...]]:
    """Return the reported lines and the applied migrations."""
    reported: list[str] = []
    applied = setup.prepare_database(
        field.server.administrator(field.name),
        passwords=field.server.passwords,
        context_keys=field.server.context_keys,
        report=reported.append,
        lock_seconds=seconds,
    )
    return reported, applied


def hold(field: Field, lock: int) -> psycopg.Connection:
    """Return the session of another setup, which holds a lock."""
    session = psycopg.connect(
        field.server.session(field.name, "migrator"), autocommit=True, application_name=APPLICATION_NAME
    )
    session.execute("select pg_advisory_lock(%s)", [lock])
    return session


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_setup_gives_up_and_names_the_session_that_holds_the_lock_of(field: Field, lock: int) -> None:
    with hold(field, lock) as other:
        pid = other.info.backend_pid
        with pytest.raises(DatabaseUnavailable) as failed:
            prepare(field, seconds=1.5)
        assert f"session {pid} ({APPLICATION_NAME}, okcm_migrator, since 2" in failed.value.message
        assert "did not end in 1.5 s" in failed.value.message
        assert f"select pg_terminate_backend({pid})" in failed.value.hint
        assert other.execute("select pg_advisory_unlock(%s)", [lock]).fetchone() == (True,)
    assert prepare(field) == ([], ())


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_setup_continues_when_the_other_one_ends(field: Field, lock: int) -> None:
    reported: list[str] = []
    with hold(field, lock) as other:
        pid = other.info.backend_pid

        def report(line: str) -> None:
            reported.append(line)
            other.execute("select pg_advisory_unlock(%s)", [lock])

        setup.prepare_database(
            field.server.administrator(field.name),
            passwords=field.server.passwords,
            context_keys=field.server.context_keys,
            report=report,
        )
    (line,) = reported
    assert line.startswith(f"waits for another setup of this database, at most 900 s: session {pid} (")


def test_sessions_of_the_setup_have_a_name(field: Field) -> None:
    with setup._connect(field.server.administrator(field.name)) as connection:
        shown = connection.execute("show application_name").fetchone()
    assert shown == (APPLICATION_NAME,)
