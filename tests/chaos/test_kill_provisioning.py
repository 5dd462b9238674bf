"""Kill -9 at every boundary and inside every activity of provisioning, aimed at each process in turn.

Whatever is shot whenever, the tenant ends active with exactly one of everything, announced once, and its audit chain
has no gap. The short form, in `make test`, shoots the worker once inside every activity and each server once; the
long form (`make chaos`) goes through every moment of every activity for all four.
"""

import pytest

from config.secrets import Role
from tenancy.ids import CANARY_TENANT_ID
from tenancy.lifecycle import State
from tenancy.provisioning import Step

TARGETS = ("worker", "openbao", "postgres", "temporal")

# How many effects (answers from Vault, commits) each activity has at least, so that every shot has a target.
EFFECTS = {
    Step.OPEN_RECORDS: 1,
    Step.CREATE_KEYS: 4,
    Step.CREATE_AUTHORITY: 4,
    Step.CHECK_BOUNDARIES: 4,
    Step.ACTIVATE: 1,
    Step.ANNOUNCE: 3,
}

SHORT = [
    *(("worker", step, f"effect-{effects}") for step, effects in EFFECTS.items()),
    ("openbao", Step.CREATE_AUTHORITY, "effect-3"),
    ("postgres", Step.ACTIVATE, "effect-1"),
    ("temporal", Step.CHECK_BOUNDARIES, "end"),
]

EVERY = [
    (target, step, moment)
    for target in TARGETS
    for step, effects in EFFECTS.items()
    for moment in ("start", *(f"effect-{n}" for n in range(1, effects + 1)), "end")
]


def pytest_generate_tests(metafunc):
    if "shot" in metafunc.fixturenames:
        shots = EVERY if metafunc.config.getoption("--long") else SHORT
        metafunc.parametrize("shot", shots, ids="-".join)


@pytest.fixture(scope="module")
def ready_field(field):
    """The field with its canary provisioned."""
    field.run_worker()
    worker = field.database(Role.WORKER)
    field.wait_active(worker, CANARY_TENANT_ID)
    field.stop_worker()
    worker.close()
    return field


@pytest.mark.chaos
def test_a_tenant_survives_the_death_of_anything_at_any_moment(ready_field, shot, request):
    field, (target, step, moment) = ready_field, shot
    number = request.node.callspec.indices["shot"]
    tenant_id = f"shot-{number}-{target}"
    spent = field.folder / f"spent-{tenant_id}"
    plan = {"tenant": tenant_id, "activity": step, "moment": moment, "pid": field.pid_of(target), "spent": str(spent)}
    marketplace, database = field.database(Role.MARKETPLACE), field.database(Role.WORKER)
    field.run_worker(plan)
    try:
        field.enable(marketplace, tenant_id)
        assert field.wait_announced(database, tenant_id) is State.ACTIVE
        assert spent.exists(), "the shot was never fired, so nothing was shown"
        field.assert_nothing_twice(database, tenant_id)
    finally:
        field.stop_worker()
        marketplace.close()
        database.close()
