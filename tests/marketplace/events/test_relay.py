import asyncio
import random
import threading
from contextlib import suppress

import pytest

from core.errors.platform import DatabaseUnavailable, TemporalUnavailable
from core.errors.tenants import TenantUnknown
from database.platform.scheduled import PlatformQueries
from marketplace.db_executor import DatabaseExecutor
from marketplace.events.relay import EventRelay
from marketplace.relay import Waiting, WorkflowRelay
from openkcm.errors import PlatformError
from tests.concurrency import wait_until_async
from tests.marketplace.conftest import an_event, assert_refused, running


async def test_events_accepted_during_an_outage_of_temporal_are_delivered_afterwards(endpoint):
    await endpoint.enable("msg_on")
    endpoint.workflow_client.down = True
    ids = [f"tenant-{number}" for number in range(5)]
    discovery = an_event(event="service_discovered", workload="orders-db", kind="postgresql", organization=None)
    answers = await asyncio.gather(
        *(endpoint.post(an_event(customer=tenant_id)) for tenant_id in ids),
        endpoint.post(an_event(event="service_disabled"), event_id="msg_off"),
        endpoint.post(discovery),
    )
    assert {answer.status_code for answer in answers} == {202}
    assert endpoint.waiting() == 7

    endpoint.workflow_client.down = False
    await wait_until_async(lambda: endpoint.waiting() == 0)

    assert sorted(tenant_id for tenant_id, _, _ in endpoint.workflow_client.taken) == ["acme-corp-12345", *ids]
    assert endpoint.workflow_client.disabled == [("acme-corp-12345", "msg_off")]
    assert endpoint.workflow_client.discovered == [("acme-corp-12345", "eu-west-1", "orders-db")]


async def test_next_process_delivers_events_that_the_previous_one_did_not(field, workflow_client):
    workflow_client.down = True
    async with running(field, workflow_client) as first:
        await first.post(an_event())
    workflow_client.down = False

    async with running(field, workflow_client) as second:
        await wait_until_async(lambda: second.waiting() == 0)

    assert len(workflow_client.taken) == 1


async def test_failed_delivery_of_one_event_does_not_block_others(endpoint):
    endpoint.workflow_client.broken_for = {"tenant-bad"}
    await endpoint.post(an_event(customer="tenant-bad"))
    await endpoint.post(an_event(customer="tenant-good"))

    await wait_until_async(lambda: endpoint.waiting() == 1)

    assert [tenant_id for tenant_id, _, _ in endpoint.workflow_client.taken] == ["tenant-good"]


async def test_unavailable_database_causes_503_at_once_and_stores_nothing(endpoint):
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
    """The database with an outdated list of waiting events: it blocks between the query and its result."""

    def __init__(self, database) -> None:
        self.tenant_tx = database.tenant_tx
        self._unstarted = PlatformQueries(database).unstarted_events
        self.reads = 0
        self.released = threading.Event()

    def unstarted_events(self, limit: int):
        found = self._unstarted(limit)
        self.reads += 1
        self.released.wait()
        return found


async def test_event_delivered_during_the_query_of_a_round_is_not_delivered_again(field, workflow_client):
    workflow_client.down = True
    async with running(field, workflow_client) as endpoint:
        await endpoint.post(an_event(), event_id="msg_once")
    workflow_client.down = False
    waiting = ("acme-corp-12345", "msg_once", "eu-west-1", "service_enabled")
    database, transactions = StaleReads(field.open("marketplace")), DatabaseExecutor()
    sweep = EventRelay(database, database, workflow_client, transactions)
    rounds = asyncio.create_task(sweep.run())
    try:
        await wait_until_async(lambda: database.reads == 1)
        sweep.offer(waiting)
        await wait_until_async(lambda: endpoint.waiting() == 0)
        database.released.set()
        await wait_until_async(lambda: database.reads == 2)
    finally:
        rounds.cancel()
        await sweep.close()
        transactions.close()

    assert [event_id for _, _, event_id in workflow_client.taken] == ["msg_once"]


async def test_disable_before_the_workflow_exists_waits_and_does_not_block_others(field, workflow_client):
    async with running(field, workflow_client) as endpoint:
        workflow_client.broken_for = {"acme-corp-12345"}
        await endpoint.post(an_event(), event_id="msg_on")
        await endpoint.post(an_event(event="service_disabled"), event_id="msg_off")
        await endpoint.post(an_event(customer="tenant-good"))
        await wait_until_async(lambda: endpoint.waiting() == 2)
        assert workflow_client.disabled == []
    workflow_client.broken_for = set()

    async with running(field, workflow_client) as endpoint:
        await wait_until_async(lambda: [event for _, _, event in workflow_client.taken if event == "msg_on"])
        await wait_until_async(lambda: workflow_client.disabled == [("acme-corp-12345", "msg_off")])


async def test_later_event_waits_until_the_workflow_has_the_earlier_ones(endpoint):
    await endpoint.enable("msg_on")
    endpoint.workflow_client.broken_events = {"msg_off"}
    await endpoint.post(an_event(event="service_disabled"), event_id="msg_off")
    await endpoint.post(an_event(), event_id="msg_on_again")
    await endpoint.enable(customer="tenant-good", event_id="msg_good", left=2)
    assert [event_id for _, event_id in endpoint.workflow_client.order] == ["msg_on", "msg_good"]
    endpoint.workflow_client.broken_events = set()
    await endpoint.enable("msg_last")
    order = [event_id for tenant_id, event_id in endpoint.workflow_client.order if tenant_id == "acme-corp-12345"]
    assert order == ["msg_on", "msg_off", "msg_on_again", "msg_last"]


