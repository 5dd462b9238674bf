"""Kill -9 inside every step of ChangeRootKey, in all four directions, for each process.

The change completes, or is abandoned where the new key was disabled meanwhile: one root key in force, which wraps every
service key, nothing half done, no credentials left. A reader that continuously unwraps every service key is rejected
only during the outage of the killed server. The short form kills in each step and each server once; the long form kills
at every moment of every step, for all four processes, in all four directions.
"""

from collections.abc import Iterator

import pytest

from config.secrets import Role
from core.keys.root_keys import RootKeyMode
from tests.chaos.field import REGION, Field
from tests.chaos.marching import TARGETS, KillSequence, every, parametrize
from tests.chaos.reading import Reader
from tests.chaos.root_keys.changing import Customers, Tenant
from tests.chaos.rotation.rotating import adapters
from tests.kms.estate import make_service_keys
from tests.kms.opening import Opener, decrypt, encrypt
from workflows.client.updates import UpdateRejected

TENANT = "changing-corp"
MANY = "many-services-corp"
SERVICES = ("billing", "ledger", "orders")
KEY = "openkcm-root"

# The sequence of root keys of one tenant: from the platform to a customer, to another key of the same server, to
# another provider, and back.
DIRECTIONS = {
    "to-customer": ("platform", KEY),
    "within-provider": (KEY, "second"),
    "to-other-provider": ("second", "aws"),
    "to-platform": ("aws", "platform"),
}

# The minimum of effects (responses of key servers, commits) of each step, in every direction.
EFFECTS = {"register-root-key": 2, "preflight-root-key": 2, "wrap-service-keys": 10, "switch-root-key": 2}

# In the order of the sequence, so that each change starts where the previous one ended.
SHORT = [
    ("worker", "to-customer", "wrap-service-keys", "effect-10"),
    ("worker", "within-provider", "switch-root-key", "effect-2"),
    ("postgres", "to-other-provider", "wrap-service-keys", "effect-9"),
    ("openbao", "to-platform", "preflight-root-key", "effect-2"),
    ("worker", "to-customer", "register-root-key", "effect-2"),
    ("temporal", "within-provider", "switch-root-key", "end"),
]

EVERY = [(target, way, step, moment) for target, step, moment in every(EFFECTS) for way in DIRECTIONS]

# The new key is disabled while the killed process is down, or from the start, so that the change is abandoned.
DISABLED_SHORT = [("worker", "wrap-service-keys", "effect-10"), ("worker", "abandon-root-key", "effect-1")]
DISABLED_EVERY = [
    *(("worker", "wrap-service-keys", f"effect-{n}") for n in range(1, 11)),
    *(("worker", "switch-root-key", moment) for moment in ("start", "effect-1", "effect-2")),
    *((target, "abandon-root-key", moment) for target in TARGETS for moment in ("start", "effect-1", "end")),
]


def pytest_generate_tests(metafunc):
    parametrize(metafunc, "kill", SHORT, EVERY)
    parametrize(metafunc, "disabled", DISABLED_SHORT, DISABLED_EVERY)


@pytest.fixture(scope="module")
def customers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Customers]:
    started = Customers.start(tmp_path_factory.mktemp("customers"))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def tenants(field: Field, customers: Customers) -> Iterator[dict[str, Tenant]]:
    """Yield two active tenants on the platform's root key, one with a few services and one with many."""
    field.stop_worker()  # it may be another module's, with other settings
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
def test_root_key_change_survives_kills_and_services_decrypt(tenants, kill, request):
    tenant, (target, direction, step, moment) = tenants[TENANT], kill
    former, new = DIRECTIONS[direction]
    tenant.ensure_root_key(former)
    with Opener(tenant.field.settings) as opener:
        tenant.field.wait_whole()
        estate = opener.open_all(TENANT, REGION)
        before = {place: encrypt(key, b"before") for place, key in estate.items()}
        name = f"change-{request.node.callspec.indices['kill']}"
        sequence = KillSequence(tenant.field, TENANT, name, [(target, step, moment)])
        with Reader(tenant.field, TENANT, estate, [target]) as reader:
            tenant.change(new)
            sequence.assert_done()
            last = tenant.assert_root_key()
        assert last.state == "done"
        after = opener.open_all(TENANT, REGION)
        assert after == estate
        assert all(decrypt(after[place], ciphertext) == b"before" for place, ciphertext in before.items())
        reader.assert_no_errors(after)


@pytest.mark.chaos
def test_key_disabled_during_an_outage_leaves_the_former_root_key(tenants, disabled, request):
    tenant, (target, step, _moment) = tenants[TENANT], disabled
    bao = tenant.customers.bao
    root_key = tenant.root_key
    with Opener(tenant.field.settings) as opener:
        tenant.field.wait_whole()
        estate = opener.open_all(TENANT, REGION)
        sequence = KillSequence(
            tenant.field, TENANT, f"disabled-{request.node.callspec.indices['disabled']}", [disabled]
        )
        key_disabled = False

        def disable_key() -> None:
            nonlocal key_disabled
            if not key_disabled and (step == "abandon-root-key" or not sequence.left()):
                key_disabled = True
                bao.soft_delete("disabled")

        try:
            with Reader(tenant.field, TENANT, estate, [target]) as reader:
                with pytest.raises(UpdateRejected) as refused:
                    tenant.change("disabled", disable_key)
                sequence.assert_done()
                assert (refused.value.code, tenant.root_key) == ("root_key_disabled", root_key)
                last = tenant.assert_root_key()
            assert (last.state, last.problem) == ("failed", "root_key_disabled")
            after = opener.open_all(TENANT, REGION)
            assert after == estate
            reader.assert_no_errors(after)
        finally:
            if key_disabled:
                bao.restore("disabled")


@pytest.mark.chaos
def test_change_of_many_service_keys_continues_where_its_worker_was_killed(tenants):
    tenant = tenants[MANY]
    field, bao = tenant.field, tenant.customers.bao
    field.wait_whole()
    with Opener(field.settings) as opener:
        estate = opener.open_all(MANY, REGION)
        # In the second batch of wraps; each wrap has four effects.
        sequence = KillSequence(field, MANY, "many", [("worker", "wrap-service-keys", "effect-200")])
        wrapped: list[int] = []

        def record_progress() -> None:
            if not wrapped and not sequence.left():
                # Before any process is restarted.
                with field.database(Role.WORKER) as database, database.tenant_tx(MANY) as tx:
                    wrapped.append(tx.root_keys.changes(1)[0].wrapped)

        before = bao.count("encrypt", "second")
        tenant.change("second", record_progress)
        made = bao.count("encrypt", "second") - before
        last = tenant.assert_root_key()
        assert (last.total, last.wrapped) == (len(estate), len(estate))
        assert 0 < wrapped[0] < len(estate)
        # A recorded wrap was not repeated; a few additional ones are from the preflight.
        assert len(estate) < made <= len(estate) + (len(estate) - wrapped[0]) + 5
        assert opener.open_all(MANY, REGION) == estate
    assert tenant.root_key == ("second", last.root_key_id)
    assert last.to_mode is RootKeyMode.OPENBAO
