"""The calls of an activity carry its workflow's id, in each of its threads."""

import asyncio
import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from activities.runtime.concurrency import ContextThreadPool
from core.correlation import correlation_id
from worker.interceptors import CorrelationInterceptor


class Recording(ActivityInboundInterceptor):
    """A replacement of the activity that records the correlation id of its threads."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002, ARG002 - the SDK's name
        self.seen.append(correlation_id.get())
        with ContextThreadPool(2) as ours, ThreadPoolExecutor(1) as plain:
            self.seen += ours.map(lambda _: correlation_id.get(), range(3))
            self.seen.append(ours.submit(correlation_id.get).result())
            self.seen.append(plain.submit(correlation_id.get).result())


async def test_each_thread_of_an_activity_sees_only_its_workflows_id() -> None:
    recorded = {name: Recording() for name in ("tenant/acme/rotate/7", "tenant/beta/rotate/7")}

    async def run(workflow_id: str, recording: Recording) -> str:
        environment = ActivityEnvironment()
        environment.info = dataclasses.replace(environment.info, workflow_id=workflow_id)
        around = CorrelationInterceptor().intercept_activity(recording)

        async def execute() -> str:
            await around.execute_activity(ExecuteActivityInput(fn=print, args=[], executor=None, headers={}))
            return correlation_id.get()

        return await environment.run(execute)

    assert set(await asyncio.gather(*(run(*one) for one in recorded.items()))) == {""}
    for workflow_id, recording in recorded.items():
        # The last one shows that a pool of the standard library loses the id.
        assert recording.seen == [workflow_id] * 5 + [""]
