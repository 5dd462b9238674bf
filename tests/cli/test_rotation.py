"""`openkcmctl key rotate`: requests, output, and protection against mistakes."""

import threading
from datetime import UTC, datetime

import pytest

from cli import progress
from cli.rotation import describe_progress
from core.errors.keys import KeyVersionInUse, KeyVersionUnknown
from core.errors.services import ServiceUnknown
from core.errors.tenants import OperationRunning
from core.keys.rotation import RotationPhase, RotationScope
from database.rotation import RotationRequest, RotationRow
from tests.cli.root_key_stand import refused
from tests.dashboard.scene import ACME
from tests.database.builders import an_object
from workflows.client.updates import OperationTimeout, UpdateRejected


def versions(document) -> dict[tuple[str, int], str]:
    return {(key["service_id"], key["version"]): key["state"] for key in document["service_keys"]}


def reencrypt_object(operator_cli) -> None:
    """Re-encrypt the service's object with the second version, as the crypto service does automatically."""
    with operator_cli.field.open("crypto").tenant_tx(ACME) as tx:
        assert tx.objects.change(an_object(ACME, "object-orders", key_version=2))


def test_a_rotation_of_all_keys_is_requested_and_shown(operator_cli) -> None:
    document = operator_cli.run("key", "rotate", ACME)
    assert (document["tenant_id"], document["state"]) == (ACME, "active")
    operation = document["operation"]
    assert (operation["id"], operation["state"]) == (f"tenant/{ACME}/rotate/2", "done")
    assert document["l2_versions"] == {"newest": 2, "oldest": 2}
    assert versions(document) == {("orders", 1): "deactivated", ("orders", 2): "active"}
    [request] = operator_cli.gateway.rotations
    assert (request.services, request.tenant_key, request.compromised) == (RotationScope.ALL, True, False)

    shown = operator_cli.run("tenant", "show", ACME)
    [key] = [key for key in shown["keys"] if key["kind"] == "L2"]
    assert (key["version"], key["oldest"]) == (2, 2)
    assert shown["service_keys"] == document["service_keys"]
    assert [rotation["state"] for rotation in shown["rotations"]] == ["done", "done"]
    assert "version 2, decrypts from 2" in operator_cli.invoke("tenant", "show", ACME).stdout
    assert "version 3" in operator_cli.invoke("key", "rotate", ACME).stdout


def test_one_service_or_the_tenant_key_alone_can_be_rotated(operator_cli) -> None:
    operator_cli.run("key", "rotate", ACME, "--service", "orders")
    operator_cli.run("key", "rotate", ACME, "--tenant-key-only")
    one, other = operator_cli.gateway.rotations
    assert (one.services, one.service, one.tenant_key) == (RotationScope.ONE, "orders", False)
    assert (other.services, other.service, other.tenant_key) == (RotationScope.NONE, None, True)


def test_a_dry_run_shows_the_effect_on_each_version_and_sends_no_request(operator_cli) -> None:
    operator_cli.run("key", "rotate", ACME, "--service", "orders")
    operator_cli.gateway.asked.clear()
    document = operator_cli.run("key", "rotate", ACME, "--compromised", "--dry-run")
    assert [(one["key"], one["version"]) for one in document["consequences"]] == [
        (f"L2-{ACME}-primary", 1),
        ("orders", 1),
        ("orders", 2),
    ]
    assert "no longer decrypts for callers" in document["consequences"][1]["becomes"]
    assert "no longer decrypts for callers" in " ".join(
        operator_cli.invoke("key", "rotate", ACME, "--compromised", "--dry-run").stdout.split()
    )
    [one] = operator_cli.run("key", "rotate", ACME, "--service", "orders", "--dry-run")["consequences"]
    assert (one["key"], one["version"], one["becomes"]) == ("orders", 2, "decrypts only")
    assert operator_cli.gateway.asked == []


