"""Names of a tenant's keys, workflows and queues; only this module parses and builds them."""

import re
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator

from openkcm.contract.names import _TENANT_ID
from openkcm.errors import IllegalTenantId, InvalidName

CANARY_TENANT_ID = "openkcm-canary"
"""The canary tenant: the other side of the isolation checks of each tenant, in both directions."""
MIRROR_TENANT_ID = "openkcm-canary-2"
"""The second canary tenant: the two canary tenants attack each other through the APIs of the crypto service."""
PLATFORM_TENANTS = (CANARY_TENANT_ID, MIRROR_TENANT_ID)
"""The tenants of the platform, in the order of their provisioning. They have no customer, so they get no e-mails."""


_SHARDS_OF_WORKER = " root-key-shards="
_WATCH_WORKFLOW = re.compile(r"root-keys/(?P<region>[^/]+)(/\d+-of-(?P<shards>\d+))?")
_REGION = re.compile(r"[a-z]{2}(-[a-z0-9]+){1,4}")


def _existing_tenant_id(text: str) -> str:
    if not _TENANT_ID.fullmatch(text):
        raise IllegalTenantId
    return text


TenantId = Annotated[str, AfterValidator(_existing_tenant_id)]
"""A tenant's id inside the controller; unlike `parse_tenant_id` it accepts the tenants of the platform."""


def parse_region(text: str) -> str:
    """Return the name of a region unchanged (`eu-west-1`); raises InvalidName for any other text."""
    if not _REGION.fullmatch(text):
        raise InvalidName("region", "a region such as eu-west-1")
    return text


def l2_key(tenant_id: str) -> str:
    """Return the Transit name of the tenant key (MTCI U1: a dedicated key for every tenant)."""
    return f"L2-{tenant_id}-primary"


def ca_key(tenant_id: str) -> str:
    """Return the Transit name of the tenant CA's key."""
    return f"ca-{tenant_id}"


def payload_key(tenant_id: str) -> str:
    """Return the Transit name of the key that wraps the data keys of this tenant's workflow payloads."""
    return f"payload-{tenant_id}"


def root_key(region: str) -> str:
    """Return the Transit name of the platform's root key in a region (L1 of tenants without a root key)."""
    return f"root-{region}"


def tenant_of_key(name: str) -> str | None:
    """Return the tenant whose L2, CA or payload key has this Transit name, None for any other name."""
    for prefix, suffix in (("L2-", "-primary"), ("ca-", ""), ("payload-", "")):
        tenant_id = name.removeprefix(prefix).removesuffix(suffix)
        if name == f"{prefix}{tenant_id}{suffix}" and name != tenant_id and _TENANT_ID.fullmatch(tenant_id):
            return tenant_id
    return None


def tenant_workflow(tenant_id: str) -> str:
    """Return the id of the long-lived tenant workflow."""
    return f"tenant/{tenant_id}"


def provision_workflow(tenant_id: str) -> str:
    """Return the workflow id of provisioning, which is also its idempotency key."""
    return f"{tenant_workflow(tenant_id)}/provision"


def service_workflow(tenant_id: str, service: str) -> str:
    """Return the workflow id of one service's connection."""
    return f"{tenant_workflow(tenant_id)}/service/{service}"


def root_key_workflow(tenant_id: str, number: int) -> str:
    """Return the workflow id of one change of the tenant's root key."""
    return f"{tenant_workflow(tenant_id)}/root-key/{number}"


def rotation_workflow(tenant_id: str, number: int) -> str:
    """Return the workflow id of one rotation of the tenant's keys."""
    return f"{tenant_workflow(tenant_id)}/rotate/{number}"


def offboard_workflow(tenant_id: str) -> str:
    """Return the workflow id of the offboarding, from the grace period to the destruction of the keys."""
    return f"{tenant_workflow(tenant_id)}/offboard"


def authority_workflow(tenant_id: str, number: int) -> str:
    """Return the workflow id of one rotation of the tenant CA."""
    return f"{tenant_workflow(tenant_id)}/ca-rotation/{number}"


