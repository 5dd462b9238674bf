"""Step 4: the gate opens only for refusals, its evidence outlives its verdict, and each wall that is down shuts it."""

from collections.abc import Callable, Iterator

import pytest

from tenancy.boundaries import CheckResult, breaches
from tenancy.errors import BoundaryBreached, CanaryMissing
from tenancy.ids import CANARY_TENANT_ID
from tenancy.provisioning import Step
from tests.activities.conftest import Provisioning

EVERY_WALL = {"U2", "C2", "C3", "A1", "A3", "M1", "M2"}
_TENANT_POLICY = "sys/policies/acl/openkcm-tenant"


@pytest.fixture
def made(canary: Provisioning, tenant: Provisioning) -> Provisioning:
    """A tenant that is about to be attacked."""
    assert canary.is_done(Step.ACTIVATE)
    tenant.run_until(Step.CREATE_AUTHORITY)
    return tenant


@pytest.fixture
def widen_policy(vault_admin) -> Iterator[Callable[[], object]]:
    """Return a function that widens the templated policy of all tenants to every tenant's key."""
    policy = (vault_admin.read(_TENANT_POLICY) or {})["policy"]
    wide = 'path "transit/+/L2-*" { capabilities = ["update"] }'
    yield lambda: vault_admin.write(_TENANT_POLICY, {"policy": wide})
    vault_admin.write(_TENANT_POLICY, {"policy": policy})


def evidence(tenant: Provisioning) -> tuple[CheckResult, ...]:
    with tenant.database.tenant_tx(tenant.tenant_id) as tx:
        return tuple(tx.boundaries.latest())


def checked(tenant: Provisioning) -> list[tuple[str, str]]:
    records = [record for record in tenant.audited() if record["name"] == "boundary.checked"]
    return [(record["outcome"], record["details"]["breached"]) for record in records]


def test_a_tenant_behind_whole_walls_passes_and_its_evidence_names_every_clause(made):
    made.run(Step.CHECK_BOUNDARIES)
    assert breaches(evidence(made)) == ()
    assert {result.clause for result in evidence(made)} >= EVERY_WALL
    assert checked(made) == [("success", "")]
    assert made.is_done(Step.CHECK_BOUNDARIES)


def test_the_gate_attacks_in_both_directions(made):
    made.run(Step.CHECK_BOUNDARIES)
    attacks = [result.name.split("/") for result in evidence(made)]
    by_tenant, by_canary = ([name for who, name in attacks if who == side] for side in ("by-tenant", "by-canary"))
    assert by_tenant
    assert by_tenant == by_canary
    assert len(attacks) == 2 * len(by_tenant)


def test_a_repeated_gate_attacks_again_and_is_audited_once(made):
    made.run(Step.CHECK_BOUNDARIES)
    made.run(Step.CHECK_BOUNDARIES)
    made.assert_audited_once()


def test_without_a_canary_nothing_is_proven_and_nothing_recorded(tenant):
    tenant.run_until(Step.CREATE_AUTHORITY)
    with pytest.raises(CanaryMissing):
        tenant.run(Step.CHECK_BOUNDARIES)
    assert evidence(tenant) == ()
    assert not tenant.is_done(Step.CHECK_BOUNDARIES)


def assert_breached(tenant: Provisioning, clause: str) -> None:
    with pytest.raises(BoundaryBreached) as breached:
        tenant.run(Step.CHECK_BOUNDARIES)
    found = breaches(evidence(tenant))
    assert found
    assert clause in {result.clause for result in evidence(tenant) if result.outcome == "breached"}
    assert all(name in breached.value.message for name in found)
    assert checked(tenant)[-1] == ("failure", ", ".join(found))
    assert not tenant.is_done(Step.CHECK_BOUNDARIES)


def test_one_policy_too_wide_at_the_key_server_is_a_breach_with_its_evidence_committed(made, widen_policy):
    widen_policy()
    assert_breached(made, "U2")


def test_row_security_without_its_signed_context_is_a_breach_with_its_evidence_committed(made, field):
    with field.administrator() as administrator:
        for (table,) in administrator.execute(
            "select tablename from pg_policies where policyname = 'signed'"
        ).fetchall():
            administrator.execute(f"drop policy signed on okcm.{table}")
    assert_breached(made, "M2")


def test_a_table_without_row_security_is_a_breach(made, field):
    with field.administrator() as administrator:
        administrator.execute("alter table okcm.tenant disable row level security")
    assert_breached(made, "M2")


def test_a_breach_that_a_repeated_gate_finds_is_on_record_beside_the_first_result(made, widen_policy):
    made.run(Step.CHECK_BOUNDARIES)
    widen_policy()
    with pytest.raises(BoundaryBreached):
        made.run(Step.CHECK_BOUNDARIES)
    assert [outcome for outcome, _ in checked(made)] == ["success", "failure"]


def test_a_breach_of_the_canary_is_evidence_of_the_new_tenant_only(made, widen_policy):
    widen_policy()
    with made.database.tenant_tx(CANARY_TENANT_ID) as tx:
        before = tx.audit.head()
    with pytest.raises(BoundaryBreached):
        made.run(Step.CHECK_BOUNDARIES)
    with made.database.tenant_tx(CANARY_TENANT_ID) as tx:
        assert tx.audit.head() == before
