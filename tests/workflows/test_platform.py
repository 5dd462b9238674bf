"""The schedules of the platform whose workflow is one activity."""

import pytest

from tests.workflows.entities import run_platform
from workflows.audit import ReconcileAudit, SignAuditHeads
from workflows.notifications import SweepOutbox
from workflows.root_keys import ForgetUntakenCredentials

WORKFLOWS = [SignAuditHeads, ReconcileAudit, SweepOutbox, ForgetUntakenCredentials]


@pytest.mark.parametrize(
    ("workflow", "activity"),
    [
        (SignAuditHeads, "sign-audit-heads"),
        (ReconcileAudit, "reconcile-audit"),
        (SweepOutbox, "sweep-outbox"),
        (ForgetUntakenCredentials, "forget-untaken-credentials"),
    ],
)
async def test_scheduled_activity_is_retried_until_it_succeeds(client, queue, script, workflow, activity):
    script.fail_first(activity)
    await run_platform(client, queue, workflow)
    assert (script.calls, script.attempts[activity]) == ([activity], 2)
