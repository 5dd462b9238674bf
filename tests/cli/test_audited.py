"""Audit records of commands: the intent before the request, the outcome after it."""

import asyncio
from typing import Any, cast

import pytest

from cli.isolation import AssessIsolation
from core.errors.compliance import BreachNotCleared
from core.errors.platform import TemporalUnavailable
from core.errors.tenants import TenantUnknown
from tests.cli.root_key_stand import PLATFORM, at_a_terminal, refused
from tests.dashboard.scene import ACME, audit_records
from workflows.client.updates import UpdateRejected


def records(operator_cli: Any) -> list[dict[str, Any]]:
    return [one for one in audit_records(operator_cli.worker, ACME) if one["actor"] == "operator"]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("tenant", "suspend", ACME), "tenant.suspend_requested"),
        (("tenant", "lock", ACME, "--confirm", ACME), "tenant.lock_requested"),
        (("tenant", "unlock", ACME), "tenant.unlock_requested"),
        (("certificate", "rotate-ca", ACME, "--confirm", ACME), "certificate.ca_rotation_requested"),
        (("tenant", "policy", ACME, "--tenant-key-days", "30"), "policy.change_requested"),
        (("key", "rotate", ACME), "key.rotate_requested"),
        (("tenant", "offboard", ACME, "--confirm", ACME), "tenant.offboard_requested"),
        (("root-key", "preflight", ACME, *PLATFORM), "root_key.preflight_requested"),
        (("root-key", "change", ACME, *PLATFORM), "root_key.change_requested"),
    ],
)
def test_a_command_is_recorded_before_and_after_its_request(
    operator_cli: Any, words: tuple[str, ...], name: str
) -> None:
    operator_cli.run(*words)
    before, after = records(operator_cli)
    assert [one["name"] for one in (before, after)] == [name, name]
    assert [one["outcome"] for one in (before, after)] == ["intended", "success"]
    assert before["actor_kind"] == after["actor_kind"] == "human"
    assert before["correlation_id"] == after["correlation_id"]
    assert before["correlation_id"].startswith("command/")
    assert {"user", "machine"} <= before["details"].keys()


def test_a_rejected_or_failed_command_records_the_outcome_and_code(operator_cli: Any) -> None:
    for error, outcome, code in (
        (refused(TenantUnknown()), "refused", "tenant_unknown"),
        (TemporalUnavailable(), "failure", "temporal_unavailable"),
    ):
        operator_cli.gateway.fails = error
        with pytest.raises(type(error)):
            operator_cli.run("tenant", "suspend", ACME)
        assert records(operator_cli)[-2]["outcome"] == "intended"
        last = records(operator_cli)[-1]
        assert (last["name"], last["outcome"], last["details"]["code"]) == ("tenant.suspend_requested", outcome, code)


def test_a_command_that_cannot_be_recorded_sends_no_request(operator_cli: Any) -> None:
    with operator_cli.field.administrator() as administrator:
        administrator.execute("revoke execute on function okcm.audit_append_command(jsonb) from okcm_operator")
    assert operator_cli.invoke("tenant", "suspend", ACME, "--json").exception is not None
    assert operator_cli.gateway.asked == []


def test_an_isolation_check_and_the_unlock_of_a_breach_are_recorded(operator_cli: Any) -> None:
    class RejectingClient:
        async def check_boundaries(self, *_: object, **__: object) -> str:
            raise refused(TenantUnknown())

    check = AssessIsolation(lambda _settings, question: asyncio.run(question(cast("Any", RejectingClient()))))
    with pytest.raises(UpdateRejected):
        check.check_boundaries(ACME)
    operator_cli.gateway.fails = refused(BreachNotCleared())
    with pytest.raises(UpdateRejected):
        operator_cli.run("tenant", "unlock", ACME, "--isolation-breach", "--confirm", ACME)
    assert [(one["name"], one["outcome"]) for one in records(operator_cli)] == [
        ("isolation.check_requested", "intended"),
        ("isolation.check_requested", "refused"),
        ("tenant.isolation_lock_clear_requested", "intended"),
        ("tenant.isolation_lock_clear_requested", "refused"),
    ]


UNKNOWN = "unknown-corp"
YES = ("--confirm", UNKNOWN)


@pytest.mark.parametrize(
    "words",
    [
        ("tenant", "suspend", UNKNOWN),
        ("tenant", "lock", UNKNOWN, *YES),
        ("tenant", "lock", UNKNOWN, "--dry-run"),
        ("tenant", "policy", UNKNOWN, "--four-eyes", "lock"),
        ("certificate", "crl", UNKNOWN, "--out", "x"),
        ("key", "rotate", UNKNOWN),
        ("tenant", "offboard", UNKNOWN, *YES),
        ("tenant", "restore", UNKNOWN),
        ("root-key", "show", UNKNOWN),
        ("root-key", "preflight", UNKNOWN, *PLATFORM),
        ("root-key", "change", UNKNOWN, *PLATFORM),
    ],
)
def test_an_unknown_tenant_is_rejected_before_anything_is_stored_or_requested(
    operator_cli: Any, words: tuple[str, ...]
) -> None:
    before = operator_cli.everything_stored()
    with pytest.raises(TenantUnknown):
        operator_cli.run(*words)
    assert (operator_cli.everything_stored(), operator_cli.gateway.asked) == (before, [])


@pytest.mark.parametrize(
    "words",
    [
        ("tenant", "lock", ACME),
        ("tenant", "offboard", ACME),
        ("tenant", "offboard", ACME, "--now"),
        ("key", "rotate", ACME, "--compromised"),
        ("key", "rotate", ACME, "--service", "orders", "--retire", "1"),
        ("certificate", "rotate-ca", ACME),
        ("service", "disconnect", ACME, "orders"),
    ],
)
def test_a_destructive_command_requires_the_name_as_confirmation(operator_cli: Any, words: tuple[str, ...]) -> None:
    before = operator_cli.everything_stored()
    for confirmed in ((), ("--confirm", "acme-corp-12346"), ("--confirm", "")):
        result = operator_cli.invoke(*words, *confirmed, typed=f"{ACME}\n")
        assert result.exit_code == 2
        assert "--confirm" in result.stderr
    assert (operator_cli.everything_stored(), operator_cli.gateway.asked) == (before, [])


@pytest.mark.parametrize(
    ("words", "name"), [(("tenant", "lock", ACME), ACME), (("service", "disconnect", ACME, "orders"), "orders")]
)
def test_at_a_terminal_the_name_is_typed_as_confirmation(
    operator_cli: Any, free_port: int, words: tuple[str, ...], name: str
) -> None:
    for answer, code in (("acme", "not_confirmed"), (name, "temporal_unavailable")):  # no Temporal listens there
        status, shown = at_a_terminal(words, [answer], free_port)
        assert status == 1
        assert code in shown
    assert operator_cli.gateway.asked == []


def test_a_script_sees_no_progress(operator_cli: Any) -> None:
    for words in (("key", "rotate", ACME), ("root-key", "change", ACME, *PLATFORM)):
        result = operator_cli.invoke(*words, "--json")
        assert (result.exit_code, result.stderr) == (0, "")
