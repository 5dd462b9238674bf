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
asking: ContextVar[str] = ContextVar("asking", default="none")


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """Return an event for which work of a hanging server waits."""
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
    """Let all coroutines run until they wait for a thread."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_run_executes_in_a_thread_with_context_and_returns_result_or_error(pools: Pools):
    threads = pools()
    assert await threads.run("acme", threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await threads.run("acme", lambda: 1 // 0)
    asking.set("request-1")  # as the correlation id of a request
    assert await threads.run("acme", asking.get) == "request-1"


async def test_hanging_server_of_one_tenant_does_not_delay_another(pools: Pools, hanging: threading.Event):
    threads = pools(threads=4, per_tenant=3, queue=100)
    stuck = [asyncio.ensure_future(threads.run("acme", hanging.wait)) for _ in range(50)]
    await settle()
    for number in range(20):
        assert await threads.run("beta", lambda number=number: number) == number
    assert not any(task.done() for task in stuck)
    hanging.set()
    assert all(await asyncio.gather(*stuck))


async def test_full_queue_rejects_immediately(pools: Pools, hanging: threading.Event):
    threads = pools(threads=4, per_tenant=1, queue=2)
    stuck = [asyncio.ensure_future(threads.run("acme", hanging.wait)) for _ in range(3)]
    await settle()
    with pytest.raises(TooManyRequests):
        await threads.run("acme", lambda: None)
    assert await threads.run("beta", lambda: "served") == "served"
    hanging.set()
    await asyncio.gather(*stuck)
    assert await threads.run("acme", lambda: "served again") == "served again"


async def test_free_threads_serve_waiting_tenants_in_turn(pools: Pools, hanging: threading.Event):
    threads = pools(threads=1, per_tenant=1, queue=100)
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


async def test_cancelled_call_leaves_the_queue_and_does_not_start(pools: Pools, hanging: threading.Event):
    threads = pools(threads=2, per_tenant=1, queue=10)
    blocker = asyncio.ensure_future(threads.run("acme", hanging.wait))
    started: list[str] = []
    cancelled = asyncio.ensure_future(threads.run("acme", lambda: started.append("given up")))
    waiting = asyncio.ensure_future(threads.run("acme", lambda: started.append("patient")))
    await settle()
    cancelled.cancel()
    await settle()
    hanging.set()
    await asyncio.gather(blocker, waiting)
    assert started == ["patient"]
    assert cancelled.cancelled()


async def test_hanging_thread_counts_after_its_caller_was_cancelled(pools: Pools, hanging: threading.Event):
    threads = pools(threads=4, per_tenant=1, queue=0)
    cancelled = asyncio.ensure_future(threads.run("acme", hanging.wait))
    await settle()
    cancelled.cancel()
    await settle()
    with pytest.raises(TooManyRequests):
        await threads.run("acme", lambda: None)


@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["work", "fail", "cancel"])), max_size=40),
    threads=st.integers(1, 3),
    per_tenant=st.integers(1, 3),
)
def test_every_thread_is_released_for_any_calls(calls: list[tuple[str, str]], threads: int, per_tenant: int):
    async def play() -> None:
        pool = FairExecutor(threads, per_tenant, queue=100)
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
        assert (pool._free, len(pool._waiting_tenants), pool._queues) == (threads, 0, {})

    asyncio.run(play())
