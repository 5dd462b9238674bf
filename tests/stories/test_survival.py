"""What an operator relies on: nothing listens beyond this machine, nothing is lost by kill -9, down leaves nothing."""

import os
import signal
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest

from devstack import process
from tenancy import ids
from tests.stories.sockets import listening_addresses
from tests.stories.stack import Stack, wait_until

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
    """Click for a tenant once; whoever is down may refuse, and the marketplace sends it again."""
    try:
        answer = stack.click(f"msg_{tenant_id}", customer=tenant_id, organization="Stubborn Corp")
    except httpx.TransportError:
        return False
    assert answer.status_code in {202, 503}, answer.text
    return answer.status_code == 202


def test_every_process_listens_on_loopback_only(stack, acme):
    assert acme
    pids = stack.pids()
    assert set(pids) == set(COMPONENTS)
    for name, pid in pids.items():
        addresses = listening_addresses(pid)
        assert addresses, name
        assert {address for address, _ in addresses} <= {ip_address("127.0.0.1")}, name


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_that_is_killed_comes_back_and_loses_nothing(stack, acme, component):
    before = stack.pids()[component]
    os.kill(before, signal.SIGKILL)
    tenant_id = f"killed-{component}"
    wait_until(lambda: accepts(stack, tenant_id), lambda: f"no event is accepted after {component} was killed")
    stack.wait_for(tenant_id, "active")
    stack.wait_announced(tenant_id)
    wait_until(lambda: stack.pids().get(component, before) != before, lambda: f"{component} did not come back")
    assert stack.status(acme).json()["state"] == "active"
    assert len(stack.callback.about(tenant_id, "ready")) == 1
    assert len(stack.runs_of(tenant_id)) == 2


def test_a_key_server_that_hangs_beyond_the_promise_raises_the_alarm_and_the_tenant_is_ready_later(stack, acme):
    assert acme
    tenant_id = "patient-corp-1"
    openbao = stack.pids()["openbao"]
    os.kill(openbao, signal.SIGSTOP)
    try:
        stack.hand_over(tenant_id, "Patient Corp", promise_seconds=1)
        wait_until(lambda: bool(stack.callback.about(tenant_id, "late")), lambda: "the customer was not told")
        assert stack.status(tenant_id).json()["state"] == "provisioning"
        assert stack.status(tenant_id).json()["promise_broken"] is True
    finally:
        os.kill(openbao, signal.SIGCONT)
    assert [run for run, _ in stack.workflows("PromiseBroken = true")] == [ids.provision_workflow(tenant_id)]
    stack.wait_for(tenant_id, "active")
    stack.wait_announced(tenant_id)
    assert "longer than promised" in stack.callback.about(tenant_id, "late")[0].text
    assert (len(stack.callback.about(tenant_id, "late")), len(stack.callback.about(tenant_id, "ready"))) == (1, 1)


def test_up_goes_on_where_everything_was_killed(stack, acme):
    ours = processes_of(stack)
    [supervisor] = [one for one in ours if b"devstack\0" in Path(f"/proc/{one.pid}/cmdline").read_bytes()]
    os.kill(supervisor.pid, signal.SIGKILL)
    stack.command("up")
    assert stack.status(acme).json()["state"] == "active"
    assert stack.enable("after-crash-1", "After Crash")["state"] == "active"


def test_down_leaves_no_process_and_up_finds_every_tenant_again(stack, acme):
    before = processes_of(stack)
    assert len(before) > len(COMPONENTS)
    assert set(stack.command("down")["stopped"]) == set(COMPONENTS)
    assert processes_of(stack) == []
    assert not [identity for identity in before if identity.alive]
    assert {component["state"] for component in stack.command("status")["components"]} == {"stopped"}
    assert stack.command("down")["stopped"] == []

    shown = stack.command("up")
    assert {component["state"] for component in shown["components"]} == {"ready"}
    assert stack.command("tenant", "show", acme)["state"] == "active"
    assert stack.enable("after-down-1", "After Down")["state"] == "active"


def test_up_twice_changes_nothing(stack, acme):
    assert acme
    before = stack.pids()
    stack.command("up")
    assert stack.pids() == before
