"""Kill -9 inside every step of RotateKeys, for each process.

The rotation completes: one version of each service is active, everything is wrapped by the newest tenant key, no older
one decrypts, and a copy of earlier rows is useless. Earlier ciphertexts decrypt, unless their key was compromised. A
reader of every service key is rejected only during the outage of the killed server. The short form kills the worker in
every step of one rotation, and all four processes in one for compromised keys; the long form uses one rotation for
every moment of every step and each of the four processes.
"""

import pytest

from tests.chaos.field import REGION, Field
from tests.chaos.marching import KillSequence, every, last, parametrize
from tests.chaos.reading import Reader
from tests.chaos.rotation.rotating import RotatedTenant, adapters, assert_undecryptable, copy_wraps
from tests.kms.estate import make_service_keys
from tests.kms.opening import Opener, decrypt, encrypt

TENANT = "rotating-corp"
SERVICES = ("billing", "ledger", "orders")

# The minimum of effects (responses of the key server, commits) of each step, so that every kill has a target.
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

# Whether it is for compromised keys, and the kills.
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
    *((False, [kill]) for kill in every(BEGINNING | END)),
    *((True, [kill]) for kill in every(COMPROMISED)),
]


def pytest_generate_tests(metafunc):
    parametrize(metafunc, "rotation", SHORT, EVERY)


@pytest.fixture(scope="module")
def rotating(field: Field) -> RotatedTenant:
    """Return an active tenant with a few services."""
    field.activate(TENANT)
    with adapters(field) as parts:
        make_service_keys(parts, TENANT, REGION, SERVICES)
    return RotatedTenant(field, TENANT, SERVICES)


@pytest.mark.chaos
def test_rotation_completes_and_services_decrypt_despite_kills(rotating, rotation, request):
    field, (compromised, kills) = rotating.field, rotation
    field.wait_whole()
    rotating.retire_old()
    copies = copy_wraps(field, TENANT)
    sequence = KillSequence(field, TENANT, f"rotation-{request.node.callspec.indices['rotation']}", kills)
    with Opener(field.settings) as opener:
        estate = opener.open_all(TENANT, REGION)
        before = {place: encrypt(key, b"before") for place, key in estate.items()}
        with Reader(field, TENANT, estate, [target for target, _, _ in kills], replaced=compromised) as reader:
            rotating.rotate(compromised=compromised)
            sequence.assert_done()
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
    reader.assert_no_errors(after)
    assert_undecryptable(field, copies)
