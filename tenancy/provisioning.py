"""The numbered steps of provisioning, the same numbers as in docs/provisioning.md and the Temporal UI."""

from enum import StrEnum
from types import MappingProxyType

from tenancy.ids import CANARY_TENANT_ID


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
