import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from core.errors.keys import RootKeyUnreachable
from core.keys.root_keys import RootKeyMode
from core.tenants.lifecycle import Transition
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.postgres.notify import NotifyFeed, object_hash, tenant_hash
from database.rotation import RewrappedRow
from openkcm.contract.services import ServiceKind
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
"""Seconds in which every notification is heard, on a busy machine, too."""


class Listener:
    """A running feed and what it said, in order."""

    def __init__(self, field: Field) -> None:
        self.said: queue.Queue[str] = queue.Queue()
        self.stop = threading.Event()
        feed = NotifyFeed(field.url, "crypto", field.server.passwords["crypto"])
        self.thread = threading.Thread(
            target=feed.listen, args=(self.said.put, lambda: self.said.put(LOST), self.stop), daemon=True
        )
        self.thread.start()

    def hears(self) -> str:
        return self.said.get(timeout=DEADLINE)

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
def listener(tenants: Field) -> Iterator[Listener]:
    running = Listener(tenants)
    assert running.hears() == LOST
    yield running
    running.end()


def heard_before_the_next_change(listener: Listener, worker: Database) -> list[str]:
    """Return what was heard until a change of beta's, which every test may make as its last."""
    with worker.tenant_tx("beta") as tx:
        tx.services.connect("next", KIND)
        tx.services.connected("next")
    heard = []
    while (word := listener.hears()) != tenant_hash("beta"):
        heard.append(word)
    return heard


Act = Callable[[TenantTransaction], object]


def back_to_the_platforms_key(tx: TenantTransaction) -> None:
    tx.root_keys.begin(2, RootKeyMode.PLATFORM, "root-eu-west-1", None)
    tx.root_keys.stage(2, [(row, b"anew") for row in tx.root_keys.unstaged(2, 100)])
    assert tx.root_keys.switch(2)


CHANGES: dict[str, tuple[str, Act]] = {
    "tenant": ("worker", lambda tx: tx.tenants.move(Transition.ACTIVATE)),
    "route": ("worker", lambda tx: tx.routes.publish(replace(a_route("acme"), region="us-east-1"))),
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
    "root_key": ("worker", back_to_the_platforms_key),
}  # fmt: skip
DESTROYED = an_object("acme", "object-orders", state=5, material=None)
OF_OBJECTS: dict[str, Act] = {
    "changed": lambda tx: tx.objects.change(an_object("acme", "object-orders", state=3)),
    "removed": lambda tx: (tx.objects.change(DESTROYED), tx.objects.remove("orders", "object-orders")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_committed_change_is_heard_by_the_mark_of_its_tenant(
    tenants: Field, listener: Listener, worker: Database, change: str
) -> None:
    role, act = CHANGES[change]
    with tenants.open(role).tenant_tx("acme") as tx:
        act(tx)
    assert heard_before_the_next_change(listener, worker) == [tenant_hash("acme")]


@pytest.mark.parametrize("change", OF_OBJECTS)
def test_a_change_of_objects_alone_is_heard_by_a_mark_of_its_own(
    tenants: Field, listener: Listener, worker: Database, change: str
) -> None:
    with tenants.open("crypto").tenant_tx("acme") as tx:
        OF_OBJECTS[change](tx)
    assert heard_before_the_next_change(listener, worker) == [object_hash("acme")]
    assert object_hash("acme") not in {tenant_hash("acme"), tenant_hash("beta"), object_hash("beta")}


def test_a_new_authority_is_heard(listener: Listener, worker: Database) -> None:
    with worker.tenant_tx("gamma") as tx:
        tx.tenants.request(an_event("gamma"))
        tx.certificates.record_authority(an_authority("cc"))
    assert heard_before_the_next_change(listener, worker) == [tenant_hash("gamma")]


def test_every_table_that_announces_changes_has_a_change_above(tenants: Field) -> None:
    with tenants.administrator() as administrator:
        rows = administrator.execute(
            "select tgrelid::regclass::text from pg_trigger where tgname = 'announce_change'"
        ).fetchall()
    changed = {f"okcm.{name.partition('-')[0]}" for name in CHANGES} | {
        "okcm.certificate_authority",
        "okcm.managed_object",
    }
    assert {table for (table,) in rows} == changed


def test_what_changes_nothing_for_anybody_is_not_said(tenants: Field, listener: Listener, worker: Database) -> None:
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
        # A version that nobody uses yet, and a wrap that opens to the very same key.
        tx.rotations.prepare(2, a_service_key("acme", version=3))
        tx.rotations.rotated(2, 2)
        tx.rotations.rewrap(2, [RewrappedRow(row, b"anew", 2) for row in tx.rotations.outdated(10)])
        # Out of reach is nobody's decision: what is open stays open.
        assert tx.root_keys.report(a_root_key_id("acme"), RootKeyUnreachable.code)
        tx.root_keys.begin(2, RootKeyMode.PLATFORM, "root-eu-west-1", None)
        tx.root_keys.stage(2, [(row, b"anew") for row in tx.root_keys.unstaged(2, 100)])
    assert heard_before_the_next_change(listener, worker) == []


def test_a_change_that_was_rolled_back_is_not_said(listener: Listener, worker: Database) -> None:
    with pytest.raises(ZeroDivisionError), worker.tenant_tx("acme") as tx:  # noqa: PT012 - what raises is the whole
        tx.services.disconnect("orders")
        raise ZeroDivisionError
    assert heard_before_the_next_change(listener, worker) == []


def test_many_changes_of_a_tenant_in_one_transaction_are_one_word(listener: Listener, worker: Database) -> None:
    with worker.tenant_tx("acme") as tx:
        tx.services.disconnect("orders")
        tx.tenants.move(Transition.ACTIVATE)
        tx.routes.withdraw()
    assert heard_before_the_next_change(listener, worker) == [tenant_hash("acme")]
    assert "acme" not in tenant_hash("acme")
    assert len(tenant_hash("acme")) == 64


def test_a_feed_that_was_cut_says_so_once_it_listens_again(
    tenants: Field, listener: Listener, worker: Database
) -> None:
    with tenants.administrator() as administrator:
        administrator.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'openkcm-crypto-feed'"
            " and datname = current_database()"
        )
    assert listener.hears() == LOST
    assert heard_before_the_next_change(listener, worker) == []


def test_a_feed_survives_a_database_that_is_away(tenants: Field, listener: Listener) -> None:
    with tenants.server.offline(tenants.name):
        assert listener.said.empty()
    assert listener.hears() == LOST
    again = tenants.open("worker")
    assert heard_before_the_next_change(listener, again) == []


def test_a_feed_can_start_while_the_database_is_away(tenants: Field) -> None:
    with tenants.server.offline(tenants.name):
        early = Listener(tenants)
    assert early.hears() == LOST
    early.end()


def test_a_feed_ends_connected_or_not(tenants: Field, listener: Listener) -> None:
    listener.end()
    with tenants.server.offline(tenants.name):
        early = Listener(tenants)
        early.end()
    assert early.said.empty()
