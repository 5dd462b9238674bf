"""Kill -9 inside every step of OffboardTenant, and of the grace before it, aimed at each process in turn.

A tenant that leaves is gone: none of its keys is at the key server, no row is left but those that are kept, the signed
certificate is stored, none of its workflows runs and none of their payloads decodes. In the grace it is
either leaving or restored, with every key as it was. Another tenant notices only the outage of the server that was
killed. The short form kills the worker in every fourth step of one leaving, and the servers in another; the long form
takes one tenant for every moment of every step for all four.
"""

import pytest

from core.messages.tenants import OffboardRequest
from core.tenants.lifecycle import State
from tests.chaos.field import REGION, Field
from tests.chaos.leaving import Leaving
from tests.chaos.marching import March, every, last, parametrize
from tests.chaos.reading import Reader
from tests.chaos.rotating import assert_worthless, copy_wraps
from tests.kms.opening import Opener

# How many effects (answers from the key server, commits) each step has at least, so that every shot has a target.
EFFECTS = {
    "begin-leaving": 1,
    "begin-destruction": 1,
    "take-stock": 5,
    "disconnect-services": 1,
    "destroy-service-keys": 2,
    "destroy-tenant-key": 5,
    "destroy-authority-key": 5,
    "erase-rows": 2,
    "close-workflows": 0,
    "destroy-payload-key": 5,
    "certify-destruction": 3,
    "announce": 1,
}
GRACE = {"begin-leaving": 1, "restore-tenant": 1}

SHORT = [
    # Each death is noticed by its step's time limit: all of them are for the long form.
    last("worker", EFFECTS)[2::4],
    [
        ("openbao", "destroy-tenant-key", "effect-3"),
        ("postgres", "erase-rows", "effect-1"),
        ("temporal", "destroy-payload-key", "end"),
    ],
]
SHORT_GRACE = [
    last("worker", GRACE),
    [("postgres", "begin-leaving", "effect-1"), ("temporal", "restore-tenant", "end")],
]


def pytest_generate_tests(metafunc):
    parametrize(metafunc, "shots", SHORT, [[shot] for shot in every(EFFECTS)])
    parametrize(metafunc, "grace", SHORT_GRACE, [[shot] for shot in every(GRACE)])


@pytest.fixture(scope="module")
def ready_field(field: Field) -> Field:
    """The field with its canary provisioned."""
    field.activate()
    return field


@pytest.fixture(scope="module")
def neighbour(ready_field: Field) -> Leaving:
    """A tenant that stays."""
    return Leaving(ready_field, "staying-corp")


@pytest.fixture(scope="module")
def wavering(ready_field: Field) -> Leaving:
    """A tenant that leaves and always comes back."""
    return Leaving(ready_field, "wavering-corp")


@pytest.mark.chaos
def test_tenant_that_leaves_is_gone_whatever_is_killed(neighbour, shots, request):
    field = neighbour.field
    number = request.node.callspec.indices["shots"]
    tenant = Leaving(field, f"leaving-{number}-corp")
    loot, stays = copy_wraps(field, tenant.tenant_id), neighbour.fingerprints()
    assert len(tenant.fingerprints()) == len(stays) == 3
    march = March(field, tenant.tenant_id, f"leaving-{number}", shots)
    with Opener(field.settings) as opener:
        estate = opener.open_all(neighbour.tenant_id, REGION)
        with Reader(field, neighbour.tenant_id, estate, [target for target, _, _ in shots]) as reader:
            tenant.offboard(OffboardRequest(now=True))
            tenant.wait_gone()
            march.assert_over()
            tenant.assert_gone()
        assert_worthless(field, loot)
        assert opener.open_all(neighbour.tenant_id, REGION) == estate
    assert neighbour.fingerprints() == stays
    assert neighbour.state() is State.ACTIVE
    reader.assert_never_refused(estate)


@pytest.mark.chaos
def test_tenant_in_its_grace_is_leaving_or_restored_whatever_is_killed(wavering, grace, request):
    field = wavering.field
    field.wait_whole()
    before = wavering.fingerprints()
    march = March(field, wavering.tenant_id, f"grace-{request.node.callspec.indices['grace']}", grace)
    with Opener(field.settings) as opener:
        estate = opener.open_all(wavering.tenant_id, REGION)
        wavering.offboard(OffboardRequest(grace_seconds=3600))
        wavering.assert_is(State.LEAVING)
        assert wavering.fingerprints() == before
        wavering.restore()
        march.assert_over()
        wavering.assert_is(State.ACTIVE)
        assert opener.open_all(wavering.tenant_id, REGION) == estate
    assert wavering.fingerprints() == before
    wavering.assert_left_and_came_back_once()
