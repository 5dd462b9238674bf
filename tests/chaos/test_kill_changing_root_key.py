"""Kill -9 inside every step of ChangeRootKey, in all four directions, aimed at each process in turn.

The change is done, or abandoned where the new key was taken away meanwhile: one root key in force, every service key
under it, nothing half done, no credentials left. A reader that opens every service key all the time is refused only
during the outage of the server that was killed. The short form takes each step and each server once; the long form
every moment of every step for all four, in all four directions.
"""

from collections.abc import Iterator

import pytest

from config.secrets import Role
from core.keys.root_keys import RootKeyMode
from tests.chaos.changing import Customers, Tenant
from tests.chaos.field import REGION, Field
from tests.chaos.marching import TARGETS, March, every, parametrize
from tests.chaos.reading import Reader
from tests.chaos.rotating import adapters
from tests.kms.estate import make_service_keys
from tests.kms.opening import Opener, decrypt, encrypt
from workflows.client.workflow_client import UpdateRejected

TENANT = "changing-corp"
MANY = "many-services-corp"
SERVICES = ("billing", "ledger", "orders")
KEY = "openkcm-root"

# The round that one tenant goes: from the platform to a customer, to another key of the same server, to another
# provider, and back.
DIRECTIONS = {
    "to-customer": ("platform", KEY),
    "within-provider": (KEY, "second"),
    "to-other-provider": ("second", "aws"),
    "to-platform": ("aws", "platform"),
}

# How many effects (answers from key servers, commits) each step has at least, in every direction.
EFFECTS = {"admit-root-key": 2, "preflight-root-key": 2, "wrap-service-keys": 10, "switch-root-key": 2}

# In the order of the round, so that one change leads to the next and none has to be made in between.
SHORT = [
    ("worker", "to-customer", "wrap-service-keys", "effect-10"),
    ("worker", "within-provider", "switch-root-key", "effect-2"),
    ("postgres", "to-other-provider", "wrap-service-keys", "effect-9"),
    ("openbao", "to-platform", "preflight-root-key", "effect-2"),
    ("worker", "to-customer", "admit-root-key", "effect-2"),
    ("temporal", "within-provider", "switch-root-key", "end"),
]

EVERY = [(target, way, step, moment) for target, step, moment in every(EFFECTS) for way in DIRECTIONS]

# The new key is taken away while whoever was shot is down; or it never worked, so that the change is abandoned at once.
TAKEN_SHORT = [("worker", "wrap-service-keys", "effect-10"), ("worker", "abandon-root-key", "effect-1")]
TAKEN_EVERY = [
    *(("worker", "wrap-service-keys", f"effect-{n}") for n in range(1, 11)),
    *(("worker", "switch-root-key", moment) for moment in ("start", "effect-1", "effect-2")),
    *((target, "abandon-root-key", moment) for target in TARGETS for moment in ("start", "effect-1", "end")),
]


def pytest_generate_tests(metafunc):
    parametrize(metafunc, "shot", SHORT, EVERY)
    parametrize(metafunc, "taken", TAKEN_SHORT, TAKEN_EVERY)


@pytest.fixture(scope="module")
def customers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Customers]:
    started = Customers.start(tmp_path_factory.mktemp("customers"))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def tenants(field: Field, customers: Customers) -> Iterator[dict[str, Tenant]]:
    """Two active tenants on the platform's root key, one with a few services and one with many."""
    field.stop_worker()  # it may be that of another module, and has other settings
    before = field.settings
    field.settings = before.model_copy(update={"aws_kms_endpoint": customers.aws.url})
    services = {TENANT: SERVICES, MANY: tuple(f"service-{n:02}" for n in range(60))}
    field.activate(*services)
    with adapters(field) as parts:
        for tenant_id, names in services.items():
            make_service_keys(parts, tenant_id, REGION, names)
    yield {tenant_id: Tenant(field, customers, tenant_id) for tenant_id in (TENANT, MANY)}
    field.stop_worker()
    field.settings = before


@pytest.mark.chaos
def test_root_key_changes_and_services_decrypt_whatever_is_killed(tenants, shot, request):
    tenant, (target, direction, step, moment) = tenants[TENANT], shot
    former, new = DIRECTIONS[direction]
    tenant.bring_under(former)
    with Opener(tenant.field.settings) as opener:
        tenant.field.wait_whole()
        estate = opener.open_all(TENANT, REGION)
        before = {place: encrypt(key, b"before") for place, key in estate.items()}
        name = f"change-{request.node.callspec.indices['shot']}"
        march = March(tenant.field, TENANT, name, [(target, step, moment)])
        with Reader(tenant.field, TENANT, estate, [target]) as reader:
            tenant.change(new)
            march.assert_over()
            last = tenant.assert_under()
        assert last.state == "done"
        after = opener.open_all(TENANT, REGION)
        assert after == estate
        assert all(decrypt(after[place], ciphertext) == b"before" for place, ciphertext in before.items())
        reader.assert_never_refused(after)


@pytest.mark.chaos
def test_new_key_that_is_taken_away_during_an_outage_leaves_the_former_one(tenants, taken, request):
    tenant, (target, step, _moment) = tenants[TENANT], taken
    bao = tenant.customers.bao
    under = tenant.under
    with Opener(tenant.field.settings) as opener:
        tenant.field.wait_whole()
        estate = opener.open_all(TENANT, REGION)
        march = March(tenant.field, TENANT, f"taken-{request.node.callspec.indices['taken']}", [taken])
        gone = False

        def take_away() -> None:
            nonlocal gone
            if not gone and (step == "abandon-root-key" or not march.left()):
                gone = True
                bao.soft_delete("doomed")

        try:
            with Reader(tenant.field, TENANT, estate, [target]) as reader:
                with pytest.raises(UpdateRejected) as refused:
                    tenant.change("doomed", take_away)
                march.assert_over()
                assert (refused.value.code, tenant.under) == ("root_key_disabled", under)
                last = tenant.assert_under()
            assert (last.state, last.problem) == ("failed", "root_key_disabled")
            after = opener.open_all(TENANT, REGION)
            assert after == estate
            reader.assert_never_refused(after)
        finally:
            if gone:
                bao.restore("doomed")


@pytest.mark.chaos
def test_change_of_many_service_keys_continues_where_its_worker_was_killed(tenants):
    tenant = tenants[MANY]
    field, bao = tenant.field, tenant.customers.bao
    field.wait_whole()
    with Opener(field.settings) as opener:
        estate = opener.open_all(MANY, REGION)
        # In the second batch of wraps, each of which has four effects.
        march = March(field, MANY, "many", [("worker", "wrap-service-keys", "effect-200")])
        wrapped: list[int] = []

        def look() -> None:
            if not wrapped and not march.left():
                # Before anything is started again.
                with field.database(Role.WORKER) as database, database.tenant_tx(MANY) as tx:
                    wrapped.append(tx.root_keys.changes(1)[0].wrapped)

        before = bao.count("encrypt", "second")
        tenant.change("second", look)
        made = bao.count("encrypt", "second") - before
        last = tenant.assert_under()
        assert (last.total, last.wrapped) == (len(estate), len(estate))
        assert 0 < wrapped[0] < len(estate)
        # Each that was on record was not made again; a few more are those of the preflight.
        assert len(estate) < made <= len(estate) + (len(estate) - wrapped[0]) + 5
        assert opener.open_all(MANY, REGION) == estate
    assert tenant.under == ("second", last.root_key_id)
    assert last.to_mode is RootKeyMode.OPENBAO
