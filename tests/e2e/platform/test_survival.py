"""Robustness of the stack: it listens on loopback only, kill -9 loses no data, and down leaves no process."""

import json
import os
import signal
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest

from core import names as ids
from devstack.servers import process
from tests.concurrency import at_once, wait_until
from tests.e2e.outages import all_read_changes, hanging
from tests.e2e.sockets import listening_addresses
from tests.e2e.stack import Stack
from tests.e2e.tenants import new_tenant

COMPONENTS = ("postgres", "openbao", "temporal", "worker", "marketplace", "crypto", "dashboard", "codec")


def processes_of(stack: Stack) -> list[process.Identity]:
    """Return every process with the installation's folder in its command line, environment or working directory."""
    folder, found = str(stack.settings.state_dir), []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            cwd = str((entry / "cwd").readlink())
            texts = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if cwd.startswith(folder) or folder.encode() in texts:
            found.append(process.identify(int(entry.name)))
    return [identity for identity in found if identity is not None]


def accepts(stack: Stack, tenant_id: str) -> bool:
    """Send one event for a tenant; return False if a component is down, because the marketplace then retries."""
    try:
        answer = stack.click(f"msg_{tenant_id}", customer=tenant_id, organization="Stubborn Corp")
    except httpx2.TransportError:
        return False
    assert answer.status_code in {202, 503}, answer.text
    return answer.status_code == 202


@pytest.fixture(autouse=True)
def healthy(stack: Stack) -> Iterator[None]:
    """Restart all components after each test."""
    yield
    stack.command("up")
    wait_until(lambda: is_ready(stack), lambda: "the stack is not ready")


def is_ready(stack: Stack) -> bool:
    components = stack.components()
    return {component["state"] for component in components} == {"ready"} and all_read_changes(stack)


def test_every_process_listens_on_loopback_only(stack):
    pids = stack.pids()
    assert set(pids) == set(COMPONENTS)
    for name, pid in pids.items():
        addresses = listening_addresses(pid)
        assert addresses, name
        assert {address for address, _ in addresses} <= {ip_address("127.0.0.1")}, name


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_killed_component_is_restarted_and_loses_no_data(stack, component):
    before = stack.pids()[component]
    os.kill(before, signal.SIGKILL)
    tenant_id = f"killed-{component}-{uuid4().hex[:8]}"
    wait_until(lambda: accepts(stack, tenant_id), lambda: f"no event is accepted after {component} was killed")
    stack.wait_for(tenant_id, "active")
    stack.wait_announced(tenant_id)
    wait_until(lambda: stack.pids().get(component, before) != before, lambda: f"{component} was not restarted")
    assert len(stack.callback.about(tenant_id, "ready")) == 1
    assert len(stack.runs_of(tenant_id)) == 2


@pytest.mark.parametrize("component", ["postgres", "dashboard"])
def test_status_and_doctor_report_a_component_that_does_not_respond(stack, component):
    with hanging(stack, component):
        status, doctor = at_once(lambda: stack.run("status", "--json"), lambda: stack.run("doctor", "--json"))
    assert (status.returncode, doctor.returncode) == (1, 1)
    assert component in [one["name"] for one in json.loads(status.stdout)["components"] if one["state"] != "ready"]
    assert not all(check["ok"] for check in json.loads(doctor.stdout)["checks"])


def test_a_hanging_key_server_breaches_the_provisioning_slo_with_an_alert_and_the_tenant_is_ready_later(stack):
    tenant_id = f"patient-{uuid4().hex[:8]}"
    with hanging(stack, "openbao"):
        stack.start_provisioning(tenant_id, "Patient Corp", provisioning_slo_seconds=1)
        wait_until(lambda: bool(stack.callback.about(tenant_id, "delayed")), lambda: "the customer was not notified")
        assert stack.status(tenant_id).json()["state"] == "provisioning"
        assert stack.status(tenant_id).json()["provisioning_slo_breached"] is True
    late = [ids.provision_workflow(tenant_id)]
    query = f"TenantId = '{tenant_id}' and ProvisioningSloBreached = true"
    wait_until(lambda: [run for run, _ in stack.workflows(query)] == late, lambda: "no workflow is marked as late")
    stack.wait_for(tenant_id, "active")
    stack.wait_announced(tenant_id)
    assert "is delayed" in stack.callback.about(tenant_id, "delayed")[0].text
    assert (len(stack.callback.about(tenant_id, "delayed")), len(stack.callback.about(tenant_id, "ready"))) == (1, 1)


def test_up_restarts_a_killed_stack_and_changes_nothing_in_a_running_one(stack, tenant):
    ours = processes_of(stack)
    [supervisor] = [one for one in ours if b"devstack.stack\0" in Path(f"/proc/{one.pid}/cmdline").read_bytes()]
    os.kill(supervisor.pid, signal.SIGKILL)
    stack.command("up")
    assert stack.status(tenant).json()["state"] == "active"
    new_tenant(stack, "after-crash")
    before = stack.pids()
    stack.command("up")
    assert stack.pids() == before


def test_down_leaves_no_process_and_up_restores_every_tenant(stack, tenant):
    before = processes_of(stack)
    assert len(before) > len(COMPONENTS)
    assert set(stack.command("down")["stopped"]) == set(COMPONENTS)
    assert processes_of(stack) == []
    assert not [identity for identity in before if identity.alive]
    assert {component["state"] for component in stack.components()} == {"stopped"}
    assert stack.command("down")["stopped"] == []

    shown = stack.command("up")
    assert {component["state"] for component in shown["components"]} == {"ready"}
    assert stack.command("tenant", "show", tenant)["state"] == "active"
    new_tenant(stack, "after-down")
