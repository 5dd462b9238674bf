"""`python -m devstack enable` and `openkcmctl tenant` for scripts: arguments, JSON documents and exit statuses."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import cli.tenants.commands
import devstack.marketplace_simulator.enable
from config import secrets
from core.errors.platform import ComponentFailed
from core.errors.tenants import TenantConflict, TenantUnknown
from devstack.marketplace_simulator.client import EnableRefused
from devstack.marketplace_simulator.enable import NotReadyInTime, ProvisioningFailed
from openkcm.errors import IllegalTenantId, OpenKcmError
from tests.cli.background import MarketplaceServer
from tests.database.builders import a_provisioned_tenant
from tests.marketplace.conftest import CURRENT, PREVIOUS, TOKEN, logs

__all__ = ["logs"]
ACME = ("acme-corp-12345", "--organization", "ACME Corporation", "--region", "eu-west-1")


@pytest.fixture
def stand(field, secrets_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MarketplaceServer]:
    started = MarketplaceServer(field)
    (secrets_folder / secrets.WEBHOOK_SECRETS).write_text(f"{CURRENT}\n{PREVIOUS}\n")
    (secrets_folder / secrets.MARKETPLACE_TOKEN).write_text(TOKEN)
    monkeypatch.setenv("OPENKCM_MARKETPLACE_PORT", started.endpoint.url.rpartition(":")[2])
    try:
        yield started
    finally:
        started.stop()


def application() -> typer.Typer:
    app = typer.Typer()
    app.callback()(lambda: None)
    devstack.marketplace_simulator.enable.register(app)
    cli.tenants.commands.register(app)
    return app


def run(*words: str) -> Any:
    """Run a command and return its document; raises the error that `cli.__main__` would get."""
    result = CliRunner().invoke(application(), [*words, "--json"])
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)


def when_polled(stand: MarketplaceServer, state: str) -> Callable[[dict[str, Any]], None]:
    return lambda _status: stand.becomes(state)


@pytest.mark.usefixtures("stand")
def test_enable_returns_the_documented_fields() -> None:
    assert run("enable", *ACME) == {
        "tenant_id": "acme-corp-12345",
        "state": "requested",
        "ready_seconds": None,
        "dashboard_url": "https://cmk.openkcm.io/tenant/acme-corp-12345",
    }


def test_enable_of_an_active_tenant_changes_nothing_and_does_not_wait(stand) -> None:
    run("enable", *ACME)
    stand.becomes("active")

    again = run("enable", *ACME, "--wait")
    with pytest.raises(TenantConflict, match="exists with the organization ACME Corporation"):
        run("enable", ACME[0], "--organization", "Globex", "--region", "eu-west-1")

    assert (again["state"], again["ready_seconds"]) == ("active", 1.25)
    assert stand.endpoint.count("tenant") == 1


def test_wait_ends_when_the_tenant_is_active(stand) -> None:
    run("enable", *ACME)
    marketplace = devstack.marketplace_simulator.enable.open_sender(
        devstack.marketplace_simulator.enable.load_settings()
    )

    status = devstack.marketplace_simulator.enable.wait_until_active(
        marketplace, "acme-corp-12345", 10, when_polled(stand, "active")
    )
    marketplace.close()

    assert status["announcement"].startswith("OpenKCM is ready for ACME Corporation!")


def test_wait_distinguishes_failed_from_not_ready(stand) -> None:
    with pytest.raises(NotReadyInTime):
        run("enable", *ACME, "--wait", "--timeout", "0.2")
    stand.becomes("failed")
    with pytest.raises(ProvisioningFailed) as failed:
        run("enable", *ACME, "--wait")
    assert failed.value.hint.endswith("openkcmctl tenant retry acme-corp-12345")


def test_a_rejection_has_the_code_and_hint_of_the_endpoint(stand) -> None:
    with pytest.raises(EnableRefused) as refused:
        run("enable", "acme-corp-12345", "--organization", "ACME", "--region", "mars-north-1")

    assert refused.value.code == "unknown_region"
    assert "eu-west-1" in refused.value.hint
    stand.endpoint.assert_nothing_stored()


@pytest.mark.usefixtures("stand")
def test_an_illegal_id_is_rejected_before_a_request_is_sent() -> None:
    with pytest.raises(IllegalTenantId):
        run("enable", "ACME", "--organization", "ACME", "--region", "eu-west-1")


@pytest.mark.usefixtures("stand")
def test_an_unreachable_endpoint_is_reported(free_port, monkeypatch) -> None:
    monkeypatch.setenv("OPENKCM_MARKETPLACE_PORT", str(free_port))
    with pytest.raises(ComponentFailed):
        run("enable", *ACME)


@pytest.mark.usefixtures("stand")
def test_show_of_a_new_tenant_has_no_resources_yet() -> None:
    run("enable", *ACME)

    shown = run("tenant", "show", "acme-corp-12345")

    assert (shown["state"], shown["l2_key"], shown["services"]) == ("requested", "L2-acme-corp-12345-primary", [])
    assert (shown["keys"], shown["authority"], shown["route"], shown["ready_seconds"]) == ([], None, None, None)
    assert shown["audit"]["events"] == 1
    assert len(shown["audit"]["head"]) == 64


def test_show_states_what_is_measured_and_nothing_measured_as_unknown(operator_cli, field) -> None:
    a_provisioned_tenant(field.open("worker"), "acme")
    found = operator_cli.run("tenant", "show", "acme")["status"]
    assert found["overall"] == "degraded"
    assert {one["subject"]: one["status"] for one in found["subjects"]} == {
        "tenant": "unknown",
        "requests": "unknown",
        "crypto-service": "unknown",
        "key-server": "unknown",
        "root-key": "unknown",
        "certificates": "operational",
        "isolation": "operational",
        "changes": "stopped",
        "approvals": "operational",
    }
    assert "crypto-service: No report" in operator_cli.invoke("tenant", "show", "acme").stdout


@pytest.mark.usefixtures("stand")
def test_show_of_an_unknown_tenant_is_rejected() -> None:
    with pytest.raises(TenantUnknown):
        run("tenant", "show", "unknown-corp")


def test_list_reads_every_page(stand) -> None:
    for number in range(5):
        run("enable", f"tenant-{number}", *ACME[1:])
    expected = [f"tenant-{number}" for number in range(5)]

    assert [tenant["tenant_id"] for tenant in run("tenant", "list")["tenants"]] == expected
    a_provisioned_tenant(stand.field.open("worker"), "openkcm-canary")
    assert [tenant["tenant_id"] for tenant in run("tenant", "list")["tenants"]] == expected
    expected = ["openkcm-canary", *expected]
    assert [tenant["tenant_id"] for tenant in run("tenant", "list", "--all")["tenants"]] == expected
    operator = stand.field.open("operator")
    assert [row.tenant_id for row in cli.tenants.commands.every_tenant(operator, page=2)] == expected


@pytest.mark.usefixtures("stand")
def test_retry_of_a_tenant_without_a_workflow_is_rejected(temporal, monkeypatch) -> None:
    monkeypatch.setenv("OPENKCM_TEMPORAL_PORT", str(temporal.port))
    with pytest.raises(OpenKcmError) as refused:
        run("tenant", "retry", "unknown-corp")
    assert refused.value.code == "tenant_unknown"


@pytest.mark.usefixtures("stand")
@pytest.mark.parametrize("words", [("list",), ("show", "acme-corp-12345")])
def test_the_organization_is_printed_as_text_and_not_as_markup(words) -> None:
    run("enable", "acme-corp-12345", "--organization", "[red]A[/red]", "--region", "eu-west-1")

    shown = CliRunner().invoke(application(), ["tenant", *words])

    assert shown.exit_code == 0
    assert "[red]A[/red]" in shown.stdout
