from datetime import UTC, datetime, timedelta

import pytest

from database.connection import Database
from tests.database.fixtures import Field

ONE, OTHER = "1" * 64, "2" * 64
SOON = datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture
def dashboard(field: Field) -> Database:
    return field.open("dashboard")


def test_a_session_begins_once_and_ends_once(dashboard: Database) -> None:
    with dashboard.tenant_tx("acme") as tx:
        assert tx.sessions.begin(ONE, "ada", SOON)
        assert not tx.sessions.begin(ONE, "mallory", SOON + timedelta(days=1))
        kept = tx.sessions.get(ONE)
        assert kept is not None
        assert (kept.subject, kept.expires_at, kept.ended_at) == ("ada", SOON, None)
        assert tx.sessions.end(ONE)
        assert not tx.sessions.end(ONE)
        ended = tx.sessions.get(ONE)
        assert ended is not None
        assert ended.ended_at is not None


def test_an_ended_session_is_not_begun_again(dashboard: Database) -> None:
    with dashboard.tenant_tx("acme") as tx:
        tx.sessions.begin(ONE, "ada", SOON)
        tx.sessions.end(ONE)
        assert not tx.sessions.begin(ONE, "ada", SOON)
        ended = tx.sessions.get(ONE)
        assert ended is not None
        assert ended.ended_at is not None


def test_the_last_time_seen_only_moves_forward(dashboard: Database) -> None:
    with dashboard.tenant_tx("acme") as tx:
        tx.sessions.begin(ONE, "ada", SOON)
        tx.sessions.seen(ONE, SOON)
        tx.sessions.seen(ONE, SOON - timedelta(hours=2))
        kept = tx.sessions.get(ONE)
        assert kept is not None
        assert kept.last_seen_at == SOON


def test_a_session_is_one_tenants_and_another_neither_sees_nor_ends_it(dashboard: Database) -> None:
    with dashboard.tenant_tx("acme") as tx:
        tx.sessions.begin(ONE, "ada", SOON)
    with dashboard.tenant_tx("beta") as tx:
        assert tx.sessions.get(ONE) is None
        assert not tx.sessions.end(ONE)
    with dashboard.tenant_tx("acme") as tx:
        kept = tx.sessions.get(ONE)
        assert kept is not None
        assert kept.ended_at is None


def test_what_ended_long_ago_is_forgotten_when_another_begins(dashboard: Database) -> None:
    with dashboard.tenant_tx("acme") as tx:
        tx.sessions.begin(ONE, "ada", SOON - timedelta(days=31))
        tx.sessions.begin(OTHER, "ada", SOON)
        assert tx.sessions.get(ONE) is None
        assert tx.sessions.get(OTHER) is not None