def test_a_compromised_version_is_destroyed_once_no_object_is_encrypted_with_it(operator_cli) -> None:
    shown = operator_cli.invoke("key", "rotate", ACME, "--compromised", "--confirm", ACME)
    assert shown.exit_code == 0
    assert "destroyed automatically once no object is encrypted" in " ".join(shown.stdout.split())
    assert versions(operator_cli.run("key", "rotate", ACME, "--tenant-key-only"))["orders", 1] == "compromised"


def test_a_version_is_retired_by_its_number(operator_cli) -> None:
    operator_cli.run("key", "rotate", ACME, "--service", "orders")
    reencrypt_object(operator_cli)
    document = operator_cli.run("key", "rotate", ACME, "--service", "orders", "--retire", "1", "--confirm", ACME)
    assert versions(document) == {("orders", 1): "destroyed", ("orders", 2): "active"}
    with pytest.raises(UpdateRejected, match="is in use"):
        operator_cli.run("key", "rotate", ACME, "--service", "orders", "--retire", "2", "--confirm", ACME)


def test_unknown_services_and_versions_are_rejected_without_a_request(operator_cli) -> None:
    for words, error in (
        ((ACME, "--service", "unknown"), ServiceUnknown),
        ((ACME, "--service", "orders", "--retire", "7", "--confirm", ACME), KeyVersionUnknown),
    ):
        with pytest.raises(error):
            operator_cli.run("key", "rotate", *words)
    assert operator_cli.gateway.asked == []


@pytest.mark.parametrize(
    "words",
    [
        ("--service", "orders", "--tenant-key-only"),
        ("--retire", "1"),
        ("--service", "orders", "--retire", "0"),
        ("--service", "orders", "--retire", "1", "--compromised"),
    ],
)
def test_contradictory_options_are_wrong_usage(operator_cli, words) -> None:
    assert operator_cli.invoke("key", "rotate", ACME, *words).exit_code == 2
    assert operator_cli.gateway.asked == []


@pytest.mark.parametrize(
    ("failure", "code"),
    [(refused(OperationRunning("a rotation of keys")), "operation_running"), (OperationTimeout(), "operation_timeout")],
)
def test_a_rejected_or_timed_out_rotation_returns_the_same_document(operator_cli, failure, code) -> None:
    operator_cli.gateway.fails = failure
    document = operator_cli.run("key", "rotate", ACME, status=1)
    assert (document["error"]["code"], document["state"]) == (code, "active")
    assert versions(document) == {("orders", 1): "active"}


def test_a_refused_retirement_says_why(operator_cli) -> None:
    operator_cli.run("key", "rotate", ACME, "--service", "orders")
    with pytest.raises(UpdateRejected, match="objects encrypted under it: 1") as wrong:
        operator_cli.run("key", "rotate", ACME, "--service", "orders", "--retire", "1", "--confirm", ACME)
    assert wrong.value.code == KeyVersionInUse.code


EVERYTHING = RotationRequest(tenant_key=True, services=RotationScope.ALL)
BEGAN = datetime(2026, 1, 15, tzinfo=UTC)
A_ROTATION = RotationRow(3, EVERYTHING, 1, "running", RotationPhase.PLAN, 0, 0, None, BEGAN, None)


def test_progress_is_reported_by_its_phase_but_not_of_an_earlier_rotation() -> None:
    rewrapping = A_ROTATION._replace(stage=RotationPhase.REWRAP, total=1000)
    read = iter(
        [
            None,
            A_ROTATION._replace(number=2),
            A_ROTATION,
            rewrapping._replace(done=100),
            rewrapping._replace(done=100),
            rewrapping._replace(done=1000, state="done"),
        ]
    )
    reported: list[str] = []
    progress.follow(2, lambda: next(read), describe_progress, reported.append, threading.Event(), pause=0)
    assert reported == [
        "the keys to rotate are recorded",
        "all keys under older versions of the tenant key or the root key are re-wrapped: 100 of 1,000",
        "all keys under older versions of the tenant key or the root key are re-wrapped: 1,000 of 1,000",
    ]
