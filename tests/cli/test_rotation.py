"""`openkcmctl key rotate`: what is asked, what is told, and what is never done by mistake."""

import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from cli import progress
from cli.rotation import told
from core.errors.keys import KeyVersionInUse, KeyVersionUnknown
from core.errors.services import ServiceUnknown
from core.errors.tenants import OperationRunning
from core.keys.rotation import RotationPhase, RotationScope
from database.rotation import RotationRequest, RotationRow
from tests.cli.root_key_stand import refused
from tests.dashboard.scene import ACME
from tests.database.builders import an_object
from workflows.client.workflow_client import OperationTimeout, UpdateRejected


def versions(document) -> dict[tuple[str, int], str]:
    return {(key["service_id"], key["version"]): key["state"] for key in document["service_keys"]}


def seal_anew(desk) -> None:
    """Seal the service's one object under the second version, as the crypto service does by itself."""
    with desk.field.open("crypto").tenant_tx(ACME) as tx:
        assert tx.objects.change(an_object(ACME, "object-orders", key_version=2))


def test_a_rotation_of_everything_is_asked_for_and_told(desk) -> None:
    document = desk.run("key", "rotate", ACME)
    assert (document["tenant_id"], document["state"]) == (ACME, "active")
    operation = document["operation"]
    assert (operation["id"], operation["state"]) == (f"tenant/{ACME}/rotate/2", "done")
    assert document["l2_versions"] == {"newest": 2, "oldest": 2}
    assert versions(document) == {("orders", 1): "deactivated", ("orders", 2): "active"}
    [request] = desk.gateway.rotations
    assert (request.services, request.tenant_key, request.compromised) == (RotationScope.ALL, True, False)

    shown = desk.run("tenant", "show", ACME)
    [key] = [key for key in shown["keys"] if key["kind"] == "L2"]
    assert (key["version"], key["oldest"]) == (2, 2)
    assert shown["service_keys"] == document["service_keys"]
    assert [rotation["state"] for rotation in shown["rotations"]] == ["done", "done"]
    assert "version 2, opens from 2" in desk.invoke("tenant", "show", ACME).stdout
    assert "version 3" in desk.invoke("key", "rotate", ACME).stdout


def test_one_service_or_the_tenant_key_alone_can_be_rotated(desk) -> None:
    desk.run("key", "rotate", ACME, "--service", "orders")
    desk.run("key", "rotate", ACME, "--tenant-key-only")
    one, other = desk.gateway.rotations
    assert (one.services, one.service, one.tenant_key) == (RotationScope.ONE, "orders", False)
    assert (other.services, other.service, other.tenant_key) == (RotationScope.NONE, None, True)


def test_a_dry_run_shows_what_would_become_of_each_version_and_asks_nobody(desk) -> None:
    desk.run("key", "rotate", ACME, "--service", "orders")
    desk.gateway.asked.clear()
    document = desk.run("key", "rotate", ACME, "--compromised", "--dry-run")
    assert [(one["key"], one["version"]) for one in document["consequences"]] == [
        (f"L2-{ACME}-primary", 1),
        ("orders", 1),
        ("orders", 2),
    ]
    assert "opens nothing a caller brings" in document["consequences"][1]["becomes"]
    assert "opens nothing a caller brings" in " ".join(
        desk.invoke("key", "rotate", ACME, "--compromised", "--dry-run").stdout.split()
    )
    [one] = desk.run("key", "rotate", ACME, "--service", "orders", "--dry-run")["consequences"]
    assert (one["key"], one["version"], one["becomes"]) == ("orders", 2, "decrypts only")
    assert desk.gateway.asked == []


def test_a_compromised_key_is_told_to_be_destroyed_once_nothing_is_sealed_under_it(desk) -> None:
    shown = desk.invoke("key", "rotate", ACME, "--compromised", "--confirm", ACME)
    assert shown.exit_code == 0
    assert "destroyed by themselves once nothing is sealed" in " ".join(shown.stdout.split())
    assert versions(desk.run("key", "rotate", ACME, "--tenant-key-only"))["orders", 1] == "compromised"


def test_a_version_is_retired_by_its_number(desk) -> None:
    desk.run("key", "rotate", ACME, "--service", "orders")
    seal_anew(desk)
    document = desk.run("key", "rotate", ACME, "--service", "orders", "--retire", "1", "--confirm", ACME)
    assert versions(document) == {("orders", 1): "destroyed", ("orders", 2): "active"}
    with pytest.raises(UpdateRejected, match="is in use"):
        desk.run("key", "rotate", ACME, "--service", "orders", "--retire", "2", "--confirm", ACME)


def test_what_is_not_there_is_refused_before_anybody_is_asked(desk) -> None:
    for words, error in (
        ((ACME, "--service", "nobody"), ServiceUnknown),
        ((ACME, "--service", "orders", "--retire", "7", "--confirm", ACME), KeyVersionUnknown),
    ):
        with pytest.raises(error):
            desk.run("key", "rotate", *words)
    assert desk.gateway.asked == []


@pytest.mark.parametrize(
    "words",
    [
        ("--service", "orders", "--tenant-key-only"),
        ("--retire", "1"),
        ("--service", "orders", "--retire", "0"),
        ("--service", "orders", "--retire", "1", "--compromised"),
    ],
)
def test_what_makes_no_sense_together_is_wrong_usage(desk, words) -> None:
    assert desk.invoke("key", "rotate", ACME, *words).exit_code == 2
    assert desk.gateway.asked == []


@pytest.mark.parametrize(
    ("failure", "code"),
    [(refused(OperationRunning("a rotation of keys")), "operation_running"), (OperationTimeout(), "not_done_in_time")],
)
def test_a_rotation_that_is_refused_or_takes_longer_is_the_same_document(desk, failure, code) -> None:
    desk.gateway.fails = failure
    document = desk.run("key", "rotate", ACME, status=1)
    assert (document["error"]["code"], document["state"]) == (code, "active")
    assert versions(document) == {("orders", 1): "active"}


def test_a_refused_retirement_says_why(desk) -> None:
    desk.run("key", "rotate", ACME, "--service", "orders")
    with pytest.raises(UpdateRejected, match="objects sealed under it: 1") as wrong:
        desk.run("key", "rotate", ACME, "--service", "orders", "--retire", "1", "--confirm", ACME)
    assert wrong.value.code == KeyVersionInUse.code


EVERYTHING = RotationRequest(tenant_key=True, services=RotationScope.ALL)
BEGAN = datetime(2026, 1, 15, tzinfo=UTC)
A_ROTATION = RotationRow(3, EVERYTHING, 1, "running", RotationPhase.PLAN, 0, 0, None, BEGAN, None)


def test_progress_is_said_by_its_stage_and_never_of_an_earlier_rotation() -> None:
    rewrapping = replace(A_ROTATION, stage=RotationPhase.REWRAP, total=1000)
    read = iter(
        [
            None,
            replace(A_ROTATION, number=2),
            A_ROTATION,
            replace(rewrapping, done=100),
            replace(rewrapping, done=100),
            replace(rewrapping, done=1000, state="done"),
        ]
    )
    said: list[str] = []
    progress.follow(2, lambda: next(read), told, said.append, threading.Event(), pause=0)
    assert said == [
        "what is rotated is written down",
        "everything under older versions of the tenant key or the root key is wrapped anew: 100 of 1,000",
        "everything under older versions of the tenant key or the root key is wrapped anew: 1,000 of 1,000",
    ]
