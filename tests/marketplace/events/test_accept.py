"""An event and a destruction at the same moment: one of the two sees the other, whichever is first."""

from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from core.errors.tenants import RestorePending, TenantOffboarded
from core.tenants.provisioning import MarketplaceEvent
from database.connection.database import Database
from marketplace.events.accept import accept
from tests.concurrency import wait_until
from tests.database.builders import an_event
from tests.database.fixtures import Field
from tests.database.templates import filled_template, two_tenants

ACME = "acme"
template = filled_template(two_tenants(active=True))


@pytest.fixture
def leaving(worker: Database) -> Database:
    """The worker's database, with a tenant whose grace period has ended."""
    with worker.tenant_tx(ACME) as tx:
        tx.leaving.begin(timedelta())
    return worker


def an_enable() -> MarketplaceEvent:
    return an_event(ACME, "again", timestamp=datetime.now(UTC))


def begin_destruction(worker: Database) -> bool:
    with worker.tenant_tx(ACME) as tx:
        return tx.leaving.begin_destruction(datetime.now(UTC) + timedelta(seconds=1))


def wait_for_the_lock(field: Field, waiting: Future[object]) -> None:
    """Wait until the transaction of another thread waits for a lock, or fails to."""
    with field.administrator() as administrator:
        query = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        wait_until(lambda: waiting.done() or administrator.execute(query).fetchone() == (1,), seconds=3)


def test_destruction_sees_the_enable_that_is_stored_before_it(leaving: Database, field: Field) -> None:
    with ThreadPoolExecutor(1) as thread:
        with field.open("marketplace").tenant_tx(ACME) as tx:
            assert tx.inbox.accept(an_enable())
            destruction = thread.submit(begin_destruction, leaving)
            wait_for_the_lock(field, destruction)
        with pytest.raises(RestorePending):
            destruction.result()


def test_enable_sees_the_destruction_that_began_before_it(leaving: Database, field: Field) -> None:
    marketplace = field.open("marketplace")
    with ThreadPoolExecutor(1) as thread:
        with leaving.tenant_tx(ACME) as tx:
            assert tx.leaving.begin_destruction(datetime.now(UTC) + timedelta(seconds=1))
            accepted = thread.submit(accept, marketplace, an_enable(), "127.0.0.1")
            wait_for_the_lock(field, accepted)
        with pytest.raises(TenantOffboarded):
            accepted.result()
    with marketplace.tenant_tx(ACME) as tx:
        assert "again" not in [event_id for event_id, _ in tx.inbox.unstarted_changes()]
