"""Each step of OffboardTenant crashes after each of its effects, and a retry completes it."""

from functools import partial

import pytest

from core.tenants.lifecycle import State
from tests.activities.dying import crashes_after, every_effect, perform_with_crash
from tests.activities.offboarding.leaving import STEPS

# The number of effects (Vault responses, commits) of each step, so that each crash occurs.
EFFECTS = {
    "start-destruction": 1,
    "inventory-keys": 8,
    "disconnect-services": 5,
    "destroy-service-keys": 5,
    "destroy-tenant-key": 5,
    "destroy-ca-key": 5,
    "erase-rows": 2,
    "destroy-payload-key": 5,
    "issue-erasure-certificate": 3,
}


@pytest.mark.parametrize(("name", "effect"), every_effect(EFFECTS, "erase-rows"))
def test_retry_completes_a_step_that_crashed_after_an_effect(leaving, name, effect) -> None:
    leaving.leave(now=True)
    before = leaving.wrap()
    perform_with_crash(leaving.tenant, {step: partial(leaving.run, step) for step in STEPS}, name, effect)
    assert (leaving.keys_there(), leaving.wrap(), leaving.tenant_row.state) == (set(), None, State.OFFBOARDED)
    assert before is not None
    statement = leaving.statement()
    assert len(statement["destroyed"]) == 5
    assert {table: rows for table, rows in statement["erased"].items() if table.startswith("service")} == {
        "service": 1,
        "service_certificate": 1,
        "service_key": 1,
        "service_request": 1,
    }
    assert leaving.announced() == ["offboarded", "offboarded"]
    leaving.tenant.assert_audited_once()


def test_offboarding_and_restore_that_crash_after_their_commit_happen_once(leaving) -> None:
    for act, state in ((leaving.leave, State.LEAVING), (leaving.restore, State.ACTIVE)):
        assert crashes_after(leaving.tenant, 1, act)
        assert leaving.tenant_row.state is state
        act()
        assert leaving.tenant_row.state is state
    leaving.tenant.assert_audited_once()
