"""Kill -9 at every boundary and inside every activity of provisioning, for each process.

The tenant becomes active with exactly one of everything and one notification, and its audit chain is complete. The
short form kills the worker once inside every activity and each server once; the long form (`make chaos`) kills at every
moment of every activity, for all four processes.
"""

import pytest

from core.tenants.provisioning import Step
from tests.chaos.marching import KillSequence, every, last, parametrize

# The minimum of effects (responses of Vault, commits) of each activity, so that every kill has a target.
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
    parametrize(metafunc, "kill", SHORT, every(EFFECTS))


@pytest.fixture(scope="module")
def ready_field(field):
    """Return the field with its canary tenant provisioned."""
    field.activate()
    return field


@pytest.mark.chaos
def test_tenant_is_provisioned_once_despite_kills(ready_field, kill, request):
    tenant_id = f"kill-{request.node.callspec.indices['kill']}-{kill[0]}"
    sequence = KillSequence(ready_field, tenant_id, tenant_id, [kill])
    ready_field.enable(tenant_id)
    ready_field.wait_announced(tenant_id)
    sequence.assert_done()
    ready_field.assert_nothing_twice(tenant_id)
