"""Walls are attacked on demand and by the clock; one that falls locks its tenant, and what opens it again."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from crypto.client import Client, ClientError, Options, Retry
from tenancy.clauses import CLAUSES
from tests.stories.connected import Service, connect
from tests.stories.stack import Stack, wait_until

WALLED = "walls-corp"
ONCE = Options(retry=Retry(attempts=1))
_SCHEDULE = "boundaries"


@pytest.fixture(scope="module")
def walled(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A tenant of this file's own with a service, which nobody else's breach is to reach."""
    stack.enable(WALLED, "Walls Corporation")
    return connect(stack, WALLED, "microservice", "orders", tmp_path_factory.mktemp("walls") / "orders")


@contextmanager
def a_fallen_wall(stack: Stack) -> Iterator[None]:
    """Take the signed context off one table of the whole installation, and put it back."""
    with stack.owner() as owner:
        owner.execute("drop policy signed on okcm.outbox")
        try:
            yield
        finally:
            owner.execute(
                "create policy signed on okcm.outbox as restrictive for all to public"
                " using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()))"
            )


def serves(service: Service) -> bool:
    with Client.from_folder(service.folder, ONCE) as client:
        try:
            client.encrypt(b"hello", "orders/1")
        except ClientError:
            return False
    return True


def test_every_clause_is_attacked_and_every_attack_is_refused(stack: Stack, walled: Service) -> None:
    document = stack.command("check-boundaries", WALLED)
    assert document["passed"] is True
    outcomes = {check["outcome"] for check in document["checks"]}
    assert outcomes <= {"held", "not-checked"}
    attacked = {check["clause"] for check in document["checks"] if check["outcome"] == "held"}
    assert attacked <= set(CLAUSES)
    assert {"U2", "C2", "C3", "M1", "M2", "A1", "A3"} <= attacked
    assert serves(walled)
    shown = stack.command("tenant", "show", WALLED)["examination"]
    assert shown["passed"] is True
    assert {line["clause"] for line in shown["clauses"]} >= attacked


async def test_a_rotation_is_followed_by_an_examination_that_nobody_asked_for(stack: Stack, walled: Service) -> None:
    before = stack.command("tenant", "show", walled.tenant_id)["examination"]["run"]
    stack.command("rotate", WALLED)
    await (await stack.temporal()).get_schedule_handle(_SCHEDULE).trigger()
    wait_until(
        lambda: stack.command("tenant", "show", WALLED)["examination"]["run"] != before,
        lambda: "nobody examined the tenant after its keys were rotated",
    )
    assert serves(walled)


async def test_a_wall_that_falls_locks_its_tenant_until_an_operator_opens_it(stack: Stack, walled: Service) -> None:
    schedule = (await stack.temporal()).get_schedule_handle(_SCHEDULE)
    # While one wall of all is down, only this tenant is to be looked at.
    await schedule.pause()
    try:
        with a_fallen_wall(stack):
            done = stack.run("check-boundaries", WALLED, "--json")
            assert done.returncode == 1
            document = json.loads(done.stdout)
            assert document["error"]["code"] == "boundary_breached"
            assert {check["clause"] for check in document["checks"] if check["outcome"] == "breached"} == {"M2"}
            stack.wait_for(WALLED, "locked")
            wait_until(lambda: not serves(walled), lambda: "a tenant with a breach is served")
            wait_until(
                lambda: bool(stack.callback.about(WALLED, "breached") and stack.mailbox.about(WALLED, "did not hold")),
                lambda: "the customer was not told of the breach",
            )
            assert json.loads(stack.run("tenant", "unlock", WALLED, "--json").stdout)["locks"] == ["breach"]
            early = stack.run("tenant", "unlock", WALLED, "--breach", "--confirm", WALLED, "--json")
            assert json.loads(early.stdout)["error"]["code"] == "breach_not_cleared"
        assert stack.command("check-boundaries", WALLED)["passed"] is True
        assert not serves(walled)
        opened = stack.command("tenant", "unlock", WALLED, "--breach", "--confirm", WALLED)
        assert opened == {"tenant_id": WALLED, "state": "active", "locks": []}
        wait_until(lambda: serves(walled), lambda: "the tenant opened and its service is refused")
        assert stack.command("check-boundaries", WALLED)["passed"] is True
    finally:
        await schedule.unpause()
