"""Kill -9 inside every step of RotateKeys, aimed at each process in turn.

Whatever is shot whenever, the rotation is done: one version of each service encrypts, everything lies under the newest
tenant key, no older one opens, and a copy of the rows from before is worth nothing. What was encrypted before opens,
unless it was said to be compromised. And somebody who opens every service key all the time is never refused, but for
the outage of the very server that was shot. The short form shoots the worker in every step of one rotation, and all
four in one that is for compromised keys; the long form takes one rotation for every moment of every step for all four.
"""

from collections.abc import Iterator

import pytest

from config.secrets import Role
from tenancy.ids import CANARY_TENANT_ID
from tests.chaos.field import REGION, Field
from tests.chaos.marching import March, every, last
from tests.chaos.reading import Reader
from tests.chaos.rotating import Rotating, adapters, assert_worthless, copy_wraps
from tests.keystores.estate import make_service_keys
from tests.keystores.opening import Opener, decrypt, encrypt

TENANT = "rotating-corp"
SERVICES = ("billing", "ledger", "orders")

# How many effects (answers from the key server, commits) each step has at least, so that every shot has a target.
BEGINNING = {
    "plan-rotation": 2,
    "rotate-tenant-key": 5,
    "prepare-service-keys": 5,
    "activate-service-keys": 1,
    "rewrap-keys": 9,
    "retire-tenant-key": 4,
}
COMPROMISED = {"trim-tenant-key": 4, "destroy-compromised-keys": 2}
END = {"finish-rotation": 1}

# Whether it is for compromised keys, and who is shot when.
SHORT = [
    (False, last("worker", BEGINNING | END)),
    (
        True,
        [
            ("openbao", "rotate-tenant-key", "effect-2"),
            ("postgres", "rewrap-keys", "effect-9"),
            *last("worker", COMPROMISED),
            ("temporal", "finish-rotation", "start"),
        ],
    ),
]
EVERY = [
    *((False, [shot]) for shot in every(BEGINNING | END)),
    *((True, [shot]) for shot in every(COMPROMISED)),
]


def pytest_generate_tests(metafunc):
    if "shots" in metafunc.fixturenames:
        cases = EVERY if metafunc.config.getoption("--long") else SHORT
        ids = ["-".join(shots[0]) if len(shots) == 1 else f"{len(shots)}-in-a-row" for _, shots in cases]
        metafunc.parametrize(("compromised", "shots"), cases, ids=ids)


@pytest.fixture(scope="module")
def rotating(field: Field) -> Iterator[Rotating]:
    """An active tenant with a few services."""
    field.run_worker()
    marketplace, worker = field.database(Role.MARKETPLACE), field.database(Role.WORKER)
    field.wait_active(worker, CANARY_TENANT_ID)
    field.enable(marketplace, TENANT)
    field.wait_active(worker, TENANT)
    with adapters(field) as parts:
        make_service_keys(parts, TENANT, REGION, SERVICES)
    marketplace.close()
    worker.close()
    yield Rotating(field, TENANT, SERVICES)
    field.stop_worker()


@pytest.mark.chaos
def test_a_rotation_is_done_and_services_go_on_whatever_dies_meanwhile(rotating, compromised, shots, request):
    field = rotating.field
    field.wait_whole()
    rotating.retire_old()
    loot = copy_wraps(field, TENANT)
    march = March(field, TENANT, f"rotation-{request.node.callspec.indices['shots']}", shots)
    with Opener(field.settings) as opener:
        estate = opener.open_all(TENANT, REGION)
        before = {place: encrypt(key, b"before") for place, key in estate.items()}
        with Reader(field, TENANT, estate, [target for target, _, _ in shots], replaced=compromised) as reader:
            rotating.rotate(compromised=compromised)
            march.assert_over()
            rotating.assert_rotated(compromised=compromised)
        after = opener.open_all(TENANT, REGION)
    if compromised:
        assert not estate.keys() & after.keys()
        assert len(after) == len(SERVICES)
    else:
        assert {place: decrypt(after[place], text) for place, text in before.items()} == dict.fromkeys(
            before, b"before"
        )
        assert len(after) == len(estate) + len(SERVICES)
    reader.assert_never_refused(after)
    assert_worthless(field, loot)
