import asyncio
import threading
from contextlib import suppress

import pytest

from core.errors.platform import DatabaseUnavailable, TemporalUnavailable
from database.platform.scheduled import PlatformQueries
from marketplace.db_executor import DatabaseExecutor
from marketplace.events.relay import EventRelay
from marketplace.relay import Waiting, WorkflowRelay
from openkcm.errors import PlatformError
from tests.concurrency import wait_until_async
from tests.marketplace.conftest import an_event, assert_refused, running


async def test_events_accepted_while_temporal_is_down_are_handed_over_when_it_is_back(endpoint):
    await endpoint.enable("msg_on")
    endpoint.door.down = True
    ids = [f"tenant-{number}" for number in range(5)]
    discovery = an_event(event="service_discovered", workload="orders-db", kind="postgresql", organization=None)
    answers = await asyncio.gather(
        *(endpoint.post(an_event(customer=tenant_id)) for tenant_id in ids),
        endpoint.post(an_event(event="service_disabled"), event_id="msg_off"),
        endpoint.post(discovery),
    )
    assert {answer.status_code for answer in answers} == {202}
    assert endpoint.waiting() == 7

    endpoint.door.down = False
    await wait_until_async(lambda: endpoint.waiting() == 0)

    assert sorted(tenant_id for tenant_id, _, _ in endpoint.door.taken) == ["acme-corp-12345", *ids]
    assert endpoint.door.disabled == [("acme-corp-12345", "msg_off")]
    assert endpoint.door.discovered == [("acme-corp-12345", "eu-west-1", "orders-db")]


async def test_what_a_process_left_behind_is_started_by_the_next_one(field, door):
    door.down = True
    async with running(field, door) as first:
        await first.post(an_event())
    door.down = False

    async with running(field, door) as second:
        await wait_until_async(lambda: second.waiting() == 0)

    assert len(door.taken) == 1


async def test_one_event_that_is_not_taken_holds_up_no_other(endpoint):
    endpoint.door.broken_for = {"tenant-bad"}
    await endpoint.post(an_event(customer="tenant-bad"))
    await endpoint.post(an_event(customer="tenant-good"))

    await wait_until_async(lambda: endpoint.waiting() == 1)

    assert [tenant_id for tenant_id, _, _ in endpoint.door.taken] == ["tenant-good"]


async def test_a_database_that_is_down_is_said_at_once_and_nothing_is_half_done(endpoint):
    await endpoint.enable(customer="before")
    with endpoint.field.server.offline(endpoint.field.name):
        answers = await asyncio.gather(*(endpoint.post(an_event(), event_id="msg_down") for _ in range(40)))

    for answer in answers:
        assert_refused(answer, 503, "database_unavailable")
        assert answer.headers["retry-after"] == "2"
    assert (endpoint.count("tenant"), endpoint.count("marketplace_event"), endpoint.count("audit_event")) == (1, 1, 1)
    async with asyncio.timeout(15):
        while (await endpoint.post(an_event(), event_id="msg_down")).status_code != 202:
            pass
    await wait_until_async(lambda: endpoint.waiting() == 0)


class StaleReads:
    """The database, with a list of waiting events that is out of date by the time the sweep has it."""

    def __init__(self, database) -> None:
        self.tenant_tx = database.tenant_tx
        self._unstarted = PlatformQueries(database).unstarted_events
        self.reads = 0
        self.may_go_on = threading.Event()

    def unstarted_events(self, limit: int):
        found = self._unstarted(limit)
        self.reads += 1
        self.may_go_on.wait()
        return found


async def test_what_was_handed_over_while_a_round_was_reading_is_not_handed_over_again(field, door):
    door.down = True
    async with running(field, door) as endpoint:
        await endpoint.post(an_event(), event_id="msg_once")
    door.down = False
    waiting = ("acme-corp-12345", "msg_once", "eu-west-1", "service_enabled")
    database, transactions = StaleReads(field.open("marketplace")), DatabaseExecutor()
    sweep = EventRelay(database, database, door, transactions)
    rounds = asyncio.create_task(sweep.run())
    try:
        await wait_until_async(lambda: database.reads == 1)
        sweep.offer(waiting)
        await wait_until_async(lambda: endpoint.waiting() == 0)
        database.may_go_on.set()
        await wait_until_async(lambda: database.reads == 2)
    finally:
        rounds.cancel()
        await sweep.close()
        transactions.close()

    assert [event_id for _, _, event_id in door.taken] == ["msg_once"]


async def test_a_disable_that_nobody_is_there_for_yet_waits_and_holds_up_no_other(field, door):
    async with running(field, door) as endpoint:
        door.broken_for = {"acme-corp-12345"}
        await endpoint.post(an_event(), event_id="msg_on")
        await endpoint.post(an_event(event="service_disabled"), event_id="msg_off")
        await endpoint.post(an_event(customer="tenant-good"))
        await wait_until_async(lambda: endpoint.waiting() == 2)
        assert door.disabled == []
    door.broken_for = set()

    async with running(field, door) as endpoint:
        await wait_until_async(lambda: [event for _, _, event in door.taken if event == "msg_on"])
        await wait_until_async(lambda: door.disabled == [("acme-corp-12345", "msg_off")])


class FailingRounds(WorkflowRelay):
    """A hundred requests, none of which can be handed over."""

    def __init__(self, transactions: DatabaseExecutor, failure: PlatformError) -> None:
        super().__init__(transactions)
        self.tried: list[Waiting] = []
        self._failure = failure

    def find(self, limit: int) -> list[Waiting]:
        return [("acme-corp-12345", f"msg_{number}", "eu-west-1", "") for number in range(min(limit, 100))]

    async def hand_over(self, waiting: Waiting) -> None:
        self.tried.append(waiting)
        raise self._failure


@pytest.mark.parametrize("failure", [TemporalUnavailable, DatabaseUnavailable])
async def test_a_round_ends_early_while_temporal_or_the_database_is_down(caplog, failure: type[PlatformError]):
    transactions = DatabaseExecutor()
    failing = FailingRounds(transactions, failure())
    rounds = asyncio.create_task(failing.run())
    try:
        await wait_until_async(lambda: rounds.done() or "accepted requests wait" in caplog.text)
    finally:
        rounds.cancel()
        with suppress(asyncio.CancelledError):
            await rounds
        await failing.close()
        transactions.close()

    assert failure.code in caplog.text
    assert 0 < len(failing.tried) < 100
