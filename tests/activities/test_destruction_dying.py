"""Every step of OffboardTenant dies after each of its effects, and the next try finishes what it left."""

import pytest

from tenancy.lifecycle import State
from tests.activities.connecting import after_effect
from tests.activities.leaving import STEPS, leaving, operator

__all__ = ["leaving", "operator"]  # fixtures that pytest finds here by their names

# How many effects (answers from Vault, commits) each step has, so that every death has its moment.
EFFECTS = {
    "begin-destruction": 1,
    "take-stock": 5,
    "disconnect-services": 1,
    "destroy-service-keys": 2,
    "destroy-tenant-key": 5,
    "destroy-authority-key": 5,
    "erase-rows": 2,
    "destroy-payload-key": 5,
    "certify-destruction": 3,
}


class Died(BaseException):
    """The process is gone: no `except` of the product sees this."""


def die() -> None:
    raise Died


@pytest.mark.parametrize(("name", "effect"), [(name, n) for name, most in EFFECTS.items() for n in range(1, most + 1)])
def test_dying_after_any_effect_of_any_step_leaves_what_the_next_try_finishes(leaving, name, effect) -> None:
    leaving.leave(now=True)
    before = leaving.wrap()
    for step in STEPS:
        if step == name:
            with after_effect(leaving.tenant, effect, die), pytest.raises(Died):
                leaving.run(step)
        leaving.run(step)
    assert (leaving.keys_there(), leaving.wrap(), leaving.row.state) == (set(), None, State.OFFBOARDED)
    assert before is not None
    statement = leaving.statement()
    assert len(statement["destroyed"]) == 5
    assert {table: rows for table, rows in statement["erased"].items() if table.startswith("service")} == {
        "service": 1,
        "service_certificate": 1,
        "service_key": 1,
        "service_request": 1,
    }
    assert leaving.announced() == ["farewell", "farewell"]
    leaving.tenant.assert_audited_once()


def test_leaving_and_restoring_die_after_their_commit_and_are_done_once(leaving) -> None:
    for act, state in ((leaving.leave, State.LEAVING), (leaving.restore, State.ACTIVE)):
        with after_effect(leaving.tenant, 1, die), pytest.raises(Died):
            act()
        assert leaving.row.state is state
        act()
        assert leaving.row.state is state
    leaving.tenant.assert_audited_once()
