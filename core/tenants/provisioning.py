"""The numbered steps of provisioning, the same numbers as in docs/provisioning.md and the Temporal UI."""

from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict

from core.names import CANARY_TENANT_ID
from openkcm.contract.services import ServiceKind


class Step(StrEnum):
    OPEN_RECORDS = "open-records"
    CREATE_KEYS = "create-keys"
    CREATE_AUTHORITY = "create-authority"
    CHECK_BOUNDARIES = "check-boundaries"
    ACTIVATE = "activate"
    ANNOUNCE = "announce"


TITLES = MappingProxyType(
    {
        Step.OPEN_RECORDS: "1 · open the tenant's records and audit stream",
        Step.CREATE_KEYS: "2 · create the L2 tenant key and the payload key",
        Step.CREATE_AUTHORITY: "3 · create the certificate authority",
        Step.CHECK_BOUNDARIES: "4 · attack the boundaries",
        Step.ACTIVATE: "5 · publish the route and activate",
        Step.ANNOUNCE: "6 · announce",
    }
)

NUMBERS = MappingProxyType({step: number for number, step in enumerate(TITLES, start=1)})


def steps_of(tenant_id: str) -> tuple[Step, ...]:
    """Return the steps of a tenant's provisioning.

    The canary is what the others are attacked against and has nobody to attack; each of their gates attacks its
    walls too.
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
    """A checked event. `event_id` is what makes two deliveries the same event (the webhook's message id).

    `service` and `service_kind` are there when it says that a service was discovered, and then alone.
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
