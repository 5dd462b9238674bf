"""How the platform's own workflows have a tenant's entity look at something: a signal that may find nobody."""

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from core import names as ids


async def signal_tenant(tenant_id: str, signal: str) -> None:
    """Send a signal that carries nothing; whoever finds what is due finds it again, so one that is lost is no loss."""
    try:
        await workflow.get_external_workflow_handle(ids.tenant_workflow(tenant_id)).signal(signal)
    except ApplicationError:
        workflow.logger.warning("no entity to tell", extra={"signal": signal})


BOUNDARIES_REPORTED = "boundaries-reported"
"""The signal by which a tenant's entity is asked to look at its newest examination."""

ROOT_KEY_REPORTED = "root-key-reported"
"""The signal by which a tenant's entity is asked to look at its root key."""

ROTATION_DUE = "rotation-due"
"""The signal by which a tenant's entity is asked to look at the age of its keys."""
