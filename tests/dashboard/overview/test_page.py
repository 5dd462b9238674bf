"""The Overview on a real database, in every state a tenant can be in."""

import pytest

from core.tenants.lifecycle import State
from tests.dashboard.scene import ACME, Scene, shown, text
from tests.database.builders import a_result


def test_an_active_tenant_sees_the_dashboard_it_was_promised(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    at = shown("overview", scene.seat())
    assert at.title[0].value == "ACME Corporation - Encryption Dashboard"
    assert [(metric.label, metric.value) for metric in at.metric] == [
        ("Tenant Status", "Active"),
        ("Region", "eu-west-1"),
        ("Services Using Encryption", "0"),
    ]
    said = text(at)
    assert "Ready for integration." in said
    assert "**Master Key:** Platform-Managed (default)" in said
    assert "**Tenant Isolation:** Active ✓" in said
    assert "**Service Integration:** Ready ✓" in said
    assert "as promised" in said
    assert "9 of 9 attacks across the tenant boundary refused. Last checked" in said
    assert "Those were the attacks before it opened." in said
    assert "Not checked" not in said
    assert not at.error
    assert not at.warning


@pytest.mark.parametrize("checked_later", [False, True])
def test_overview_shows_why_attacks_were_not_made_and_when_all_were_last_made(
    scene: Scene, *, checked_later: bool
) -> None:
    results = [
        a_result(),
        *(a_result(clause=clause, outcome="not-checked", evidence="no second tenant") for clause in ("U2", "C2")),
    ]
    scene.tenant(State.ACTIVE)
    scene.door.attacks[ACME] = results
    scene.door.check_boundaries(ACME, "eu-west-1", anew=False)
    if checked_later:
        with scene.worker.tenant_tx(ACME) as tx:
            tx.boundaries.record("check-2", results)
    said = text(shown("overview", scene.seat()))
    assert "1 of 1 attack across the tenant boundary refused. Last checked" in said
    assert "Not checked: U2, C2: no second tenant" in said
    assert ("Last examined in full" in said) is checked_later
    assert "Those were the attacks before it opened" not in said


@pytest.mark.parametrize("state", [State.REQUESTED, State.PROVISIONING])
def test_a_tenant_that_is_made_shows_its_steps(scene: Scene, state: State) -> None:
    scene.tenant(state)
    at = shown("overview", scene.seat())
    done = 0 if state is State.REQUESTED else 2
    said = text(at)
    assert f"{done} of 6 steps done" in said
    assert "promised within 3 min 0 s" in said
    assert ("vault_unavailable" in said) == (state is State.PROVISIONING)
    assert "Active" not in said


def test_a_failed_tenant_says_where_it_stopped_and_what_to_do(scene: Scene) -> None:
    scene.tenant(State.FAILED)
    said = text(shown("overview", scene.seat()))
    assert "It stopped at step 3 · create the certificate authority (`vault_refused`)" in said
    assert "Enable OpenKCM in the marketplace once more" in said


def test_an_organizations_name_is_no_markup(scene: Scene) -> None:
    scene.tenant(State.ACTIVE, organization="![x](https://evil.example/x.png) :red[A]")
    at = shown("overview", scene.seat())
    assert "![x](" not in at.title[0].value
    assert ":red[" not in at.title[0].value
