"""Reads of root key monitoring: changes, ends of use and pages, divided into shards."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from core.errors.keys import RootKeyDisabled
from core.keys.root_keys import AwsKmsKeyRef, Pkcs11KeyRef
from core.tenants.locks import HEALTHY, LockReason
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.platform.scheduled import PlatformQueries
from database.root_keys import MonitoredRootKey, RootKeyChanges, RootKeyRead
from tests.database.builders import a_root_key_id
from tests.database.fixtures import Field
from tests.database.templates import filled_template, two_tenants

LATELY = timedelta(seconds=90)
READ = RootKeyRead("eu-west-1", 0, 1, LATELY, since=None, tenants=(), after="", limit=100)

template = filled_template(two_tenants(active=True, root_keys=True))


class Reads:
    """Reads that continue one another."""

    def __init__(self, worker: Database) -> None:
        self.queries = PlatformQueries(worker)
        self.until = self.read(READ).until

    def read(self, read: RootKeyRead) -> RootKeyChanges:
        return self.queries.monitored_root_keys(read)

    def changed(self, *tenants: str) -> dict[str, MonitoredRootKey | None]:
        """Return the changes since the read before, and the root keys of `tenants`."""
        changes = self.read(READ._replace(since=self.until, tenants=tenants, limit=0))
        self.until = changes.until
        assert changes.listed == []
        return dict(changes.found)


@pytest.fixture
def worker(field: Field) -> Database:
    return field.open("worker")


@pytest.fixture
def reads(field: Field) -> Reads:
    return Reads(field.open("worker"))


def see(field: Field, at: datetime, tenant: str = "acme") -> None:
    with field.open("crypto", max_size=1).tenant_tx(tenant) as tx:
        tx.services.seen(["orders"], at)


def test_page_has_all_keys_and_further_pages_the_rest(reads: Reads) -> None:
    changes = reads.read(READ)
    assert list(changes.listed) == list(changes.found) == ["acme", "beta"]
    key = changes.found["acme"]
    assert key is not None
    assert (key.root_key_id, key.health, key.held) == (a_root_key_id("acme"), HEALTHY, False)
    assert key.endpoint == "openbao https://vault.example.com"
    assert reads.read(READ._replace(limit=1)).listed == ["acme"]
    assert reads.read(READ._replace(limit=1, after="acme")).listed == ["beta"]
    assert reads.read(READ._replace(after="beta")).listed == []


CHANGES: dict[str, Callable[[TenantTransaction], object]] = {
    "health": lambda tx: tx.root_keys.report(a_root_key_id("acme"), RootKeyDisabled.code),
    "lock": lambda tx: tx.tenants.hold(LockReason.ROOT_KEY),
}


@pytest.mark.parametrize("change", CHANGES)
def test_only_changed_keys_are_read(reads: Reads, worker: Database, change: str) -> None:
    assert reads.changed() == {}
    with worker.tenant_tx("acme") as tx:
        CHANGES[change](tx)
    found = reads.changed()
    assert list(found) == ["acme"]
    key = found["acme"]
    assert key is not None
    assert (key.health, key.held) == ((RootKeyDisabled.code, False) if change == "health" else (HEALTHY, True))
    assert reads.changed() == {}


def test_change_that_commits_after_later_ones_is_read(reads: Reads, worker: Database, field: Field) -> None:
    with worker.tenant_tx("acme") as tx:
        CHANGES["health"](tx)
        with field.open("worker", max_size=1).tenant_tx("beta") as other:
            other.tenants.hold(LockReason.ROOT_KEY)
        assert list(reads.changed()) == ["beta"]
        assert list(reads.changed()) == ["beta"], "the open transaction has the lower number"
    assert set(reads.changed()) == {"acme", "beta"}
    assert reads.changed() == {}


def test_first_use_after_a_pause_is_read_and_continuous_use_is_not(reads: Reads, field: Field) -> None:
    now = datetime.now(UTC)
    see(field, now - timedelta(seconds=40))
    first = reads.changed()["acme"]
    assert first is not None
    assert 0 < first.used_seconds < 51
    see(field, now - timedelta(seconds=20))
    assert reads.changed() == {}
    see(field, now + timedelta(seconds=11))
    assert list(reads.changed()) == ["acme"]


def test_an_open_page_counts_as_use_until_it_is_closed(reads: Reads, field: Field) -> None:
    dashboard = field.open("dashboard", max_size=1)
    for expected in (["acme"], []):  # a further view within the pause is no change
        with dashboard.tenant_tx("acme") as tx:
            tx.root_keys.mark_viewed()
        assert list(reads.changed()) == expected
    viewed = reads.changed("acme")["acme"]
    assert viewed is not None
    assert 80 < viewed.used_seconds <= 90
    with field.administrator() as administrator:
        administrator.execute("update okcm.root_key set viewed_at = viewed_at - interval '2 minutes'")
    closed = reads.changed("acme")["acme"]
    assert closed is not None
    assert closed.used_seconds <= 0


def test_a_page_waits_for_no_change_of_the_root_key(worker: Database, field: Field) -> None:
    with worker.tenant_tx("acme") as tx:
        CHANGES["health"](tx)
        with field.open("dashboard", max_size=1).tenant_tx("acme", call_seconds=2.0) as page:
            page.root_keys.mark_viewed()


def test_named_tenant_is_read_without_a_change(reads: Reads, field: Field) -> None:
    see(field, datetime.now(UTC) - timedelta(seconds=100))
    reads.changed()
    [(tenant, key)] = reads.changed("acme", "unknown").items()
    assert tenant == "acme"
    assert key is not None
    assert key.used_seconds <= 0


@pytest.mark.parametrize("change", ["state = 'offboarding', leaving_since = now()", "region = 'us-east-1'"])
def test_tenant_that_is_not_monitored_any_more_is_read_without_a_key(reads: Reads, field: Field, change: str) -> None:
    with field.administrator() as administrator:
        administrator.execute(f"update okcm.tenant set {change} where tenant_id = 'acme'")
    assert reads.changed() == {"acme": None}
    assert reads.read(READ).listed == ["beta"]


def test_each_tenant_is_in_one_shard(reads: Reads, field: Field) -> None:
    with field.administrator() as administrator:
        administrator.execute(
            "insert into okcm.tenant (tenant_id, organization, region, state)"
            " select 'many-' || n, 'many', 'eu-west-1', 'active' from generate_series(1, 60) n"
        )
        columns = "root_key_id, mode, name, place, credentials, state, probe, probe_digest"
        administrator.execute(
            f"insert into okcm.root_key (tenant_id, {columns}) select many.tenant_id, {columns}"
            " from okcm.root_key k, (select tenant_id from okcm.tenant where organization = 'many') many"
            " where k.tenant_id = 'acme'"
        )
    shards = [reads.read(READ._replace(shard=shard, shards=4)).listed for shard in range(4)]
    assert sorted(tenant for shard in shards for tenant in shard) == list(reads.read(READ).listed)
    assert all(shards)
    with field.administrator() as administrator:
        administrator.execute("update okcm.tenant set locks = '{manual}', unlocks_to = 'active', state = 'locked'")
    since = reads.until
    changed = [set(reads.read(READ._replace(shard=shard, shards=4, since=since, limit=0)).found) for shard in range(4)]
    assert changed == [set(shard) for shard in shards]


@pytest.mark.parametrize(
    ("place", "endpoint"),
    [
        (AwsKmsKeyRef(key_arn="arn:aws:kms:eu-west-1:111122223333:key/one"), "aws-kms eu-west-1"),
        (Pkcs11KeyRef(token="acme", key="root"), "pkcs11"),
    ],
)
def test_keys_of_one_server_have_one_endpoint(
    reads: Reads, field: Field, place: AwsKmsKeyRef | Pkcs11KeyRef, endpoint: str
) -> None:
    with field.administrator() as administrator:
        administrator.execute(
            "update okcm.root_key set mode = %s, place = %s where tenant_id = 'acme'",
            [place.provider, place.model_dump_json()],
        )
    key = reads.changed("acme")["acme"]
    assert key is not None
    assert key.endpoint == endpoint


def test_updates_of_a_used_service_stay_in_their_page(field: Field) -> None:
    now = datetime.now(UTC)
    with field.administrator() as administrator:

        def updates() -> tuple[int, int]:
            administrator.execute("select pg_stat_clear_snapshot(), pg_stat_force_next_flush()")
            row = administrator.execute(
                "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'service'"
            ).fetchone()
            assert row is not None
            return row

        see(field, now)
        for seconds in range(1, 20):
            see(field, now + timedelta(seconds=seconds))
        field.close()  # a closed session has flushed its counters
        total, hot = updates()
        assert total - hot <= 3, "the states of the service, and its first use"
