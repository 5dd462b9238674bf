"""An activity's calls carry its workflow's id, from whatever thread they are made."""

import asyncio
import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from activities.concurrency import ContextThreadPool
from core.correlation import correlation_id
from worker.interceptors import CorrelationInterceptor


class Recording(ActivityInboundInterceptor):
    """Takes the place of the activity and records what its threads see."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002, ARG002 - the SDK's name
        self.seen.append(correlation_id.get())
        with ContextThreadPool(2) as ours, ThreadPoolExecutor(1) as plain:
            self.seen += ours.map(lambda _: correlation_id.get(), range(3))
            self.seen.append(ours.submit(correlation_id.get).result())
            self.seen.append(plain.submit(correlation_id.get).result())


async def test_activities_side_by_side_see_only_their_own_workflows_id_in_each_thread() -> None:
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
        # The last shows that a pool of the standard library loses it.
        assert recording.seen == [workflow_id] * 5 + [""]
