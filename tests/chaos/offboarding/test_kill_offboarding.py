"""Kill -9 inside every step of OffboardTenant, and of the grace period before it, for each process.

An offboarded tenant has no key at the key server, no row except those that are kept, a stored signed certificate, no
running workflow, and no payload that decodes. In the grace period it is either offboarding or restored, with unchanged
keys. Another tenant notices only the outage of the killed server. The short form kills the worker in every fourth step
of one offboarding, and the servers in another; the long form uses one tenant for every moment of every step and each of
the four processes.
"""

import os
import time

import pytest

from core.messages.tenants import OffboardRequest
from core.tenants.lifecycle import State
from tests.chaos.field import REGION, Field
from tests.chaos.marching import KillSequence, every, last, parametrize
from tests.chaos.offboarding.leaving import OffboardedTenant
from tests.chaos.reading import Reader
from tests.chaos.rotation.rotating import assert_undecryptable, copy_wraps
from tests.kms.opening import Opener

# The minimum of effects (responses of the key server, commits) of each step, so that every kill has a target.
EFFECTS = {
    "start-offboarding": 1,
    "start-destruction": 1,
    "inventory-keys": 8,
    "disconnect-services": 5,
    "destroy-service-keys": 5,
    "destroy-tenant-key": 5,
    "destroy-ca-key": 5,
    "erase-rows": 2,
    "terminate-workflows": 0,
    "destroy-payload-key": 5,
    "issue-erasure-certificate": 3,
    "send-notification": 1,
    "terminate-service-workflows": 0,
}
WITHOUT_KEYS = ("start-offboarding", "send-notification", "terminate-service-workflows")
"""The steps that destroy nothing."""
GRACE = {"start-offboarding": 1, "restore-tenant": 1}

LARGEST_SECONDS = 60
"""The promised time to offboard a tenant with 10,000 services."""

SHORT = [
    # Each kill is detected by the time limit of its step, which is slow: the long form has all of them.
    last("worker", EFFECTS)[2::4],
    [
        ("openbao", "destroy-tenant-key", "effect-3"),
        ("postgres", "erase-rows", "effect-1"),
        ("temporal", "destroy-payload-key", "end"),
    ],
]
SHORT_GRACE = [
    last("worker", GRACE),
    [("postgres", "start-offboarding", "effect-1"), ("temporal", "restore-tenant", "end")],
]


def pytest_generate_tests(metafunc):
    parametrize(metafunc, "kills", SHORT, [[kill] for kill in every(EFFECTS)])
    parametrize(metafunc, "grace", SHORT_GRACE, [[kill] for kill in every(GRACE)])


@pytest.fixture(scope="module")
def ready_field(field: Field) -> Field:
    """Return the field with its canary tenant provisioned."""
    field.activate()
    return field


@pytest.fixture(scope="module")
def other_tenant(ready_field: Field) -> OffboardedTenant:
    """Return a tenant that stays active."""
    return OffboardedTenant(ready_field, "staying-corp")


@pytest.fixture(scope="module")
def restored_tenant(ready_field: Field) -> OffboardedTenant:
    """Return a tenant that is offboarded and always restored."""
    return OffboardedTenant(ready_field, "wavering-corp")


@pytest.mark.chaos
def test_tenant_is_offboarded_completely_despite_kills(other_tenant, kills, request):
    field = other_tenant.field
    number = request.node.callspec.indices["kills"]
    tenant = OffboardedTenant(field, f"leaving-{number}-corp")
    copies, stays = copy_wraps(field, tenant.tenant_id), other_tenant.fingerprints()
    assert len(tenant.fingerprints()) == len(stays) == 3
    sequence = KillSequence(field, tenant.tenant_id, f"leaving-{number}", kills)
    with Opener(field.settings) as opener:
        estate = opener.open_all(other_tenant.tenant_id, REGION)
        with Reader(field, other_tenant.tenant_id, estate, [target for target, _, _ in kills]) as reader:
            tenant.offboard(OffboardRequest(now=True))
            tenant.wait_offboarded()
            sequence.assert_done()
            tenant.assert_erased()
        assert_undecryptable(field, copies)
        assert opener.open_all(other_tenant.tenant_id, REGION) == estate
    assert other_tenant.fingerprints() == stays
    assert other_tenant.state() is State.ACTIVE
    reader.assert_no_errors(estate)


@pytest.mark.chaos
def test_tenant_with_10000_services_is_offboarded_within_a_minute_despite_a_kill_of_the_worker_in_each_step(
    other_tenant, record_property
):
    field = other_tenant.field
    tenant = OffboardedTenant(field, "large-corp")
    tenant.add_services(9_999)
    kills = last("worker", {step: most for step, most in EFFECTS.items() if step not in WITHOUT_KEYS})
    with field.another_worker():
        sequence = KillSequence(field, tenant.tenant_id, "large", kills)
        began = time.monotonic()
        tenant.offboard(OffboardRequest(now=True))
        tenant.wait_last_state()
        seconds = time.monotonic() - began
        record_property("seconds until the last state", seconds)
        sequence.assert_done()
        tenant.wait_offboarded()
    tenant.assert_erased()
    assert other_tenant.state() is State.ACTIVE
    # Another worker of pytest takes half of the machine.
    assert seconds < LARGEST_SECONDS * min(2, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


@pytest.mark.chaos
def test_tenant_in_its_grace_period_is_offboarding_or_restored_despite_kills(restored_tenant, grace, request):
    field = restored_tenant.field
    field.wait_whole()
    before = restored_tenant.fingerprints()
    sequence = KillSequence(field, restored_tenant.tenant_id, f"grace-{request.node.callspec.indices['grace']}", grace)
    with Opener(field.settings) as opener:
        estate = opener.open_all(restored_tenant.tenant_id, REGION)
        restored_tenant.offboard(OffboardRequest(grace_seconds=3600))
        restored_tenant.assert_is(State.LEAVING)
        assert restored_tenant.fingerprints() == before
        restored_tenant.restore()
        sequence.assert_done()
        restored_tenant.assert_is(State.ACTIVE)
        assert opener.open_all(restored_tenant.tenant_id, REGION) == estate
    assert restored_tenant.fingerprints() == before
    restored_tenant.assert_offboardings_recorded_once()
