"""Numbered steps of provisioning; docs/provisioning.md and the Temporal UI use the same numbers."""

from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict

from core.names import CANARY_TENANT_ID
from openkcm.contract.services import ServiceKind


class Step(StrEnum):
    OPEN_RECORDS = "plan-provisioning"
    CREATE_KEYS = "create-keys"
    CREATE_AUTHORITY = "create-ca"
    CHECK_BOUNDARIES = "check-isolation"
    ACTIVATE = "activate"
    ANNOUNCE = "send-notification"


TITLES = MappingProxyType(
    {
        Step.OPEN_RECORDS: "1 · create the tenant's records and audit stream",
        Step.CREATE_KEYS: "2 · create the L2 tenant key and the payload key",
        Step.CREATE_AUTHORITY: "3 · create the tenant CA",
        Step.CHECK_BOUNDARIES: "4 · run the isolation checks",
        Step.ACTIVATE: "5 · publish the route and activate",
        Step.ANNOUNCE: "6 · notify the customer",
    }
)

NUMBERS = MappingProxyType({step: number for number, step in enumerate(TITLES, start=1)})


def steps_of(tenant_id: str) -> tuple[Step, ...]:
    """Return the steps of a tenant's provisioning.

    The canary tenant is the other side of all isolation checks, so its own provisioning runs none. The checks of every
    other tenant also attack the canary tenant.
    """
    return tuple(step for step in Step if (tenant_id, step) != (CANARY_TENANT_ID, Step.CHECK_BOUNDARIES))


class StepState(StrEnum):
    PENDING = "pending"
    RETRYING = "retrying"
    DONE = "done"
    FAILED = "failed"


class EventKind(StrEnum):
    SERVICE_ENABLED = "service_enabled"
    SERVICE_DISABLED = "service_disabled"
    SERVICE_DISCOVERED = "service_discovered"


class MarketplaceEvent(BaseModel):
    """An authenticated event. Two deliveries with the same `event_id` (message id of the webhook) are the same event.

    `service` and `service_kind` are set only for a discovered service.
    """

    model_config = ConfigDict(frozen=True)

    event_id: str
    kind: EventKind
    tenant_id: str
    organization: str
    region: str
    timestamp: datetime
    service: str | None = None
    service_kind: ServiceKind | None = None
