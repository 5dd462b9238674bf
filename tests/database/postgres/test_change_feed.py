import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.errors.keys import RootKeyUnreachable
from core.keys.root_keys import RootKeyMode
from core.tenants.lifecycle import Transition
from core.tenants.policy import TenantPolicy
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.postgres import change_feed
from database.postgres.change_feed import AUTHORITIES, ChangeFeed, object_hash, tenant_hash
from database.rotation import RewrappedRow
from openkcm.contract.services import ServiceKind
from tests.concurrency import wait_until
from tests.database.builders import (
    NOW,
    a_connected_service,
    a_leaf,
    a_provisioned_tenant,
    a_root_key,
    a_root_key_id,
    a_route,
    a_service_key,
    a_wanted_rotation,
    an_audit_event,
    an_authority,
    an_event,
    an_object,
    some_uses,
)
from tests.database.fixtures import Field
from tests.database.templates import filled_template

LOST = "lost"
KIND = ServiceKind.MONGODB
DEADLINE = 60.0
"""Seconds within which every notification arrives, even on a busy machine."""


class RecordingFeed:
    """A running feed and its notifications, in order."""

    def __init__(self, field: Field) -> None:
        self.received: queue.Queue[str] = queue.Queue()
        self.stop = threading.Event()
        feed = ChangeFeed(field.url, "crypto", field.server.passwords["crypto"])
        self.thread = threading.Thread(
            target=feed.listen, args=(self.received.put, lambda: self.received.put(LOST), self.stop), daemon=True
        )
        self.thread.start()

    def next(self) -> str:
        return self.received.get(timeout=DEADLINE)

    def end(self) -> None:
        self.stop.set()
        self.thread.join(DEADLINE)
        assert not self.thread.is_alive()


def fill(field: Field) -> None:
    worker = field.open("worker")
    for tenant in ("acme", "beta"):
        a_provisioned_tenant(worker, tenant)
        a_connected_service(field, tenant)
        a_root_key(field, tenant)
    with worker.tenant_tx("acme") as tx:
        tx.rotations.begin(2, a_wanted_rotation(), 1)
        tx.rotations.prepare(2, a_service_key("acme", version=2))


template = filled_template(fill)


@pytest.fixture
def tenants(field: Field) -> Field:
    return field


@pytest.fixture
def listener(tenants: Field) -> Iterator[RecordingFeed]:
    running = RecordingFeed(tenants)
    assert running.next() == LOST
    yield running
    running.end()


def received_before_the_next_change(listener: RecordingFeed, worker: Database, service: str = "next") -> list[str]:
    """Return the notifications before one for beta, which a new service changes."""
    with worker.tenant_tx("beta") as tx:
        tx.services.connect(service, KIND)
        tx.services.connected(service)
    received = []
    while (notification := listener.next()) != tenant_hash("beta"):
        received.append(notification)
    return received


Act = Callable[[TenantTransaction], object]


READABLE = TenantPolicy(revoked_keys_readable=True)
RECORDED = TenantPolicy(resources_recorded=True)
BOTH = TenantPolicy(revoked_keys_readable=True, resources_recorded=True)


def change_to_the_platforms_key(tx: TenantTransaction) -> None:
    tx.root_keys.begin(2, RootKeyMode.PLATFORM, "root-eu-west-1", None)
    tx.root_keys.stage(2, [(row, b"again") for row in tx.root_keys.unstaged(2, 100)])
    assert tx.root_keys.switch(2)