def boundaries_workflow(tenant_id: str) -> str:
    """Return the workflow id of the tenant's isolation assessment; one runs at a time."""
    return f"{tenant_workflow(tenant_id)}/isolation"


def is_boundary_check(workflow_id: str) -> bool:
    """Return whether the workflow runs isolation checks: an assessment or a provisioning."""
    return workflow_id.rpartition("/")[2] in {"isolation", "provision"}


def delivery_workflow(tenant_id: str, request_id: str) -> str:
    """Return the id of the workflow that sends one notification at the request of a user."""
    return f"{tenant_workflow(tenant_id)}/notification/{request_id}"


def report_workflow(tenant_id: str, report_id: str) -> str:
    """Return the id of the workflow that creates one report."""
    return f"{tenant_workflow(tenant_id)}/report/{report_id}"


def watch_workflow(region: str, shard: int = 0, shards: int = 1) -> str:
    """Return the workflow id of the root key monitoring of a region, or of one of its shards."""
    return f"root-keys/{region}" if shards == 1 else f"root-keys/{region}/{shard}-of-{shards}"


def parse_watch_workflow(workflow_id: str) -> tuple[str, int] | None:
    """Return region and number of shards of a root key monitoring, None for other workflows."""
    found = _WATCH_WORKFLOW.fullmatch(workflow_id)
    return (found["region"], int(found["shards"] or 1)) if found else None


def worker_identity(process: str, shards: int) -> str:
    """Return the identity of a worker in Temporal: its process and its number of root key shards."""
    return f"{process}{_SHARDS_OF_WORKER}{shards}"


def shards_of_worker(identity: str) -> int | None:
    """Return the number of root key shards of a worker, None for a worker of a version that does not state it."""
    shards = identity.rpartition(_SHARDS_OF_WORKER)[2]
    return int(shards) if shards != identity and shards.isdecimal() else None


def tenant_of_workflow(workflow_id: str) -> str | None:
    """Return the tenant of a workflow, None for workflows of the platform."""
    parts = workflow_id.split("/")
    if len(parts) < 2 or parts[0] != "tenant" or not _TENANT_ID.fullmatch(parts[1]):
        return None
    return parts[1]


def payloads_of_tenant(workflow_id: str) -> str | None:
    """Return the tenant whose key encrypts the payloads of a workflow, None for the platform's key.

    An offboarding workflow continues after it destroys the tenant's key, so the platform's key encrypts its payloads.
    """
    tenant_id = tenant_of_workflow(workflow_id)
    return None if tenant_id is None or workflow_id == offboard_workflow(tenant_id) else tenant_id


class ActivityKind(StrEnum):
    """The classes of activities; each has separate workers' slots in a region (docs/adr/0013)."""

    SHORT = "operations"
    """A few calls to the platform's servers: the default, on the task queue of the operations' workflows."""
    LONG = "long"
    """Minutes of work, or calls to servers of customers and receivers."""
    PACED = "paced"
    """A rate-limited part of a rotation or a root key change, which returns after a time slice."""


def tenant_queue(region: str) -> str:
    """Return the Temporal task queue of urgent work: tenant workflows and root key monitoring of a region."""
    return f"tenants.{region}"


def operation_queue(region: str) -> str:
    """Return the Temporal task queue of all other workflows of a region's tenants, and of their short activities."""
    return activity_queue(ActivityKind.SHORT, region)


def activity_queue(kind: ActivityKind, region: str) -> str:
    """Return the Temporal task queue of a class of activities in a region."""
    return f"{kind}.{region}"


def region_of_queue(queue: str) -> str:
    """Return the region of a task queue of this module."""
    return queue.partition(".")[2]


PLATFORM_QUEUE = "platform"
"""The Temporal task queue of the platform's workflows, which belong to no tenant."""


def repair_workflow(tenant_id: str) -> str:
    """Return the id of the platform's workflow that repairs differences between the stores of one tenant."""
    return f"platform/repair/{tenant_id}"


def recovery_workflow(tenant_id: str) -> str:
    """Return the id of the platform's workflow that starts the lost workflows of one tenant."""
    return f"platform/recovery/{tenant_id}"
