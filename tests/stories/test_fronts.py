"""A tenant is attacked through the doors that its services use, by services that the product's workflow connected."""

from collections import Counter
from collections.abc import Iterator

import pytest

from activities.front_attacks import CLAUSES, FrontAttacks
from activities.probes import PROBE, REVOKED, SIBLING
from tenancy.ids import CANARY_TENANT_ID, MIRROR_TENANT_ID, tenant_workflow
from tenancy.lifecycle import State
from tenancy.services import ServiceState
from tests.fronts.doors import hang_up
from tests.stories.stack import wait_until
from worker import evidence_wiring, wiring


@pytest.fixture(scope="module")
def through_the_doors(stack) -> Iterator[FrontAttacks]:
    def mirror_is_there() -> bool:
        with stack.database().tenant_tx(MIRROR_TENANT_ID) as tx:
            row = tx.tenants.get()
        return row is not None and row.state is State.ACTIVE

    wait_until(mirror_is_there, lambda: f"see workflow {tenant_workflow(MIRROR_TENANT_ID)}")
    attacks = evidence_wiring.front_attacks(stack.settings, stack.database(), stack.vault(), wiring.utc_now)
    yield attacks
    hang_up(attacks._fronts._sides)


def test_every_attack_through_the_doors_is_refused(through_the_doors, acme):
    results = through_the_doors(acme)
    print(f"{sum(one.seconds for one in results):.2f} s in {len(results)} checks")  # noqa: T201 - a measurement
    assert {one.clause for one in results} == set(CLAUSES)
    assert Counter(one.outcome for one in results) == {"held": len(results)}


def test_the_attackers_are_services_like_any_other_and_what_is_to_be_revoked_is(through_the_doors, stack, acme):
    through_the_doors(acme)
    with stack.database().tenant_tx(CANARY_TENANT_ID) as tx:
        states = {row.service: row.state for row in tx.services.all()}
        descends = {row.service: row.l2_key for row in list(tx.services.keys())}
    assert states == {
        PROBE: ServiceState.CONNECTED,
        SIBLING: ServiceState.CONNECTED,
        REVOKED: ServiceState.DISCONNECTED,
    }
    assert set(descends.values()) == {f"L2-{CANARY_TENANT_ID}-primary"}


def test_nobody_is_told_of_the_platforms_own_tenants(through_the_doors, stack, acme):
    through_the_doors(acme)
    for tenant_id in (CANARY_TENANT_ID, MIRROR_TENANT_ID):
        with stack.database().tenant_tx(tenant_id) as tx:
            assert tx.outbox.all() == []


def test_whoever_asks_for_an_examination_gets_what_is_so_at_the_doors_now(through_the_doors, stack, acme):
    through_the_doors(acme)
    times = []
    for _ in range(2):
        checks = stack.command("check-boundaries", acme)["checks"]
        found = {check["name"]: check for check in checks if check["name"].startswith("fronts/")}
        assert {check["outcome"] for check in found.values()} == {"held"}
        times.append(found["fronts/kmip-read-other-tenant"]["seconds"])
    assert times[0] != times[1]
