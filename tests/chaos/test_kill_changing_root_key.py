"""Kill -9 inside every step of ChangeRootKey, in all four directions, aimed at each process in turn.

Whatever is shot whenever, the change is done, or abandoned where the new key was taken away meanwhile: one root key in
force, every service key under it, nothing half done, no credentials left. And somebody who opens every service key all
the time is never refused, but for the outage of the very server that was shot. The short form takes each step once and
each server once; the long form goes through every moment of every step for all four, in all four directions.
"""

from collections.abc import Iterator

import pytest

from config.secrets import Role
from tenancy.ids import CANARY_TENANT_ID
from tenancy.root_keys import RootKeyMode
from tests.chaos.changing import Customers, Tenant
from tests.chaos.field import REGION, Field
from tests.chaos.reading import Reader
from tests.keystores.estate import make_service_keys
from tests.keystores.opening import Opener, decrypt, encrypt
from worker import wiring
from workflows.gateway import UpdateRefused

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

EVERY = [
    (target, direction, step, moment)
    for target in ("worker", "openbao", "postgres", "temporal")
    for step, effects in EFFECTS.items()
    for moment in ("start", *(f"effect-{n}" for n in range(1, effects + 1)), "end")
    for direction in DIRECTIONS
]

# The new key is taken away while whoever was shot is down; or it never worked, so that the change is abandoned at once.
TAKEN_SHORT = [("worker", "wrap-service-keys", "effect-10"), ("worker", "abandon-root-key", "effect-1")]
TAKEN_EVERY = [
    *(("worker", "wrap-service-keys", f"effect-{n}") for n in range(1, 11)),
    *(("worker", "switch-root-key", moment) for moment in ("start", "effect-1", "effect-2")),
    *(
        (target, "abandon-root-key", moment)
        for target in ("worker", "openbao", "postgres", "temporal")
        for moment in ("start", "effect-1", "end")
    ),
]


def pytest_generate_tests(metafunc):
    long = metafunc.config.getoption("--long")
    if "shot" in metafunc.fixturenames:
        metafunc.parametrize("shot", EVERY if long else SHORT, ids="-".join)
    if "taken" in metafunc.fixturenames:
        metafunc.parametrize("taken", TAKEN_EVERY if long else TAKEN_SHORT, ids="-".join)


@pytest.fixture(scope="module")
def customers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Customers]:
    started = Customers.start(tmp_path_factory.mktemp("customers"))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def tenants(field: Field, customers: Customers) -> Iterator[dict[str, Tenant]]:
    """Two active tenants on the platform's root key, one with a few services and one with many."""
    before = field.settings
    field.settings = before.model_copy(update={"aws_kms_endpoint": customers.aws.url})
    field.aim()
    marketplace, worker = field.database(Role.MARKETPLACE), field.database(Role.WORKER)
    field.wait_active(worker, CANARY_TENANT_ID)
    parts = wiring.build(field.settings)
    for tenant_id, services in ((TENANT, SERVICES), (MANY, tuple(f"service-{n:02}" for n in range(60)))):
        field.enable(marketplace, tenant_id)
        field.wait_active(worker, tenant_id)
        make_service_keys(parts, tenant_id, REGION, services)
    for database in (marketplace, worker, parts.database):
        database.close()
    yield {tenant_id: Tenant(field, customers, tenant_id) for tenant_id in (TENANT, MANY)}
    field.stop_worker()
    field.settings = before


def plan(tenant: Tenant, target: str, step: str, moment: str, name: str) -> dict[str, object]:
    spent = tenant.field.folder / f"spent-{name}"
    return {
        "tenant": tenant.tenant_id,
        "activity": step,
        "moment": moment,
        "pid": tenant.field.pid_of(target),
        "spent": str(spent),
    }


def is_spent(tenant: Tenant, name: str) -> bool:
    return (tenant.field.folder / f"spent-{name}").exists()


@pytest.mark.chaos
def test_services_go_on_decrypting_whatever_dies_while_the_root_key_is_changed(tenants, shot, request):
    tenant, (target, direction, step, moment) = tenants[TENANT], shot
    former, new = DIRECTIONS[direction]
    tenant.bring_under(former)
    name = f"change-{request.node.callspec.indices['shot']}"
    with Opener(tenant.field.settings) as opener:
        tenant.field.wait_whole()
        estate = opener.open_all(TENANT, REGION)
        before = {place: encrypt(key, b"before") for place, key in estate.items()}
        tenant.field.aim(plan(tenant, target, step, moment, name))
        with Reader(tenant.field, TENANT, estate, [target]) as reader:
            tenant.change(new)
            assert is_spent(tenant, name), "the shot was never fired, so nothing was shown"
            last = tenant.assert_under()
        assert last.state == "done"
        after = opener.open_all(TENANT, REGION)
        assert after == estate
        assert all(decrypt(after[place], ciphertext) == b"before" for place, ciphertext in before.items())
        reader.assert_never_refused(after)


@pytest.mark.chaos
def test_a_new_key_that_is_taken_away_while_something_is_dead_leaves_the_former_one(tenants, taken, request):
    tenant, (target, step, moment) = tenants[TENANT], taken
    bao = tenant.customers.bao
    name = f"taken-{request.node.callspec.indices['taken']}"
    under = tenant.under
    with Opener(tenant.field.settings) as opener:
        tenant.field.wait_whole()
        estate = opener.open_all(TENANT, REGION)
        tenant.field.aim(plan(tenant, target, step, moment, name))
        gone = False

        def take_away() -> None:
            nonlocal gone
            if not gone and (step == "abandon-root-key" or is_spent(tenant, name)):
                gone = True
                bao.soft_delete("doomed")

        try:
            with Reader(tenant.field, TENANT, estate, [target]) as reader:
                with pytest.raises(UpdateRefused) as refused:
                    tenant.change("doomed", take_away)
                assert is_spent(tenant, name), "the shot was never fired, so nothing was shown"
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
def test_a_change_of_many_service_keys_goes_on_where_it_was_when_its_worker_died(tenants):
    tenant = tenants[MANY]
    field, bao = tenant.field, tenant.customers.bao
    field.wait_whole()
    with Opener(field.settings) as opener:
        estate = opener.open_all(MANY, REGION)
        # In the second batch of wraps, each of which has four effects.
        field.aim(plan(tenant, "worker", "wrap-service-keys", "effect-200", "many"))
        wrapped: list[int] = []

        def look() -> None:
            if not wrapped and is_spent(tenant, "many"):
                database = field.database(Role.WORKER)
                with database.tenant_tx(MANY) as tx:
                    wrapped.append(tx.root_keys.changes(1)[0].wrapped)
                database.close()

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
