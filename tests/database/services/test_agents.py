"""Reports of agents and services: stored per service, with limits, and erased with the tenant's rows."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from core.errors.platform import DatabaseRefused
from database.connection.database import Database
from database.schema.migrate import read_migrations
from openkcm.contract.protected_fields import Backfill
from openkcm.contract.services import OTHER_PLACES
from tests.database.builders import (
    NOW,
    a_backfill,
    a_connected_service,
    a_contact,
    a_leaf,
    a_protection_use,
    a_provisioned_tenant,
)
from tests.database.fixtures import Field
from tests.database.templates import filled_template


def fill(field: Field) -> None:
    """Create the tenant acme with the service orders."""
    a_provisioned_tenant(field.open("worker", max_size=1), "acme")
    a_connected_service(field, "acme")
    with field.administrator() as administrator:
        administrator.execute("truncate okcm.agent, okcm.protection_use, okcm.backfill")


template = filled_template(fill)


@pytest.fixture
def crypto(field: Field) -> Database:
    return field.open("crypto", max_size=1)


def test_agent_has_one_row_and_older_heartbeats_are_ignored(crypto: Database) -> None:
    at = datetime.now(UTC)
    first = a_contact(last_contact_at=at)
    later = first._replace(problem="reload_failed", agent_version="0.2.0", last_contact_at=at + timedelta(seconds=30))
    for row in (first, later, first):
        with crypto.tenant_tx("acme") as tx:
            tx.agents.note([row], [])
    with crypto.tenant_tx("acme") as tx:
        assert tx.agents.all() == [later]


@pytest.mark.parametrize(
    "ends",
    [
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
        datetime(9999, 12, 31, 23, tzinfo=timezone(-timedelta(hours=1))),
    ],
)
def test_agent_that_no_reader_can_represent_is_rejected_and_an_earlier_one_deleted(
    field: Field, crypto: Database, ends: datetime
) -> None:
    """In UTC the first is in the year 1 BC, and the second in the year 10000."""
    with pytest.raises(DatabaseRefused), crypto.tenant_tx("acme") as tx:
        tx.agents.note([a_contact(certificate_not_after=ends)], [])
    with field.administrator() as administrator:
        administrator.execute("alter table okcm.agent drop constraint agent_certificate_not_after_check")
    kept = a_contact(instance="host-2")
    with crypto.tenant_tx("acme") as tx:
        tx.agents.note([a_contact(certificate_not_after=ends), kept], [])
    with pytest.raises(DatabaseRefused), crypto.tenant_tx("acme") as tx:
        tx.agents.all()
    (migration,) = (one for one in read_migrations() if one.name == "0035_agent_certificates.sql")
    with field.administrator() as administrator, administrator.transaction():
        administrator.execute("set local role okcm_owner")
        administrator.execute(migration.text.encode())
    with crypto.tenant_tx("acme") as tx:
        assert tx.agents.all() == [kept]


def test_only_the_fifty_newest_agents_of_a_service_are_kept(crypto: Database) -> None:
    at = datetime.now(UTC)
    many = [a_contact(instance=f"host-{n}", last_contact_at=at - timedelta(minutes=n)) for n in range(60)]
    forgotten = a_contact(instance="old", last_contact_at=at - timedelta(days=31))
    with crypto.tenant_tx("acme") as tx:
        tx.agents.note([forgotten], [])
    with crypto.tenant_tx("acme") as tx:
        tx.agents.note(many, [])
    with crypto.tenant_tx("acme") as tx:
        assert list(tx.agents.all()) == many[:50]


def test_reports_for_unknown_services_are_ignored(crypto: Database) -> None:
    with crypto.tenant_tx("acme") as tx:
        tx.agents.note([a_contact("unknown")], [a_protection_use("unknown")])
    with crypto.tenant_tx("acme") as tx:
        assert (tx.agents.all(), tx.agents.uses(NOW.date(), NOW.date())) == ([], [])


def test_uses_are_summed_by_day_and_place_and_capped(crypto: Database) -> None:
    use = a_protection_use()
    for _ in range(2):
        with crypto.tenant_tx("acme") as tx:
            tx.agents.note([], [use, use, a_protection_use(day=NOW.date() - timedelta(days=1))])
    with crypto.tenant_tx("acme") as tx:
        yesterday, today = tx.agents.uses(NOW.date() - timedelta(days=1), NOW.date())
    assert (yesterday.operations, yesterday.day) == (20, NOW.date() - timedelta(days=1))
    assert (today.operations, today.bytes, today.microseconds) == (40, 1280, 28)
    assert (today.requests, today.request_microseconds) == (16, 3600)
    for _ in range(3):
        with crypto.tenant_tx("acme") as tx:
            tx.agents.note([], [a_protection_use(bytes=2**62), a_protection_use(bytes=2**62)])
    with crypto.tenant_tx("acme") as tx:
        [today] = tx.agents.uses(NOW.date(), NOW.date())
    assert today.bytes == 9 * 10**18


def test_places_above_one_thousand_per_day_are_counted_together(crypto: Database) -> None:
    with crypto.tenant_tx("acme") as tx:
        tx.agents.note([], [a_protection_use(place=f"t.{n}") for n in range(1000)])
    with crypto.tenant_tx("acme") as tx:
        tx.agents.note([], [a_protection_use(place=f"t.{n}") for n in range(995, 1010)])
    with crypto.tenant_tx("acme") as tx:
        rows = {row.place: row.operations for row in tx.agents.uses(NOW.date(), NOW.date())}
    assert len(rows) == 1001
    assert (rows["t.994"], rows["t.995"], rows[OTHER_PLACES]) == (10, 20, 100)


def test_backfill_has_one_row_per_place_and_one_thousand_per_service(crypto: Database) -> None:
    at = datetime.now(UTC)
    first = a_backfill(reported_at=at)
    later = first._replace(done=100, remaining=0, state=Backfill.FINISHED, reported_at=at + timedelta(seconds=1))
    for row in (first, later, first, a_backfill("unknown")):
        with crypto.tenant_tx("acme") as tx:
            tx.agents.note_backfills([row])
    with crypto.tenant_tx("acme") as tx:
        assert tx.agents.backfills() == [later]
        tx.agents.note_backfills(
            [a_backfill(place=f"t.{n}", reported_at=at + timedelta(seconds=2)) for n in range(1000)]
        )
    with crypto.tenant_tx("acme") as tx:
        places = [row.place for row in tx.agents.backfills()]
    assert (len(places), first.place in places) == (1000, False)


def test_newest_returns_the_serial_of_the_newest_certificate(field: Field, crypto: Database) -> None:
    with field.open("worker", max_size=1).tenant_tx("acme") as tx:
        tx.services.record_leaf(a_leaf("5e6f", generation=2))
    with crypto.tenant_tx("acme") as tx:
        assert tx.agents.newest(["orders", "billing"]) == {"orders": "5e6f"}