CHANGES: dict[str, tuple[str, Act]] = {
    "tenant": ("worker", lambda tx: tx.tenants.move(Transition.ACTIVATE)),
    "route": ("worker", lambda tx: tx.routes.publish(a_route("acme")._replace(region="us-east-1"))),
    "route-withdrawn": ("worker", lambda tx: tx.routes.withdraw()),
    "service": ("worker", lambda tx: (tx.services.connect("users", KIND), tx.services.connected("users"))),
    "service_certificate": ("worker", lambda tx: tx.services.record_leaf(a_leaf("aa02", generation=2))),
    "service_certificate-revoked": ("worker", lambda tx: tx.services.disconnect("orders")),
    "service_key": (
        "worker",
        lambda tx: (tx.services.connect("users", KIND), tx.services.record_key(a_service_key("acme", "users"))),
    ),
    "service_key-rotated": ("worker", lambda tx: tx.rotations.activate(2)),
    "service_key-destroyed": ("worker", lambda tx: tx.rotations.end(2)),
    "root_key": ("worker", change_to_the_platforms_key),
    "tenant_policy": ("worker", lambda tx: tx.policy.set(READABLE)),
    "tenant_policy-changed": ("worker", lambda tx: (tx.policy.set(TenantPolicy()), tx.policy.set(READABLE))),
    "tenant_policy-recorded": ("worker", lambda tx: tx.policy.set(RECORDED)),
    "tenant_policy-both": ("worker", lambda tx: tx.policy.set(BOTH)),
    "tenant_policy-recorded-later": ("worker", lambda tx: (tx.policy.set(TenantPolicy()), tx.policy.set(RECORDED))),
    "tenant_policy-both-later": ("worker", lambda tx: (tx.policy.set(TenantPolicy()), tx.policy.set(BOTH))),
}  # fmt: skip
DESTROYED = an_object("acme", "object-orders", state=5, material=None)
OF_OBJECTS: dict[str, Act] = {
    "changed": lambda tx: tx.objects.change(an_object("acme", "object-orders", state=3)),
    "removed": lambda tx: (tx.objects.change(DESTROYED), tx.objects.remove("orders", "object-orders")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_committed_change_is_notified_with_the_tenants_hash(
    tenants: Field, listener: RecordingFeed, worker: Database, change: str
) -> None:
    role, act = CHANGES[change]
    with tenants.open(role).tenant_tx("acme") as tx:
        act(tx)
    assert received_before_the_next_change(listener, worker) == [tenant_hash("acme")]


@pytest.mark.parametrize("change", OF_OBJECTS)
def test_change_of_objects_is_notified_with_a_separate_hash(
    tenants: Field, listener: RecordingFeed, worker: Database, change: str
) -> None:
    with tenants.open("crypto").tenant_tx("acme") as tx:
        OF_OBJECTS[change](tx)
    assert received_before_the_next_change(listener, worker) == [object_hash("acme")]
    assert object_hash("acme") not in {tenant_hash("acme"), tenant_hash("beta"), object_hash("beta")}


def test_new_certificate_authority_is_notified(listener: RecordingFeed, worker: Database) -> None:
    with worker.tenant_tx("gamma") as tx:
        tx.tenants.request(an_event("gamma"))
        tx.certificates.record_authority(an_authority("cc"))
    assert sorted(received_before_the_next_change(listener, worker)) == sorted([tenant_hash("gamma"), AUTHORITIES])


def test_every_table_with_notifications_is_covered(tenants: Field) -> None:
    with tenants.administrator() as administrator:
        rows = administrator.execute(
            "select tgrelid::regclass::text from pg_trigger where tgname = 'announce_change'"
        ).fetchall()
    changed = {f"okcm.{name.partition('-')[0]}" for name in CHANGES} | {
        "okcm.certificate_authority",
        "okcm.managed_object",
    }
    assert {table for (table,) in rows} == changed


def test_irrelevant_changes_are_not_notified(tenants: Field, listener: RecordingFeed, worker: Database) -> None:
    with tenants.open("crypto").tenant_tx("acme") as tx:
        tx.services.seen(["orders"], NOW)
        tx.usage.add([some_uses()], "batch")
        tx.objects.add([an_object("acme")])
        tx.audit.append_all([an_audit_event("quiet")])
    with worker.tenant_tx("acme") as tx:
        tx.tenants.break_promise()
        tx.routes.publish(a_route("acme"))
        tx.services.connect("orders", KIND)
        tx.services.record_leaf(a_leaf())
        for days in (30, 60):
            tx.policy.set(TenantPolicy(service_key_days=days))
        # A version that is not used yet, and a new wrap of the same key.
        tx.rotations.prepare(2, a_service_key("acme", version=3))
        tx.rotations.rotated(2, 2)
        tx.rotations.rewrap(2, [RewrappedRow(row, b"again", 2) for row in tx.rotations.outdated(10)])
        # Unreachable is not disabled: cached keys remain valid.
        assert tx.root_keys.report(a_root_key_id("acme"), RootKeyUnreachable.code)
        tx.root_keys.begin(2, RootKeyMode.PLATFORM, "root-eu-west-1", None)
        tx.root_keys.stage(2, [(row, b"again") for row in tx.root_keys.unstaged(2, 100)])
    assert received_before_the_next_change(listener, worker) == []


def test_rolled_back_change_is_not_notified(listener: RecordingFeed, worker: Database) -> None:
    with pytest.raises(ZeroDivisionError), worker.tenant_tx("acme") as tx:  # noqa: PT012 - the whole block raises
        tx.services.disconnect("orders")
        raise ZeroDivisionError
    assert received_before_the_next_change(listener, worker) == []


def test_changes_of_a_tenant_in_one_transaction_cause_one_notification(
    listener: RecordingFeed, worker: Database
) -> None:
    with worker.tenant_tx("acme") as tx:
        tx.services.disconnect("orders")
        tx.tenants.move(Transition.ACTIVATE)
        tx.routes.withdraw()
    assert received_before_the_next_change(listener, worker) == [tenant_hash("acme")]
    assert "acme" not in tenant_hash("acme")
    assert len(tenant_hash("acme")) == 64


def test_change_that_commits_after_later_ones_is_notified_once(
    listener: RecordingFeed, tenants: Field, worker: Database
) -> None:
    with worker.tenant_tx("acme") as tx:
        tx.services.disconnect("orders")
        assert received_before_the_next_change(listener, tenants.open("worker")) == []
        assert received_before_the_next_change(listener, tenants.open("worker"), "second") == []
    assert received_before_the_next_change(listener, worker, "third") == [tenant_hash("acme")]
    assert received_before_the_next_change(listener, worker, "fourth") == []


def test_commits_of_changes_do_not_wait_for_one_another(tenants: Field) -> None:
    change = "update okcm.service set state = 'disconnected' where tenant_id = %s"

    def commit(tenant: str, synchronous: str) -> None:
        with tenants.administrator() as session:
            session.execute(f"set synchronous_commit = {synchronous}")
            session.execute(change, [tenant])

    with tenants.administrator() as administrator, ThreadPoolExecutor(2) as pool:
        # Of a standby that does not exist: a commit waits for it like for a very slow disk, with all its locks.
        administrator.execute("alter system set synchronous_standby_names = 'missing'")
        administrator.execute("select pg_reload_conf()")
        try:
            slow = pool.submit(commit, "acme", "on")
            waits = "select count(*) from pg_stat_activity where wait_event = 'SyncRep' and query like 'update%'"
            wait_until(lambda: administrator.execute(waits).fetchone() == (1,))
            pool.submit(commit, "beta", "local").result(timeout=30)
            assert not slow.done()
        finally:
            administrator.execute("alter system reset synchronous_standby_names")
            administrator.execute("select pg_reload_conf()")
        slow.result(timeout=30)


def test_old_changes_are_deleted_and_recent_ones_kept(tenants: Field) -> None:
    with tenants.administrator() as administrator, tenants.session("crypto") as crypto:
        administrator.execute("truncate okcm.cache_change")
        for minutes, tenant in ((11, "old"), (9, "recent")):
            administrator.execute(
                "insert into okcm.cache_change (hash, changed_at)"
                " values (decode(%s, 'hex'), now() - make_interval(mins => %s))",
                [tenant_hash(tenant), minutes],
            )
        crypto.execute("select okcm.trim_cache_changes()")
        crypto.commit()
        kept = administrator.execute("select encode(hash, 'hex') from okcm.cache_change").fetchall()
        assert kept == [(tenant_hash("recent"),)]


@pytest.mark.parametrize("missed", ["deleted while the process was suspended", "lost by a failover"])
def test_feed_reports_changes_that_it_may_have_missed(
    tenants: Field, monkeypatch: pytest.MonkeyPatch, missed: str
) -> None:
    feed = RecordingFeed(tenants)
    assert feed.next() == LOST
    if missed == "lost by a failover":
        with tenants.administrator() as administrator:
            # The function of a server that has fewer transactions.
            administrator.execute(
                "create or replace function okcm.cache_changes(since xid8) returns table (until xid8, xid xid8,"
                " hash text) language sql stable security definer set search_path = pg_catalog, pg_temp"
                " as $$ select '3'::xid8, null::xid8, null::text $$"
            )
    else:
        monkeypatch.setattr(change_feed, "_LONGEST_GAP_SECONDS", 0.0)
    assert feed.next() == LOST
    feed.end()


def test_feed_reports_a_lost_connection_after_it_reconnects(
    tenants: Field, listener: RecordingFeed, worker: Database
) -> None:
    with tenants.administrator() as administrator:
        administrator.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'openkcm-crypto-feed'"
            " and datname = current_database()"
        )
    assert listener.next() == LOST
    assert received_before_the_next_change(listener, worker) == []


def test_feed_survives_an_outage_of_the_database(tenants: Field, listener: RecordingFeed) -> None:
    with tenants.server.offline(tenants.name):
        assert listener.received.empty()
    assert listener.next() == LOST
    again = tenants.open("worker")
    assert received_before_the_next_change(listener, again) == []


def test_feed_can_start_while_the_database_is_unavailable(tenants: Field) -> None:
    with tenants.server.offline(tenants.name):
        early = RecordingFeed(tenants)
    assert early.next() == LOST
    early.end()


def test_feed_stops_with_and_without_a_connection(tenants: Field, listener: RecordingFeed) -> None:
    listener.end()
    with tenants.server.offline(tenants.name):
        early = RecordingFeed(tenants)
        early.end()
    assert early.received.empty()
