"""`python -m devstack enable`: simulates the marketplace with a signed event, and waits for the provisioning."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Protocol

import typer
from rich.console import Console

from config.secrets import MARKETPLACE_TOKEN, WEBHOOK_SECRETS, read_secret
from config.settings import Settings, load_settings
from core.errors.tenants import TenantConflict, TenantUnknown
from core.tenants.lifecycle import State
from core.tenants.provisioning import StepState
from devstack.marketplace_simulator.client import EnableRefused, MarketplaceClient
from openkcm.cli import output
from openkcm.contract.names import parse_tenant_id
from openkcm.errors import OpenKcmError

_FIRST_PAUSE_SECONDS = 0.03
_LONGEST_PAUSE_SECONDS = 0.5
_PAUSE_GROWTH = 1.15

Progress = Callable[[dict[str, Any]], None]
"""Receives the status document after each read."""


class ProvisioningFailed(OpenKcmError):
    code = "provisioning_failed"
    message = "the tenant could not be provisioned"

    def __init__(self, tenant_id: str) -> None:
        super().__init__(hint=f"openkcmctl tenant show {tenant_id}, then openkcmctl tenant retry {tenant_id}")


class NotReadyInTime(OpenKcmError):
    code = "not_ready_in_time"
    message = "the tenant is not ready yet"

    def __init__(self, tenant_id: str) -> None:
        super().__init__(hint=f"provisioning continues automatically; see openkcmctl tenant show {tenant_id}")


def open_sender(settings: Settings) -> MarketplaceClient:
    """Return a client with the configured address and secrets, which the caller closes."""
    folder = settings.secrets
    return MarketplaceClient(
        settings.marketplace_url,
        read_secret(folder, WEBHOOK_SECRETS),
        read_secret(folder, MARKETPLACE_TOKEN),
    )


class StatusSource(Protocol):
    def status(self, tenant_id: str) -> dict[str, Any]: ...


def wait_until_active(source: StatusSource, tenant_id: str, seconds: float, progress: Progress) -> dict[str, Any]:
    """Return the status of a tenant once it is active.

    Raises:
        ProvisioningFailed: provisioning failed.
        NotReadyInTime: provisioning has not ended after `seconds`.
    """
    end, pause = time.monotonic() + seconds, _FIRST_PAUSE_SECONDS
    while True:
        status = source.status(tenant_id)
        progress(status)
        if status["state"] == State.FAILED:
            raise ProvisioningFailed(tenant_id)
        if status["state"] not in {State.REQUESTED, State.PROVISIONING}:
            return status
        if time.monotonic() + pause > end:
            raise NotReadyInTime(tenant_id)
        time.sleep(pause)
        pause = min(pause * _PAUSE_GROWTH, _LONGEST_PAUSE_SECONDS)


@contextmanager
def _printed_steps(console: Console) -> Iterator[Progress]:
    """Print each step once, when it is complete or first retried."""
    printed: set[tuple[str, str]] = set()

    def show(status: dict[str, Any]) -> None:
        for step in status["steps"]:
            key = (step["name"], step["state"])
            if step["state"] == StepState.PENDING or key in printed:
                continue
            printed.add(key)
            sign = {StepState.DONE: "✓", StepState.FAILED: "✗"}.get(step["state"], "…")
            console.print(f"{sign} {step['title']}", highlight=False)

    with output.waiting("waiting for the tenant"):
        yield show


def register(app: typer.Typer) -> None:
    app.command()(enable)


def enable(  # noqa: PLR0913 - one parameter for each option
    tenant: Annotated[str, typer.Argument(help="Account id in the marketplace")],
    organization: Annotated[str, typer.Option(help="Name of the customer")],
    region: Annotated[str, typer.Option(help="Region of the tenant; it cannot be changed later")],
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the tenant is active")] = False,
    timeout: Annotated[float, typer.Option(help="Maximum wait in seconds", min=0.0)] = 240.0,
    as_json: output.AsJson = False,
) -> None:
    """Enable OpenKCM for an account, as a click in the marketplace does."""
    tenant_id = parse_tenant_id(tenant)
    marketplace = open_sender(load_settings())
    try:
        _refuse_other_organization(marketplace, tenant_id, organization)
        marketplace.enable(tenant_id, organization, region)
        if not wait:
            status = marketplace.status(tenant_id)
        elif as_json:
            status = wait_until_active(marketplace, tenant_id, timeout, lambda _status: None)
        else:
            with _printed_steps(output.progress) as progress:
                status = wait_until_active(marketplace, tenant_id, timeout, progress)
    finally:
        marketplace.close()
    output.answer(
        {name: status[name] for name in ("tenant_id", "state", "ready_seconds", "dashboard_url")},
        as_json=as_json,
        show=lambda console: console.print(_result_line(status, organization), markup=False, highlight=False),
    )


def _refuse_other_organization(source: StatusSource, tenant_id: str, organization: str) -> None:
    """Reject a name that the endpoint would ignore: only a tenant's first event sets its organization."""
    try:
        known = source.status(tenant_id)
    except EnableRefused as refused:
        if refused.code != TenantUnknown.code:
            raise
        return
    # The name of an offboarded tenant is erased; the endpoint decides whether it can be enabled.
    if known["state"] not in {State.LEAVING, State.OFFBOARDED} and known["organization"] != organization:
        raise TenantConflict(
            f"the tenant exists with the organization {known['organization']}",
            "the organization of a tenant cannot be changed; use that name, or offboard the tenant first",
        )


def _result_line(status: dict[str, Any], organization: str) -> str:
    return str(status["announcement"] or f"OpenKCM is being provisioned for {organization}")
