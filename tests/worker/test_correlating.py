"""An activity's calls carry its workflow's id, from whatever thread they are made."""

import asyncio
import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from activities.threads import Threads
from tenancy.correlation import correlation_id
from worker.correlating import CorrelationInterceptor


class Looking(ActivityInboundInterceptor):
    """Stands where the activity would be, and sees what its threads see."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002, ARG002 - the SDK's name
        self.seen.append(correlation_id.get())
        with Threads(2) as ours, ThreadPoolExecutor(1) as plain:
            self.seen += ours.map(lambda _: correlation_id.get(), range(3))
            self.seen.append(ours.submit(correlation_id.get).result())
            self.seen.append(plain.submit(correlation_id.get).result())


async def test_the_workflows_id_is_there_in_the_activity_and_its_threads_and_nowhere_afterwards() -> None:
    looking, environment = Looking(), ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, workflow_id="tenant/acme/rotate/7")
    around = CorrelationInterceptor().intercept_activity(looking)

    async def execute() -> str:
        await around.execute_activity(ExecuteActivityInput(fn=print, args=[], executor=None, headers={}))
        return correlation_id.get()

    assert await environment.run(execute) == ""
    # The last shows that a pool of the standard library's would have lost it.
    assert looking.seen == ["tenant/acme/rotate/7"] * 5 + [""]


async def test_activities_side_by_side_do_not_see_each_others() -> None:
    looking = [Looking(), Looking()]

    async def one(index: int) -> None:
        environment = ActivityEnvironment()
        environment.info = dataclasses.replace(environment.info, workflow_id=f"tenant/{index}")
        around = CorrelationInterceptor().intercept_activity(looking[index])

        async def execute() -> None:
            await around.execute_activity(ExecuteActivityInput(fn=print, args=[], executor=None, headers={}))

        await environment.run(execute)

    await asyncio.gather(one(0), one(1))
    assert [set(each.seen[:5]) for each in looking] == [{"tenant/0"}, {"tenant/1"}]