async def test_undelivered_disable_of_a_tenant_in_destruction_is_not_retried(endpoint):
    await endpoint.enable("msg_on")
    endpoint.workflow_client.down = True
    await endpoint.post(an_event(event="service_disabled"), event_id="msg_off")
    endpoint.execute(
        "update okcm.tenant set state = 'offboarding', returns_to = 'failed', leaving_since = now(), leaves_at = now(),"
        " destroying_at = now()"
    )
    endpoint.workflow_client.taken.clear()  # its workflow has ended
    endpoint.workflow_client.down = False
    await wait_until_async(lambda: endpoint.waiting() == 0)
    assert endpoint.workflow_client.disabled == []


async def test_events_of_a_tenant_arrive_in_order_from_two_processes(field, workflow_client):
    workflow_client.down = True
    chance = random.Random(18)  # noqa: S311 - pauses of a test
    sent: dict[str, list[str]] = {"tenant-a": [], "tenant-b": []}
    async with running(field, workflow_client) as first, running(field, workflow_client) as second:
        for number in range(16):
            for tenant_id, ids in sent.items():
                kind = "service_disabled" if number % 2 else "service_enabled"
                event_id = f"msg_{tenant_id}_{number}"
                endpoint = chance.choice([first, second])
                answer = await endpoint.post(an_event(customer=tenant_id, event=kind), event_id=event_id)
                assert answer.status_code == 202
                ids.append(event_id)
        workflow_client.slow = lambda: chance.random() / 50
        workflow_client.down = False
        await wait_until_async(lambda: first.waiting() == 0)
    arrived = {one: [event_id for tenant_id, event_id in workflow_client.order if tenant_id == one] for one in sent}
    assert arrived == sent


async def test_discovered_service_does_not_wait_for_a_failing_event(endpoint):
    await endpoint.enable("msg_on")
    endpoint.workflow_client.broken_events = {"msg_off"}
    await endpoint.post(an_event(event="service_disabled"), event_id="msg_off")
    discovery = an_event(event="service_discovered", workload="orders-db", kind="postgresql", organization=None)
    await endpoint.post(discovery)
    await wait_until_async(lambda: endpoint.workflow_client.discovered)
    assert endpoint.waiting() == 1


class FailingRounds(WorkflowRelay):
    """A relay of a hundred requests whose delivery always fails."""

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
async def test_round_ends_early_while_temporal_or_the_database_is_unavailable(caplog, failure: type[PlatformError]):
    transactions = DatabaseExecutor()
    failing = FailingRounds(transactions, failure())
    rounds = asyncio.create_task(failing.run())
    try:
        await wait_until_async(lambda: rounds.done() or "accepted requests are delayed" in caplog.text)
    finally:
        rounds.cancel()
        with suppress(asyncio.CancelledError):
            await rounds
        await failing.close()
        transactions.close()

    assert failure.code in caplog.text
    assert 0 < len(failing.tried) < 100


class DeadRegion(WorkflowRelay):
    """A relay with a region whose deliveries never end, and another region."""

    def __init__(self, transactions: DatabaseExecutor) -> None:
        super().__init__(transactions)
        self.delivered: list[str] = []

    def find(self, limit: int) -> list[Waiting]:
        dead = [("acme-corp-12345", f"dead_{number}", "eu-west-1", "") for number in range(limit)]
        return [*dead, ("beta-corp-1", "swept", "eu-central-1", "")]

    async def hand_over(self, waiting: Waiting) -> None:
        _, request, region, _ = waiting
        if region == "eu-west-1":
            await asyncio.Event().wait()
        self.delivered.append(request)


async def test_region_without_a_worker_delays_no_other_region():
    transactions = DatabaseExecutor()
    relay = DeadRegion(transactions)
    rounds = asyncio.create_task(relay.run())
    try:
        await wait_until_async(lambda: relay.delivered.count("swept") > 1)
        relay.offer(("beta-corp-1", "offered", "eu-central-1", ""))
        await wait_until_async(lambda: "offered" in relay.delivered)
    finally:
        rounds.cancel()
        with suppress(asyncio.CancelledError):
            await rounds
        await relay.close()
        transactions.close()


class ThousandsFailing(WorkflowRelay):
    """A relay whose oldest 3,000 requests fail at each attempt, and one later request."""

    def __init__(self, transactions: DatabaseExecutor) -> None:
        super().__init__(transactions)
        self.delivered = False

    def find(self, limit: int) -> list[Waiting]:
        names = [*(f"failing_{number}" for number in range(3000)), "later"]
        return [("acme-corp-12345", name, "eu-west-1", "") for name in names[:limit]]

    async def hand_over(self, waiting: Waiting) -> None:
        if waiting[1] != "later":
            raise TenantUnknown
        self.delivered = True


@pytest.mark.full  # the rounds take half a minute
async def test_thousands_of_failing_requests_do_not_delay_a_later_one_for_ever():
    transactions = DatabaseExecutor()
    relay = ThousandsFailing(transactions)
    rounds = asyncio.create_task(relay.run())
    try:
        await wait_until_async(lambda: relay.delivered, seconds=60)
    finally:
        rounds.cancel()
        with suppress(asyncio.CancelledError):
            await rounds
        await relay.close()
        transactions.close()
