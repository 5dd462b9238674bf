"""A database that does not respond: a stopped backend, and a network that drops everything."""

import queue
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from core.errors.platform import DatabaseUnavailable
from core.tenants.lifecycle import State, Transition
from core.tenants.locks import LockReason
from database.connection.database import BEGIN_SECONDS, Database
from database.postgres.change_feed import ChangeFeed
from database.postgres.deadline import CALL_SECONDS, STATEMENT_SECONDS
from tests.concurrency import at_once, wait_until
from tests.database.builders import a_provisioned_tenant, an_audit_event
from tests.database.fixtures import Field
from tests.database.silent_peer import Relay, backends
from tests.database.templates import filled_template
from tests.pausing import paused

template = filled_template(lambda field: a_provisioned_tenant(field.open("worker"), "acme"))

_PROTOCOL = 3 << 16
"""The version in the first message to PostgreSQL."""
LOCK_SECONDS = 2.0
"""Within this time after the request a tenant must be locked."""
ANSWER_SECONDS = 10.0
"""Within this time after the return of the peer, every process must answer."""


def reads(worker: Database) -> bool:
    with worker.tenant_tx("acme") as tx:
        return tx.tenants.get() is not None


def seconds_until_answer(worker: Database) -> float:
    began = time.monotonic()
    while True:
        with suppress(DatabaseUnavailable):
            assert reads(worker)
            return time.monotonic() - began


@pytest.fixture
def relay(field: Field) -> Iterator[Relay]:
    relay = Relay(field.url)
    yield relay
    field.close()  # before the relay, so that no pool tries to reconnect
    relay.close()


def through(relay: Relay, field: Field, role: str = "worker", **sizes: int) -> Database:
    field.opened.append(Database(relay.url, role, field.server.passwords[role], field.key(role), **sizes))
    return field.opened[-1]


def test_client_deadline_is_longer_than_the_servers_and_shorter_than_the_promise() -> None:
    assert STATEMENT_SECONDS < CALL_SECONDS < ANSWER_SECONDS


def test_silent_connection_leaves_time_to_lock_a_tenant_through_another() -> None:
    assert BEGIN_SECONDS <= LOCK_SECONDS - 0.5


def test_call_to_a_stopped_backend_ends_within_its_deadline(field: Field) -> None:
    worker = field.open("worker")
    began = time.monotonic()
    with (
        pytest.raises(DatabaseUnavailable),
        worker.raw_tx("acme", call_seconds=1.0) as connection,
        paused(connection.info.backend_pid),
    ):
        connection.execute("select 1")
    assert time.monotonic() - began < ANSWER_SECONDS
    assert connection.closed
    assert reads(worker)


def test_other_connections_work_while_one_backend_is_stopped(field: Field) -> None:
    worker = field.open("worker")
    with worker.raw_tx("acme") as connection, paused(connection.info.backend_pid):
        [answers] = at_once(lambda: [seconds_until_answer(worker) for _ in range(8)])
    assert max(answers) < ANSWER_SECONDS


def test_statement_that_is_slow_ends_with_the_servers_error(field: Field) -> None:
    worker = field.open("worker")
    with pytest.raises(DatabaseUnavailable) as failed, worker.raw_tx("acme") as connection:  # noqa: PT012 - the whole block raises
        connection.execute("set local statement_timeout = 200")
        connection.execute("select pg_sleep(60)")
    assert "statement timeout" in str(failed.value.__cause__)


def test_stopped_idle_backends_delay_the_next_transaction_only(field: Field) -> None:
    worker = field.open("worker", min_size=4, max_size=4)
    at_once(*[lambda: reads(worker)] * 4)
    wait_until(lambda: len(backends(field, "worker")) == 4)
    with paused(*backends(field, "worker")):
        assert seconds_until_answer(worker) < ANSWER_SECONDS
        began = time.monotonic()
        for _ in range(8):
            assert reads(worker)
        assert time.monotonic() - began < ANSWER_SECONDS, "each of the other connections took a deadline"


def test_pool_answers_soon_after_a_network_loss(field: Field, relay: Relay) -> None:
    worker = through(relay, field, min_size=4, max_size=4)
    at_once(*[lambda: reads(worker)] * 4)
    with relay.dropping(), pytest.raises(DatabaseUnavailable):
        reads(worker)
    assert seconds_until_answer(worker) < ANSWER_SECONDS
    began = time.monotonic()
    at_once(*[lambda: seconds_until_answer(worker)] * 8)
    assert time.monotonic() - began < ANSWER_SECONDS


