"""The Overview on a real database, in every tenant state."""

import pytest

from core.tenants.lifecycle import State
from tests.dashboard.scene import ACME, Scene, shown, text
from tests.database.builders import a_result


def test_an_active_tenant_has_all_lines_in_order(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    at = shown("overview", scene.page_context())
    assert at.title[0].value == "ACME Corporation - Encryption Dashboard"
    assert [(metric.label, metric.value) for metric in at.metric] == [
        ("Tenant Status", "Active"),
        ("Region", "eu-west-1"),
        ("Services Using Encryption", "0"),
    ]
    said = text(at)
    assert "Ready for integration." in said
    assert "**Root key:** Platform-Managed (default)" in said
    assert "**Tenant isolation:** Active ✓" in said
    assert "**Service integration:** Ready ✓" in said
    assert "within the target" in said
    assert "9 of 9 isolation checks passed. Last run" in said
    assert "Shown: checks before activation." in said
    assert "Not checked" not in said
    assert not at.error
    assert not at.warning


@pytest.mark.parametrize("checked_later", [False, True])
def test_overview_shows_why_checks_were_not_completed_and_the_last_full_assessment(
    scene: Scene, *, checked_later: bool
) -> None:
    results = [
        a_result(),
        *(a_result(clause=clause, outcome="not-checked", evidence="no second tenant") for clause in ("U2", "C2")),
    ]
    scene.tenant(State.ACTIVE)
    scene.gateway.attacks[ACME] = results
    scene.gateway.check_boundaries(ACME, "eu-west-1", repeat=False)
    if checked_later:
        with scene.worker.tenant_tx(ACME) as tx:
            tx.boundaries.record("check-2", results)
    said = text(shown("overview", scene.page_context()))
    assert "1 of 1 isolation check passed. Last run" in said
    assert "Not checked: U2, C2: no second tenant" in said
    assert ("Last full assessment" in said) is checked_later
    assert "Shown: checks before activation" not in said


@pytest.mark.parametrize("state", [State.REQUESTED, State.PROVISIONING])
def test_a_tenant_in_provisioning_shows_its_steps(scene: Scene, state: State) -> None:
    scene.tenant(state)
    at = shown("overview", scene.page_context())
    done = 0 if state is State.REQUESTED else 2
    said = text(at)
    assert f"{done} of 6 steps done" in said
    assert "target: 3 min 0 s" in said
    assert ("vault_unavailable" in said) == (state is State.PROVISIONING)
    assert "Active" not in said


def test_a_failed_tenant_shows_the_failed_step_and_what_to_do(scene: Scene) -> None:
    scene.tenant(State.FAILED)
    said = text(shown("overview", scene.page_context()))
    assert "Failed at step 3 · create the tenant CA (`vault_refused`)" in said
    assert "Enable OpenKCM in the marketplace again" in said


def test_the_name_of_an_organization_is_not_markup(scene: Scene) -> None:
    scene.tenant(State.ACTIVE, organization="![x](https://evil.example/x.png) :red[A]")
    at = shown("overview", scene.page_context())
    assert "![x](" not in at.title[0].value
    assert ":red[" not in at.title[0].value
