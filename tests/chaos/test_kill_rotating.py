"""Kill -9 inside every step of RotateKeys, aimed at each process in turn.

The rotation is done: one version of each service encrypts, everything is wrapped by the newest tenant key, no older one
decrypts, and a copy of the rows from before is worth nothing. What was encrypted before decrypts, unless its key was
compromised. A reader of every service key is refused only during the outage of the server that was killed. The short
form kills the worker in every step of one rotation, and all four in one for compromised keys; the long form takes one
rotation for every moment of every step for all four.
"""

import pytest

from tests.chaos.field import REGION, Field
from tests.chaos.marching import March, every, last, parametrize
from tests.chaos.reading import Reader
from tests.chaos.rotating import Rotating, adapters, assert_worthless, copy_wraps
from tests.kms.estate import make_service_keys
from tests.kms.opening import Opener, decrypt, encrypt

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

# Whether it is for compromised keys, and what is killed when.
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
    parametrize(metafunc, "rotation", SHORT, EVERY)


@pytest.fixture(scope="module")
def rotating(field: Field) -> Rotating:
    """An active tenant with a few services."""
    field.activate(TENANT)
    with adapters(field) as parts:
        make_service_keys(parts, TENANT, REGION, SERVICES)
    return Rotating(field, TENANT, SERVICES)


@pytest.mark.chaos
def test_rotation_is_done_and_services_decrypt_whatever_is_killed(rotating, rotation, request):
    field, (compromised, shots) = rotating.field, rotation
    field.wait_whole()
    rotating.retire_old()
    loot = copy_wraps(field, TENANT)
    march = March(field, TENANT, f"rotation-{request.node.callspec.indices['rotation']}", shots)
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
