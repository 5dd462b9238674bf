"""A tenant and the activities of the worker, which a test runs one at a time, twice or in a different order."""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from temporalio import activity
from temporalio.testing import ActivityEnvironment

from config.secrets import BOUNDARY_IDENTITY, read_secret
from core import names as ids
from core.messages.base import AnnounceInput, FailureInput, StepInput
from core.tenants.provisioning import Step
from tests.activities.recorded import Recorded
from vault.auth.tenant_tokens import TenantTokens
from vault.transit.tenant_keys import TransitTenantKeys
from worker import wiring

REGION = "eu-west-1"
MADE = (Step.OPEN_RECORDS, Step.CREATE_KEYS, Step.CREATE_AUTHORITY, Step.ACTIVATE)
"""The steps that activate a tenant without the isolation gate."""


class Provisioning(Recorded):
    """One tenant and the activities of the worker, by their names."""

    def __init__(self, parts: wiring.WorkerDependencies, tenant_id: str) -> None:
        activities = (*parts.lifecycle, *parts.platform)
        self._activities = {activity._Definition.must_from_callable(a).name: a for a in activities}
        super().__init__(parts.database, tenant_id)
        self.parts, self.attempt = parts, 1
        self.heartbeats: list[float] = []

    @property
    def step(self) -> StepInput:
        return StepInput(tenant_id=self.tenant_id, operation_id=f"provision-{self.attempt}")

    def run(self, name: str, **more: Any) -> Any:
        """Run one activity as the workflow of this tenant does."""
        kinds = {Step.ANNOUNCE: AnnounceInput, "record-failure": FailureInput}
        message = kinds.get(name, StepInput)(**self.step.model_dump(), **more)
        return self.run_with(name, message)

    def activity(self, name: str) -> Callable[..., Any]:
        return self._activities[name]

    def run_platform(self, name: str) -> Any:
        return self.run_with(name)

    def run_with(self, name: str, *arguments: Any) -> Any:
        environment = ActivityEnvironment()
        environment.on_heartbeat = lambda *_details: self.heartbeats.append(time.monotonic())
        workflow_id = ids.provision_workflow(self.tenant_id)
        environment.info = dataclasses.replace(environment.info, activity_type=name, workflow_id=workflow_id)
        return environment.run(self._activities[name], *arguments)

    def run_until(self, last: Step) -> None:
        for step in Step:
            self.run(step)
            if step is last:
                return

    def assert_audited_once(self) -> None:
        """Assert that each event is recorded once for each operation, regardless of repetitions."""
        names = Counter((record["event_id"], record["name"], record["subject"]) for record in self.records())
        assert set(names.values()) == {1}, names

    @property
    def tenant_keys(self) -> TransitTenantKeys:
        """Return the tenant keys with the worker's permissions at the key server."""
        identity = read_secret(self.parts.settings.secrets, BOUNDARY_IDENTITY)
        return TransitTenantKeys(self.parts.vault, TenantTokens(self.parts.vault, identity))

    def is_done(self, step: Step) -> bool:
        return any(row.step is step and row.state == "done" for row in self.read(lambda tx: tx.steps.latest()))


def run_steps(tenant: Provisioning, steps: Sequence[str]) -> None:
    for step in steps:
        tenant.run(step)
