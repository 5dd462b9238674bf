"""Kill -9 at every boundary and inside every activity of provisioning, aimed at each process in turn.

The tenant ends active with exactly one of everything, announced once, and its audit chain has no gap. The short form
kills the worker once inside every activity and each server once; the long form (`make chaos`) takes every moment of
every activity for all four.
"""

import pytest

from core.tenants.provisioning import Step
from tests.chaos.marching import March, every, last, parametrize

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
    *last("worker", EFFECTS),
    ("openbao", Step.CREATE_AUTHORITY, "effect-3"),
    ("postgres", Step.ACTIVATE, "effect-1"),
    ("temporal", Step.CHECK_BOUNDARIES, "end"),
]


def pytest_generate_tests(metafunc):
    parametrize(metafunc, "shot", SHORT, every(EFFECTS))


@pytest.fixture(scope="module")
def ready_field(field):
    """The field with its canary provisioned."""
    field.activate()
    return field


@pytest.mark.chaos
def test_tenant_is_provisioned_once_whatever_is_killed(ready_field, shot, request):
    tenant_id = f"shot-{request.node.callspec.indices['shot']}-{shot[0]}"
    march = March(ready_field, tenant_id, tenant_id, [shot])
    ready_field.enable(tenant_id)
    ready_field.wait_announced(tenant_id)
    march.assert_over()
    ready_field.assert_nothing_twice(tenant_id)
