"""Each step of ConnectService crashes after each of its effects, and a retry completes it."""

from collections.abc import Callable
from functools import partial

import pytest

from core.messages.services import CertificatePlan
from core.services import ServiceState
from tests.activities.dying import every_effect, perform_with_crash
from tests.activities.services.connecting import CERTIFYING

# The minimum number of effects (Vault responses, commits) of each step, so that each crash occurs.
EFFECTS = {
    "record-service": 1,
    "create-service-key": 3,
    "issue-certificate": 3,
    "mark-connected": 1,
    "plan-renewal": 1,
    "disconnect-service": 1,
}


@pytest.mark.parametrize(("name", "effect"), every_effect(EFFECTS, "issue-certificate"))
def test_retry_completes_a_step_that_crashed_after_an_effect(connection, name, effect) -> None:
    plan = CertificatePlan(request_id="request-1", generation=1)
    steps: dict[str, Callable[[], object]] = {
        "record-service": connection.record,
        **{step: partial(connection.run, step, plan) for step in CERTIFYING},
        "plan-renewal": connection.plan_renewal,
        "disconnect-service": connection.disconnect,
    }
    perform_with_crash(connection.tenant, steps, name, effect)
    assert (connection.row.state, connection.leaf, connection.generation) == (ServiceState.DISCONNECTED, None, 1)
    assert connection.key.version == 1
    connection.tenant.assert_audited_once()
