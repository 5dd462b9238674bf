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
    leaving.wait_recorded()
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


def test_offboarding_that_crashes_after_its_commit_happens_once(leaving) -> None:
    for _ in range(2):
        assert crashes_after(leaving.tenant, 1, leaving.leave) or leaving.tenant_row.state is State.LEAVING
        assert leaving.tenant_row.state is State.LEAVING
    leaving.tenant.assert_audited_once()


def test_restore_that_crashes_after_each_effect_happens_once(leaving) -> None:
    leaving.leave()
    leaving.wait_recorded()
    for effect, state in ((1, State.LEAVING), (2, State.ACTIVE)):  # the copy at the key server, then the row
        assert crashes_after(leaving.tenant, effect, leaving.restore)
        assert leaving.tenant_row.state is state
    leaving.restore()
    assert leaving.tenant_row.state is State.ACTIVE
    leaving.tenant.assert_audited_once()
