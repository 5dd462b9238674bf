"""Step 4: provisioning continues only when every attack fails, and the evidence of each check is committed."""

import pytest

from core.errors.compliance import CanaryMissing, IsolationBreached
from core.isolation import CheckResult, breaches
from core.tenants.provisioning import Step
from tests.activities.provisioning import Provisioning

EVERY_CLAUSE = {"U2", "C2", "C3", "A1", "A3", "M1", "M2"}


@pytest.fixture
def made(canary: Provisioning, tenant: Provisioning) -> Provisioning:
    """Return a tenant before the isolation gate."""
    assert canary.is_done(Step.ACTIVATE)
    tenant.run_until(Step.CREATE_AUTHORITY)
    return tenant


WIDE = 'path "transit/+/L2-*" { capabilities = ["update"] }'


def evidence(tenant: Provisioning) -> tuple[CheckResult, ...]:
    return tenant.read(lambda tx: tuple(tx.boundaries.latest()))


def checked(tenant: Provisioning) -> list[tuple[str, str]]:
    return [(record["outcome"], record["details"]["breached"]) for record in tenant.records("isolation.checked")]


def test_isolated_tenant_passes_and_its_evidence_names_every_clause(made) -> None:
    made.run(Step.CHECK_BOUNDARIES)
    assert breaches(evidence(made)) == ()
    assert {result.clause for result in evidence(made)} >= EVERY_CLAUSE
    assert checked(made) == [("success", "")]
    assert made.is_done(Step.CHECK_BOUNDARIES)
    attacks = [result.name.split("/") for result in evidence(made)]
    by_tenant, by_canary = ([name for who, name in attacks if who == side] for side in ("by-tenant", "by-canary"))
    assert by_tenant
    assert by_tenant == by_canary
    assert len(attacks) == 2 * len(by_tenant)
    made.run(Step.CHECK_BOUNDARIES)
    made.assert_audited_once()


def test_gate_without_a_canary_fails_and_records_nothing(tenant) -> None:
    tenant.run_until(Step.CREATE_AUTHORITY)
    with pytest.raises(CanaryMissing):
        tenant.run(Step.CHECK_BOUNDARIES)
    assert evidence(tenant) == ()
    assert not tenant.is_done(Step.CHECK_BOUNDARIES)


def assert_breached(tenant: Provisioning, clause: str) -> None:
    with pytest.raises(IsolationBreached) as breached:
        tenant.run(Step.CHECK_BOUNDARIES)
    found = breaches(evidence(tenant))
    assert found
    assert clause in {result.clause for result in evidence(tenant) if result.outcome == "breached"}
    assert all(name in breached.value.message for name in found)
    assert checked(tenant) == [("failure", ", ".join(found))]
    assert not tenant.is_done(Step.CHECK_BOUNDARIES)


def test_too_wide_policy_at_the_key_server_is_a_breach_of_the_new_tenant_only(made, canary, widen) -> None:
    made.run(Step.CHECK_BOUNDARIES)
    before = canary.records()
    with widen("tenant", WIDE), pytest.raises(IsolationBreached):
        made.run(Step.CHECK_BOUNDARIES)
    assert [outcome for outcome, _ in checked(made)] == ["success", "failure"]
    assert canary.records() == before


def test_too_wide_policy_at_the_first_check_stops_provisioning(made, widen) -> None:
    with widen("tenant", WIDE):
        assert_breached(made, "U2")


def test_row_security_without_its_signed_context_stops_provisioning(made, field) -> None:
    with field.administrator() as administrator:
        for (table,) in administrator.execute(
            "select tablename from pg_policies where policyname = 'signed'"
        ).fetchall():
            administrator.execute(f"drop policy signed on okcm.{table}")
    assert_breached(made, "M2")
