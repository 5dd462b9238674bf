"""A real Temporal server, and a worker whose activities follow a script.

These tests are about order, alarms and answers: the activities' own effects are tested against real servers
elsewhere. A scripted activity is registered under the real one's name, as Temporal's own samples do.
"""

import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest
from temporalio import activity
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from devstack.temporal import TemporalServer
from tenancy import ids
from tenancy.messages import ActivateResult, StepInput
from tenancy.provisioning import Step
from workflows.provision import ProvisionTenant
from workflows.tenant import Tenant

ROLL_BACK = ("disable-tenant-key", "disable-authority", "record-failure")
NAMES = (*(step.value for step in Step), "break-promise", *ROLL_BACK)


class Script:
    """What the activities do: everything succeeds unless `fail` or `refuse` says otherwise."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.down: set[str] = set()
        self.refused: dict[str, str] = {}
        self.attempts: Counter[str] = Counter()
        self.messages = 1
        self._then: dict[str, Callable[[], None]] = {}

    def on(self, name: str, then: Callable[[], None]) -> None:
        """Do something the moment an activity runs."""
        self._then[name] = then

    def activities(self) -> list[Callable[..., object]]:
        return [self._activity(name) for name in NAMES]

    def _activity(self, name: str) -> Callable[..., object]:
        @activity.defn(name=name)
        async def scripted(step: StepInput) -> ActivateResult | None:
            assert step.tenant_id
            self.attempts[name] += 1
            if name in self.down:
                raise ApplicationError("down", type="vault_unavailable")
            if name in self.refused:
                raise ApplicationError("refused", type=self.refused[name], non_retryable=True)
            self.calls.append(name)
            self._then.get(name, lambda: None)()
            return ActivateResult(messages=self.messages) if name == Step.ACTIVATE else None

        return scripted


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def client(temporal: TemporalServer) -> Client:
    return await Client.connect(temporal.address, data_converter=pydantic_data_converter)


@pytest.fixture
async def queue(client: Client, script: Script) -> AsyncIterator[str]:
    """A task queue of this test's own, with a worker on it."""
    name = ids.task_queue(f"eu-{uuid.uuid4().hex}-1")
    async with Worker(client, task_queue=name, workflows=[Tenant, ProvisionTenant], activities=script.activities()):
        yield name
