"""A Temporal server whose workflows skip the time until their timers, for one timer or for all.

A skip is given as "to the next timer" and never as a duration: on a busy machine a part of a duration would be left
over and skipped later.
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
"""Number of events after which the server suggests to continue as new; the default is 4096."""


class TimeSkippingTemporal(TemporalServer):
    """Suggests to continue as new early, so that years need it often, and fires due timers without delay."""

    def command(self) -> Sequence[str]:
        command = [*super().command()]
        for value in (
            f"limit.historyCount.suggestContinueAsNew={EVENTS}",
            # The default delays a timer by up to a second, which adds up for hundreds of timers.
            'history.timerProcessorMaxTimeShift="10ms"',
            # If a run continues as new within a second of its start, the next run waits until the second is over.
            # After a skip, the server (1.32) counts the skipped time twice for the end of this wait. A skip to that
            # end would then move the workflow's clock twice as far.
            'history.workflowIdReuseMinimalInterval="0s"',
        ):
            command += ["--dynamic-config-value", value]
        return command


@dataclass(frozen=True)
class WorkflowStatus:
    idle: bool
    """Whether it runs and has nothing to do: it waits for a timer or a message."""
    now: datetime
    """The time of the workflow's clock."""
    events: int
    """The length of the history of the current run."""


async def describe(handle: WorkflowHandle[Any, Any]) -> WorkflowStatus:
    described = await handle.describe()
    raw = described.raw_description
    work = raw.pending_activities or raw.pending_children or raw.HasField("pending_workflow_task")
    skipping = raw.workflow_extended_info.time_skipping_info
    return WorkflowStatus(
        idle=described.status is WorkflowExecutionStatus.RUNNING and not work,
        now=skipping.current_time.ToDatetime(UTC),
        events=described.history_length,
    )


async def skip_to_next_timer(client: Client, handle: WorkflowHandle[Any, Any]) -> None:
    """Let a workflow skip to the end of its current timer, or of the next timer that it starts."""
    await _skip(client, handle, TimeSkippingConfig(enabled=True, max_session_skip_count=1, disable_propagation=True))


async def skip_all_timers(client: Client, handle: WorkflowHandle[Any, Any]) -> None:
    """Let a workflow, and all workflows that it starts, skip every timer."""
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
