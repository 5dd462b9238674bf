"""The Overview on a real database, in every tenant state."""

import pytest

from core.tenants.lifecycle import State
from openkcm.contract.services import ServiceKind
from tests.dashboard.scene import Scene, shown, text


def test_an_active_tenant_has_its_facts_metrics_and_first_steps(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.measured()
    at = shown("overview", scene.page_context())
    assert at.title[0].value == "ACME Corporation - Encryption Dashboard"
    assert [(metric.label, metric.value) for metric in at.metric] == [
        ("Requests, 24 h", "0"),
        ("Rejected, 24 h", "0"),
        ("p95 latency (upper bound)", "not timed"),
        ("Encryption coverage", "0"),
    ]
    said = text(at)
    assert "Tenant Status: Active" in said
    assert "Region: eu-west-1" in said
    assert "Services Using Encryption: 0 (ready for integration)" in said
    assert "**Root key:** Platform-Managed (default)" in said
    assert "**Tenant isolation:** Active ✓" in said
    assert "**Service integration:** Ready ✓" in said
    assert "Nothing needs attention." in said
    assert "First steps" in said
    assert not at.error
    assert not at.warning


@pytest.mark.parametrize(
    ("button", "page", "dialog"),
    [
        ("connect", "services", "services.connecting"),
        ("root-key", "keys", "root-key.open"),
        ("approvals", "settings", ""),
    ],
)
def test_each_first_step_opens_its_page_and_dialog(scene: Scene, button: str, page: str, dialog: str) -> None:
    scene.tenant(State.ACTIVE)
    at = shown("overview", scene.page_context())
    at.button(key=f"overview.first.{button}").click().run()
    assert at.session_state["went"] == page
    assert not dialog or dialog in at.session_state


def test_a_tenant_with_services_shows_no_first_steps_but_its_requests(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("ledger", ServiceKind.POSTGRESQL, uses=100)
    at = shown("overview", scene.page_context())
    assert "First steps" not in text(at)
    assert (at.metric[0].value, at.metric[1].value) == ("100", "3")
    assert "Coverage: 1 service has no listed fields" in text(at)
    # The chart of `st.metric` has no text for a screen reader; the drawn ones have an alternative text.
    assert not any(metric.proto.chart_data for metric in at.metric)
    alts = [str(chart.proto) for chart in at.get("echarts_chart")]
    assert any("Requests by hour: lowest 0, highest 100, newest" in alt for alt in alts)


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
