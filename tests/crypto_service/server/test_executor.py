import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors.requests import TooManyRequests
from crypto_service.server.executor import FairExecutor

Pools = Callable[..., FairExecutor]
asking: ContextVar[str] = ContextVar("asking", default="nobody")


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """What a server that hangs waits for."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
async def pools() -> AsyncIterator[Callable[..., FairExecutor]]:
    made: list[FairExecutor] = []

    def make(**sizes: int) -> FairExecutor:
        made.append(FairExecutor(**sizes))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


async def settle() -> None:
    """Let everything that can go on without a thread go on."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_work_runs_in_a_thread_with_its_context_and_its_result_or_error_comes_back(pools: Pools):
    threads = pools()
    assert await threads.run("acme", threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await threads.run("acme", lambda: 1 // 0)
    asking.set("request-1")  # as the correlation id of a request
    assert await threads.run("acme", asking.get) == "request-1"


async def test_a_tenant_whose_server_hangs_does_not_stall_another(pools: Pools, hanging: threading.Event):
    threads = pools(threads=4, per_tenant=3, line=100)
    stuck = [asyncio.ensure_future(threads.run("acme", hanging.wait)) for _ in range(50)]
    await settle()
    for number in range(20):
        assert await threads.run("beta", lambda number=number: number) == number
    assert not any(task.done() for task in stuck)
    hanging.set()
    assert all(await asyncio.gather(*stuck))


async def test_a_tenant_in_a_line_that_is_too_long_is_told_so_at_once(pools: Pools, hanging: threading.Event):
    threads = pools(threads=4, per_tenant=1, line=2)
    stuck = [asyncio.ensure_future(threads.run("acme", hanging.wait)) for _ in range(3)]
    await settle()
    with pytest.raises(TooManyRequests):
        await threads.run("acme", lambda: None)
    assert await threads.run("beta", lambda: "served") == "served"
    hanging.set()
    await asyncio.gather(*stuck)
    assert await threads.run("acme", lambda: "served again") == "served again"


async def test_free_threads_go_round_the_waiting_tenants(pools: Pools, hanging: threading.Event):
    threads = pools(threads=1, per_tenant=1, line=100)
    blocker = asyncio.ensure_future(threads.run("blocker", hanging.wait))
    await settle()
    order: list[str] = []
    tasks = [asyncio.ensure_future(threads.run("greedy", lambda: order.append("greedy"))) for _ in range(10)]
    await settle()
    tasks += [asyncio.ensure_future(threads.run("modest", lambda: order.append("modest"))) for _ in range(2)]
    await settle()
    hanging.set()
    await asyncio.gather(blocker, *tasks)
    assert order[:4] == ["greedy", "modest", "greedy", "modest"]
    assert order[4:] == ["greedy"] * 8


async def test_who_is_cancelled_leaves_the_line_and_its_work_is_not_begun(pools: Pools, hanging: threading.Event):
    threads = pools(threads=2, per_tenant=1, line=10)
    blocker = asyncio.ensure_future(threads.run("acme", hanging.wait))
    begun: list[str] = []
    given_up = asyncio.ensure_future(threads.run("acme", lambda: begun.append("given up")))
    patient = asyncio.ensure_future(threads.run("acme", lambda: begun.append("patient")))
    await settle()
    given_up.cancel()
    await settle()
    hanging.set()
    await asyncio.gather(blocker, patient)
    assert begun == ["patient"]
    assert given_up.cancelled()


async def test_a_thread_that_hangs_is_held_even_when_nobody_waits_for_it_any_more(
    pools: Pools, hanging: threading.Event
):
    threads = pools(threads=4, per_tenant=1, line=0)
    given_up = asyncio.ensure_future(threads.run("acme", hanging.wait))
    await settle()
    given_up.cancel()
    await settle()
    with pytest.raises(TooManyRequests):
        await threads.run("acme", lambda: None)


@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["work", "fail", "cancel"])), max_size=40),
    threads=st.integers(1, 3),
    per_tenant=st.integers(1, 3),
)
def test_whatever_is_asked_every_place_comes_back(calls: list[tuple[str, str]], threads: int, per_tenant: int):
    async def play() -> None:
        pool = FairExecutor(threads, per_tenant, line=100)
        running: dict[str, int] = dict.fromkeys("abc", 0)
        lock = threading.Lock()

        def work(tenant: str, kind: str) -> str:
            with lock:
                running[tenant] += 1
                assert running[tenant] <= per_tenant
                assert sum(running.values()) <= threads
            with lock:
                running[tenant] -= 1
            if kind == "fail":
                raise KeyError(tenant)
            return tenant

        tasks = []
        for tenant, kind in calls:
            tasks.append(asyncio.ensure_future(pool.run(tenant, lambda t=tenant, k=kind: work(t, k))))
            await asyncio.sleep(0)
            if kind == "cancel":
                tasks[-1].cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for (tenant, kind), outcome in zip(calls, outcomes, strict=True):
            assert outcome == tenant or isinstance(outcome, {"fail": KeyError}.get(kind, asyncio.CancelledError))
        pool._threads.shutdown(wait=True)  # cancelled work may still be ending
        await settle()
        assert (pool._free, len(pool._turns), pool._lines) == (threads, 0, {})

    asyncio.run(play())
