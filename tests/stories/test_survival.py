"""What an operator relies on: nothing listens beyond this machine, kill -9 loses nothing, down leaves no process."""

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
from tests.concurrency import wait_until
from tests.stories.outages import all_listen, hanging
from tests.stories.sockets import listening_addresses
from tests.stories.stack import Stack
from tests.stories.tenants import new_tenant

COMPONENTS = ("postgres", "openbao", "temporal", "worker", "marketplace", "crypto", "dashboard", "codec")


def processes_of(stack: Stack) -> list[process.Identity]:
    """Return every process that names the installation's folder or works in it."""
    folder, found = str(stack.settings.state_dir), []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            place = str((entry / "cwd").readlink())
            told = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if place.startswith(folder) or folder.encode() in told:
            found.append(process.identify(int(entry.name)))
    return [identity for identity in found if identity is not None]


def accepts(stack: Stack, tenant_id: str) -> bool:
    """Click for a tenant once; a component that is down may refuse it, and the marketplace sends it again."""
    try:
        answer = stack.click(f"msg_{tenant_id}", customer=tenant_id, organization="Stubborn Corp")
    except httpx2.TransportError:
        return False
    assert answer.status_code in {202, 503}, answer.text
    return answer.status_code == 202


@pytest.fixture(autouse=True)
def healthy(stack: Stack) -> Iterator[None]:
    """Leave a stack in which everything runs, whatever a test did to it."""
    yield
    stack.command("up")
    wait_until(lambda: is_ready(stack), lambda: "the stack is not ready")


def is_ready(stack: Stack) -> bool:
    components = stack.command("status")["components"]
    return {component["state"] for component in components} == {"ready"} and all_listen(stack)


def test_every_process_listens_on_loopback_only(stack):
    pids = stack.pids()
    assert set(pids) == set(COMPONENTS)
    for name, pid in pids.items():
        addresses = listening_addresses(pid)
        assert addresses, name
        assert {address for address, _ in addresses} <= {ip_address("127.0.0.1")}, name


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_that_is_killed_is_started_again_and_loses_nothing(stack, component):
    before = stack.pids()[component]
    os.kill(before, signal.SIGKILL)
    tenant_id = f"killed-{component}-{uuid4().hex[:8]}"
    wait_until(lambda: accepts(stack, tenant_id), lambda: f"no event is accepted after {component} was killed")
    stack.wait_for(tenant_id, "active")
    stack.wait_announced(tenant_id)
    wait_until(lambda: stack.pids().get(component, before) != before, lambda: f"{component} is not started again")
    assert len(stack.callback.about(tenant_id, "ready")) == 1
    assert len(stack.runs_of(tenant_id)) == 2


def test_a_key_server_that_hangs_beyond_the_promise_raises_the_alarm_and_the_tenant_is_ready_later(stack):
    tenant_id = f"patient-{uuid4().hex[:8]}"
    with hanging(stack, "openbao"):
        stack.hand_over(tenant_id, "Patient Corp", promise_seconds=1)
        wait_until(lambda: bool(stack.callback.about(tenant_id, "late")), lambda: "the customer was not notified")
        assert stack.status(tenant_id).json()["state"] == "provisioning"
        assert stack.status(tenant_id).json()["promise_broken"] is True
    late = [ids.provision_workflow(tenant_id)]
    query = f"TenantId = '{tenant_id}' and PromiseBroken = true"
    wait_until(lambda: [run for run, _ in stack.workflows(query)] == late, lambda: "no workflow is marked as late")
    stack.wait_for(tenant_id, "active")
    stack.wait_announced(tenant_id)
    assert "longer than promised" in stack.callback.about(tenant_id, "late")[0].text
    assert (len(stack.callback.about(tenant_id, "late")), len(stack.callback.about(tenant_id, "ready"))) == (1, 1)


def test_up_continues_where_everything_was_killed_and_changes_nothing_when_all_runs(stack, tenant):
    ours = processes_of(stack)
    [supervisor] = [one for one in ours if b"devstack\0" in Path(f"/proc/{one.pid}/cmdline").read_bytes()]
    os.kill(supervisor.pid, signal.SIGKILL)
    stack.command("up")
    assert stack.status(tenant).json()["state"] == "active"
    new_tenant(stack, "after-crash")
    before = stack.pids()
    stack.command("up")
    assert stack.pids() == before


def test_down_leaves_no_process_and_up_finds_every_tenant_again(stack, tenant):
    before = processes_of(stack)
    assert len(before) > len(COMPONENTS)
    assert set(stack.command("down")["stopped"]) == set(COMPONENTS)
    assert processes_of(stack) == []
    assert not [identity for identity in before if identity.alive]
    assert {component["state"] for component in stack.command("status")["components"]} == {"stopped"}
    assert stack.command("down")["stopped"] == []

    shown = stack.command("up")
    assert {component["state"] for component in shown["components"]} == {"ready"}
    assert stack.command("tenant", "show", tenant)["state"] == "active"
    new_tenant(stack, "after-down")
