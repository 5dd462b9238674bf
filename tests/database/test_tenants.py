from datetime import UTC, datetime, timedelta

import pytest

from database.connection.database import Database
from tests.database.fixtures import Field

ONE, OTHER = "1" * 64, "2" * 64
SOON = datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture
def dashboard(field: Field) -> Database:
    return field.open("dashboard")


def test_session_begins_once_and_ends_once(dashboard: Database) -> None:
    with dashboard.tenant_tx("acme") as tx:
        assert tx.sessions.begin(ONE, "ada", SOON)
        assert not tx.sessions.begin(ONE, "mallory", SOON + timedelta(days=1))
        kept = tx.sessions.get(ONE)
        assert (kept.subject, kept.expires_at, kept.ended_at) == ("ada", SOON, None)
        assert tx.sessions.end(ONE)
        assert not tx.sessions.end(ONE)
        assert not tx.sessions.begin(ONE, "ada", SOON)
        ended = tx.sessions.get(ONE)
        assert ended.ended_at is not None


def test_session_last_seen_time_never_decreases(dashboard: Database) -> None:
    with dashboard.tenant_tx("acme") as tx:
        tx.sessions.begin(ONE, "ada", SOON)
        tx.sessions.seen(ONE, SOON)
        tx.sessions.seen(ONE, SOON - timedelta(hours=2))
        kept = tx.sessions.get(ONE)
        assert kept.last_seen_at == SOON
