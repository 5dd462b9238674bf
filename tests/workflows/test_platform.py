"""The scheduled workflows that consist of one activity."""

import pytest

from tests.workflows.entities import run_platform
from workflows.audit import ReconcileAudit, SignAuditCheckpoints
from workflows.notifications import DispatchNotifications
from workflows.retention import ArchiveAuditStreams, DeleteExpiredRows
from workflows.root_keys import PurgeUnusedCredentials

WORKFLOWS = [
    *(SignAuditCheckpoints, ReconcileAudit, DispatchNotifications, PurgeUnusedCredentials),
    *(DeleteExpiredRows, ArchiveAuditStreams),
]


@pytest.mark.parametrize(
    ("workflow", "activity"),
    [
        (SignAuditCheckpoints, "sign-audit-checkpoints"),
        (ReconcileAudit, "reconcile-audit"),
        (DispatchNotifications, "dispatch-outbox"),
        (PurgeUnusedCredentials, "purge-unused-credentials"),
        (DeleteExpiredRows, "delete-expired-rows"),
        (ArchiveAuditStreams, "archive-audit-streams"),
    ],
)
async def test_scheduled_activity_is_retried_until_it_succeeds(client, queue, script, workflow, activity):
    script.fail_first(activity)
    await run_platform(client, queue, workflow)
    assert (script.calls, script.attempts[activity]) == ([activity], 2)
