"""Every step of ConnectService dies after each of its effects, and the next try finishes what it left."""

from collections.abc import Callable

import pytest

from tenancy.messages import CertificatePlan
from tenancy.services import ServiceState
from tests.activities.connecting import after_effect, connection, operator

__all__ = ["connection", "operator"]  # fixtures that pytest finds here by their names


# How many effects (answers from Vault, commits) each step has at least, so that every death has its moment.
EFFECTS = {
    "record-service": 1,
    "create-service-key": 3,
    "issue-certificate": 3,
    "mark-connected": 1,
    "plan-renewal": 1,
    "disconnect-service": 1,
}


class Died(BaseException):
    """The process is gone: no `except` of the product sees this."""


def die() -> None:
    raise Died


@pytest.mark.parametrize(("name", "effect"), [(name, n) for name, most in EFFECTS.items() for n in range(1, most + 1)])
def test_dying_after_any_effect_of_any_step_leaves_what_the_next_try_finishes(connection, name, effect) -> None:
    steps: dict[str, Callable[[], object]] = {
        "record-service": connection.record,
        "create-service-key": lambda: run("create-service-key", CertificatePlan(request_id="request-1", generation=1)),
        "issue-certificate": lambda: run("issue-certificate", CertificatePlan(request_id="request-1", generation=1)),
        "mark-connected": lambda: run("mark-connected", CertificatePlan(request_id="request-1", generation=1)),
        "plan-renewal": connection.plan_renewal,
        "disconnect-service": connection.disconnect,
    }

    def run(step: str, plan: CertificatePlan) -> None:
        connection.tenant.run_with(step, connection.step(plan))

    for step, perform in steps.items():
        if step == name:
            with after_effect(connection.tenant, effect, die), pytest.raises(Died):
                perform()
        perform()
    assert (connection.row.state, connection.leaf, connection.generation) == (ServiceState.DISCONNECTED, None, 1)
    assert connection.key.version == 1
    connection.tenant.assert_audited_once()
