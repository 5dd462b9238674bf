"""Isolation checks run on demand and after a rotation; a breach locks the tenant."""

import json
from pathlib import Path

import pytest

from openkcm.sdk.client import Client
from openkcm.sdk.errors import ClientError
from openkcm.verification.isolation_controls import CLAUSES
from tests.concurrency import wait_until
from tests.e2e.connected import ONCE, Service, connect, rejection_code
from tests.e2e.stack import Stack
from tests.e2e.tenants import new_tenant

_SCHEDULE = "isolation"


@pytest.fixture
def orders(stack: Stack, tmp_path: Path) -> Service:
    """Return the service of a new tenant."""
    return connect(stack, new_tenant(stack, "boundaries"), "microservice", "orders", tmp_path / "orders")


def serves(service: Service) -> bool:
    with Client.from_folder(service.folder, ONCE) as client:
        try:
            client.encrypt(b"hello", "orders/1")
        except ClientError:
            return False
    return True


async def test_isolation_checks_cover_every_clause_on_demand_and_run_after_a_rotation(
    stack: Stack, orders: Service
) -> None:
    tenant = orders.tenant_id
    document = stack.command("isolation", "check", tenant)
    assert document["passed"] is True
    assert {check["outcome"] for check in document["checks"]} <= {"held", "not-checked"}
    attacked = {check["clause"] for check in document["checks"] if check["outcome"] == "held"}
    assert attacked <= set(CLAUSES)
    assert {"U2", "C2", "C3", "M1", "M2", "A1", "A3"} <= attacked
    assert serves(orders)
    shown = stack.command("tenant", "show", tenant)["examination"]
    assert shown["passed"] is True
    assert {line["clause"] for line in shown["clauses"]} >= attacked

    stack.command("key", "rotate", tenant)
    await (await stack.temporal()).get_schedule_handle(_SCHEDULE).trigger()
    wait_until(
        lambda: stack.command("tenant", "show", tenant)["examination"]["run"] != shown["run"],
        lambda: "the isolation checks did not run after the rotation",
    )
    assert serves(orders)


async def test_a_breach_locks_the_tenant_until_an_operator_unlocks_it(stack: Stack, orders: Service) -> None:
    tenant = orders.tenant_id
    schedule = (await stack.temporal()).get_schedule_handle(_SCHEDULE)
    # Row-level security is disabled for the whole installation, so no other tenant may be checked meanwhile.
    await schedule.pause()
    try:
        with stack.owner() as owner:
            owner.execute("alter table okcm.operation_step disable row level security")
            try:
                done = stack.run("isolation", "check", tenant, "--json")
                assert done.returncode == 1
                document = json.loads(done.stdout)
                assert document["error"]["code"] == "isolation_breached"
                assert {one["clause"] for one in document["checks"] if one["outcome"] == "breached"} == {"M2"}
                stack.wait_for(tenant, "locked")
                wait_until(lambda: not serves(orders), lambda: "a tenant with a breach is served")
                wait_until(
                    lambda: bool(
                        stack.callback.about(tenant, "isolation-breached")
                        and stack.mailbox.about(tenant, "check failed")
                    ),
                    lambda: "the customer was not notified of the breach",
                )
                assert json.loads(stack.run("tenant", "unlock", tenant, "--json").stdout)["locks"] == [
                    "isolation-breach"
                ]
                unlock = ("tenant", "unlock", tenant, "--isolation-breach", "--confirm", tenant)
                assert rejection_code(stack, *unlock) == "isolation_lock_not_cleared"
            finally:
                owner.execute("alter table okcm.operation_step enable row level security")
        assert stack.command("isolation", "check", tenant)["passed"] is True
        assert not serves(orders)
        assert stack.command(*unlock) == {"tenant_id": tenant, "state": "active", "locks": []}
        wait_until(lambda: serves(orders), lambda: "the service of the unlocked tenant is rejected")
        assert stack.command("isolation", "check", tenant)["passed"] is True
    finally:
        await schedule.unpause()
