"""Signals from the platform's workflows to the tenant workflow, which may not run."""

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from core import names as ids


async def signal_tenant(tenant_id: str, signal: str) -> None:
    """Send a signal without arguments; the sender finds the cause again, so a lost signal is sent again later."""
    try:
        await workflow.get_external_workflow_handle(ids.tenant_workflow(tenant_id)).signal(signal)
    except ApplicationError:
        workflow.logger.warning("no tenant workflow to signal", extra={"signal": signal})


BOUNDARIES_REPORTED = "isolation-assessed"
"""The signal that makes the tenant workflow read the newest isolation assessment."""

ROOT_KEY_REPORTED = "root-key-health-changed"
"""The signal that makes the tenant workflow read the health of the root key."""

ROTATION_DUE = "rotation-due"
"""The signal that makes the tenant workflow find due keys."""
