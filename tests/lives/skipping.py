"""A Temporal whose workflows skip the time between their timers, one timer at a time or as they like.

A workflow is told to skip to its next timer, once, and never how far: of a length something is left over, more of it
the busier the machine is, and that would be skipped later.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from temporalio.api.common.v1 import TimeSkippingConfig, WorkflowExecution
from temporalio.api.workflow.v1 import WorkflowExecutionOptions
from temporalio.api.workflowservice.v1 import UpdateWorkflowExecutionOptionsRequest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle

from devstack.servers.temporal import TemporalServer

EVENTS = 100
"""After so many events the server suggests to continue as new; as it comes it does after 4096, and years have more."""


class ImpatientTemporal(TemporalServer):
    """Suggests to continue as new early, so that years need it often, and lets nobody wait for what is due."""

    def command(self) -> Sequence[str]:
        command = [*super().command()]
        for told in (
            f"limit.historyCount.suggestContinueAsNew={EVENTS}",
            # As it comes it fires a timer within a second, which nobody notices unless there are hundreds of them.
            'history.timerProcessorMaxTimeShift="10ms"',
            # A run that continues as new within a second of its start has the next one wait until the second is over.
            # Where time was skipped, the server (1.32) counts that twice for when this wait ends, and a skip to it
            # takes the workflow's clock as far again into the future as it has come.
            'history.workflowIdReuseMinimalInterval="0s"',
        ):
            command += ["--dynamic-config-value", told]
        return command


@dataclass(frozen=True)
class Described:
    rests: bool
    """Whether it runs and has nothing to do: it waits for a time or for somebody."""
    now: datetime
    """What it takes for the present."""
    events: int
    """How long the history of its present run is."""


async def describe(handle: WorkflowHandle[Any, Any]) -> Described:
    described = await handle.describe()
    raw = described.raw_description
    works = raw.pending_activities or raw.pending_children or raw.HasField("pending_workflow_task")
    skipping = raw.workflow_extended_info.time_skipping_info
    return Described(
        rests=described.status is WorkflowExecutionStatus.RUNNING and not works,
        now=skipping.current_time.ToDatetime(UTC),
        events=described.history_length,
    )


async def skip_to_its_timer(client: Client, handle: WorkflowHandle[Any, Any]) -> None:
    """Have a workflow go on at the end of the timer it waits for, or of the one it sets next."""
    await _skip(client, handle, TimeSkippingConfig(enabled=True, max_session_skip_count=1, disable_propagation=True))


async def skip_its_pauses(client: Client, handle: WorkflowHandle[Any, Any]) -> None:
    """Have a workflow and whatever it starts from now on wait for no timer."""
    await _skip(client, handle, TimeSkippingConfig(enabled=True))


async def _skip(client: Client, handle: WorkflowHandle[Any, Any], how: TimeSkippingConfig) -> None:
    await client.workflow_service.update_workflow_execution_options(
        UpdateWorkflowExecutionOptionsRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=handle.id),
            workflow_execution_options=WorkflowExecutionOptions(time_skipping_config=how),
            update_mask=FieldMask(paths=["time_skipping_config"]),
        ),
        retry=True,
    )