def test_statement_that_is_lost_in_the_network_ends(field: Field, relay: Relay) -> None:
    worker = through(relay, field)
    began = time.monotonic()
    with (
        pytest.raises(DatabaseUnavailable),
        worker.raw_tx("acme", call_seconds=1.0) as connection,
        relay.dropping(),
    ):
        connection.execute("select 1")
    assert time.monotonic() - began < ANSWER_SECONDS
    assert reads(worker)


def test_tenant_is_locked_while_a_lost_process_holds_its_row(field: Field, relay: Relay) -> None:
    lost, worker = through(relay, field), field.open("worker")
    with worker.tenant_tx("acme") as tx:
        tx.tenants.move(Transition.ACTIVATE)
    states: list[State] = []
    with suppress(DatabaseUnavailable), lost.tenant_tx("acme", call_seconds=1.0) as held:
        held.tenants.lock()
        with relay.dropping(), worker.tenant_tx("acme") as tx:
            states.append(tx.tenants.hold(LockReason.MANUAL))
    assert states == [State.LOCKED], "the first attempt ended by `lock_timeout`"


def test_record_is_appended_while_a_lost_process_holds_the_stream(field: Field, relay: Relay) -> None:
    lost, worker = through(relay, field, "crypto"), field.open("worker")
    appended: list[int] = []
    with suppress(DatabaseUnavailable), lost.tenant_tx("acme", call_seconds=1.0) as held:
        held.audit.append_all([an_audit_event("of the lost process")])
        with relay.dropping(), worker.tenant_tx("acme") as tx:
            appended.append(tx.audit.append(an_audit_event("of the worker")))
    assert appended, "the first attempt ended by `lock_timeout`"


def test_closed_relay_leaves_no_backend_within_a_login(field: Field) -> None:
    relay = Relay(field.url)
    address, user = urlsplit(relay.url), b"user\0okcm_worker\0database\0" + field.name.encode() + b"\0\0"
    with socket.create_connection((address.hostname, address.port)) as client, field.administrator() as administrator:
        client.sendall(struct.pack("!II", 8 + len(user), _PROTOCOL) + user)
        assert client.recv(64).startswith(b"R"), "the server requests the password"

        def backends_within_a_login() -> int:
            query = "select count(*) from pg_stat_activity where state = 'starting' and client_addr is not null"
            return administrator.execute(query).fetchone()[0]

        assert backends_within_a_login() == 1
        relay.close()
        wait_until(lambda: backends_within_a_login() == 0, seconds=20)


@pytest.mark.parametrize(("own", "expected"), [(None, "4s"), (30, "30s")])
def test_append_limits_the_pause_of_a_transaction_without_its_own_limit(
    field: Field, own: int | None, expected: str
) -> None:
    with field.open("worker").tenant_tx("acme") as tx:
        if own is not None:
            tx.tenants.lock(own)
        tx.audit.append(an_audit_event())
        tx.audit.append_all([an_audit_event("audit-2")])
        assert tx.tenants.connection.execute("show idle_in_transaction_session_timeout").fetchone() == (expected,)


@pytest.mark.parametrize("how", ["stopped", pytest.param("dropped", marks=pytest.mark.full)])
def test_feed_reports_a_loss_while_its_peer_is_silent(field: Field, relay: Relay, how: str) -> None:
    lost: queue.Queue[float] = queue.Queue()
    stop = threading.Event()
    feed = ChangeFeed(relay.url, "crypto", field.server.passwords["crypto"])
    thread = threading.Thread(target=feed.listen, args=(str, lambda: lost.put(time.monotonic()), stop))
    thread.start()
    try:
        lost.get(timeout=60)
        began = time.monotonic()
        if how == "stopped":
            with paused(*backends(field, "crypto")):
                assert lost.get(timeout=60) - began < ANSWER_SECONDS
        else:
            with relay.dropping():
                pass  # the connection stays silent
            assert lost.get(timeout=60) - began < ANSWER_SECONDS
    finally:
        stop.set()
        thread.join(60)
