"""`openkcmctl root-key`: output, requests to the workflow, and the document of each outcome."""

import io
import threading

import pytest
from rich.console import Console

from cli import progress
from cli.__main__ import main
from cli.root_keys import commands as root_key
from cli.root_keys import output as root_key_view
from core.errors.keys import RootKeyRefused, RootKeyUnreachable
from core.errors.tenants import OperationRunning
from core.keys.root_keys import PlatformKeyRef, Problem
from database.root_keys import RootKeyRequestRow
from openkcm.cli import output
from tests.cli.root_key_stand import AWS, BAO, HSM, PLATFORM, lock_by_root_key, refused
from tests.dashboard.held import a_change
from tests.dashboard.scene import ACME, KEY_ARN, ROLE_ARN
from tests.database.builders import a_connected_service
from workflows.client.updates import OperationTimeout

POLICY = '{\n  "Effect": "Allow",\n  "Action": ["kms:Encrypt", "kms:Decrypt"]\n}'
DENIED = Problem(code="root_key_denied", message="access to the root key is denied", hint=f"add this:\n{POLICY}")
SLOW = Problem(code="root_key_timeout", message="it responds too late", hint="check its load")


def test_the_platforms_root_key_is_shown_without_health(operator_cli) -> None:
    assert operator_cli.run("root-key", "show", ACME) == {
        "tenant_id": ACME,
        "root_key_mode": "platform",
        "name": "root-eu-west-1",
        "version": None,
        "older_wraps": 0,
        "health": None,
        "health_message": None,
        "health_hint": None,
        "health_since": None,
        "place": {"provider": "platform"},
        "external_id": "openkcm/acme-corp-12345",
        "aws_principal": None,
        "locks": [],
        "changes": [],
        "problems": [],
    }
    assert "not monitored" in operator_cli.invoke("root-key", "show", ACME).stdout


@pytest.mark.parametrize(
    ("noticed", "older", "words"),
    [(3, 0, "3; it wraps all service keys"), (4, 1, "4; 1 wrap is by an older version")],
)
def test_the_version_of_a_root_key_is_shown_with_the_number_of_older_wraps(operator_cli, noticed, older, words) -> None:
    with operator_cli.worker.raw_tx(ACME) as connection:
        connection.execute("update okcm.service_key set wrapped = 'vault:v3:x'")
    with operator_cli.worker.tenant_tx(ACME) as tx:
        tx.tenants.lock()
        tx.root_keys.notice(None, noticed)
    shown = operator_cli.run("root-key", "show", ACME)
    assert (shown["version"], shown["older_wraps"]) == (noticed, older)
    assert words in operator_cli.invoke("root-key", "show", ACME).stdout


def test_the_aws_principal_for_the_trust_policy_is_shown(operator_cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ask the operator" in operator_cli.invoke("root-key", "show", ACME).stdout
    monkeypatch.setenv("OPENKCM_AWS_PRINCIPAL", "arn:aws:iam::999988887777:role/openkcm-platform")
    assert (
        operator_cli.run("root-key", "show", ACME)["aws_principal"] == "arn:aws:iam::999988887777:role/openkcm-platform"
    )
    assert "role/openkcm-platform" in operator_cli.invoke("root-key", "show", ACME).stdout


def test_a_change_is_requested_and_shown(operator_cli) -> None:
    assert operator_cli.run("root-key", "change", ACME, *AWS, "--role-arn", ROLE_ARN) == {
        "tenant_id": ACME,
        "root_key_mode": "aws-kms",
        "problems": [],
    }

    shown = operator_cli.run("root-key", "show", ACME)
    assert (shown["name"], shown["health"], shown["health_message"]) == (
        KEY_ARN,
        "ok",
        "the root key encrypts and decrypts",
    )
    assert shown["place"] == {"provider": "aws-kms", "key_arn": KEY_ARN, "role_arn": ROLE_ARN}
    [change] = shown["changes"]
    assert (change["from_mode"], change["to_mode"], change["state"]) == ("platform", "aws-kms", "done")
    assert (change["wrapped"], change["total"], change["problem"]) == (1, 1, None)
    drawn = operator_cli.invoke("root-key", "show", ACME).stdout
    assert all(text in drawn for text in (KEY_ARN, ROLE_ARN, "openkcm/acme-corp-12345", "1 of 1"))


def test_a_successful_preflight_changes_nothing(operator_cli) -> None:
    assert operator_cli.run("root-key", "preflight", ACME, *AWS, "--role-arn", ROLE_ARN) == {
        "tenant_id": ACME,
        "root_key_mode": "platform",
        "problems": [],
    }
    assert operator_cli.run("root-key", "show", ACME)["changes"] == []
    assert "is suitable as the root key" in operator_cli.invoke("root-key", "preflight", ACME, *PLATFORM).stdout


@pytest.mark.parametrize("word", ["preflight", "change"])
def test_problems_are_reported_with_their_hints_and_status_1(operator_cli, word) -> None:
    operator_cli.gateway.problems = [DENIED, SLOW]
    credentials = operator_cli.credentials(pin="1234")

    document = operator_cli.run("root-key", word, ACME, *HSM, "--credentials", credentials, status=1)

    assert document["problems"] == [DENIED.model_dump(), SLOW.model_dump()]
    assert (document["tenant_id"], document["root_key_mode"]) == (ACME, "platform")
    assert document["error"]["code"] == "root_key_denied"
    assert document["error"]["hint"].startswith("fix the problems")
    shown = operator_cli.invoke("root-key", word, ACME, *HSM, "--credentials", credentials)
    assert shown.exit_code == 1
    # A policy in the hint can be copied unchanged.
    lines = [line.removeprefix("  ") for line in shown.stdout.splitlines()]
    assert POLICY in "\n".join(lines)
    assert "root_key_timeout: it responds too late" in shown.stdout
    assert "root_key_denied" in shown.stderr


def test_problems_of_the_last_change_are_shown_later(operator_cli) -> None:
    operator_cli.gateway.problems = [DENIED]
    operator_cli.run("root-key", "change", ACME, *HSM, "--credentials", operator_cli.credentials(pin="1234"), status=1)

    shown = operator_cli.run("root-key", "show", ACME)

    assert shown["problems"] == [DENIED.model_dump()]
    assert (shown["changes"][0]["state"], shown["changes"][0]["problem"]) == ("failed", "root_key_denied")
    assert "add this:" in operator_cli.invoke("root-key", "show", ACME).stdout


def test_a_rejected_change_returns_the_same_document(operator_cli) -> None:
    operator_cli.gateway.fails = refused(OperationRunning("a change of the root key"))

    document = operator_cli.run("root-key", "change", ACME, *PLATFORM, status=1)

    assert (document["root_key_mode"], document["problems"]) == ("platform", [])
    assert document["error"]["code"] == "operation_running"
    assert document["error"]["hint"] == "wait until it ends, then retry"


def test_a_change_that_times_out_continues_and_names_the_command_for_its_progress(operator_cli) -> None:
    operator_cli.gateway.fails = OperationTimeout()

    document = operator_cli.run("root-key", "change", ACME, *PLATFORM, status=1)

    assert document["error"]["code"] == "operation_timeout"
    assert "continues automatically" in document["error"]["hint"]
    assert f"openkcmctl root-key show {ACME}" in document["error"]["hint"]


@pytest.mark.usefixtures("operator_cli")
def test_an_unreachable_temporal_returns_an_error_document(monkeypatch, capsys, free_port) -> None:
    monkeypatch.setenv("OPENKCM_TEMPORAL_PORT", str(free_port))
    assert main(["root-key", "preflight", ACME, *PLATFORM, "--json"]) == 1
    assert '"temporal_unavailable"' in capsys.readouterr().out


@pytest.mark.parametrize("health", ["root_key_disabled", "root_key_unreachable", "root_key_of_a_later_version"])
def test_a_failed_root_key_is_shown_with_its_health(operator_cli, health) -> None:
    lock_by_root_key(operator_cli, health)

    shown = operator_cli.run("root-key", "show", ACME)

    assert (shown["health"], shown["locks"]) == (health, ["root-key"])
    if health == RootKeyUnreachable.code:
        assert (shown["health_message"], shown["health_hint"]) == (RootKeyUnreachable.message, RootKeyUnreachable.hint)
    assert health in operator_cli.invoke("root-key", "show", ACME).stdout


WRONG_OPTIONS = (
    (("--provider", "aws-kms"), "--key-arn"),
    ((*HSM[:4],), "--key"),
    ((*BAO[:2], "--key", "root"), "--address"),
    ((*AWS, "--token", "acme"), "--token"),
    ((*HSM, "--address", "https://bao.acme.example"), "--address"),
    ((*BAO, "--token", "s.a-token"), "--token"),
    ((*PLATFORM, "--key-arn", KEY_ARN), "--key-arn"),
    ((*PLATFORM, "--credentials", "-"), "--credentials"),
    ((*HSM, "--access-key-id", "AKIA"), "--access-key-id"),
    (("--provider", "azure"), "--provider"),
    ((), "--provider"),
)
WRONG_VALUES = (
    (("--provider", "aws-kms", "--key-arn", "arn:aws:kms:eu-west-1:111122223333:alias/x"), "key_arn", "alias/x"),
    ((*AWS, "--role-arn", "arn:aws:iam::1:user/x"), "role_arn", "user/x"),
    (("--provider", "pkcs11", "--token", "a\tb", "--key", "root"), "token", "a\tb"),
    (("--provider", "pkcs11", "--token", "acme", "--key", "k" * 65), "key", "k" * 65),
    (("--provider", "openbao", "--address", "https://me:pw@bao.example", "--key", "root"), "address", "pw"),
    ((*BAO, "--mount", "../sys"), "mount", "../sys"),
    ((*BAO, "--namespace", "a b"), "namespace", "a b"),
    ((*BAO[:-1], "a/b"), "key", "a/b"),
    ((*BAO, "--role-id", ""), "role_id", None),
)


def test_an_error_names_a_wrong_option_but_not_its_value(operator_cli) -> None:
    before = operator_cli.everything_stored()
    for words, option in WRONG_OPTIONS:
        result = operator_cli.invoke("root-key", "change", ACME, *words)
        assert result.exit_code == 2, words
        assert option in result.stderr, words
        assert "s.a-token" not in result.output
    for words, field_name, value in WRONG_VALUES:
        with pytest.raises(RootKeyRefused) as wrong:
            operator_cli.run("root-key", "preflight", ACME, *words)
        assert wrong.value.message.startswith(f"{field_name}: ")
        assert value is None or value not in wrong.value.message + wrong.value.hint
    assert (operator_cli.everything_stored(), operator_cli.gateway.asked) == (before, [])


A_CHANGE = a_change(number=3, wrapped=0)


def test_each_progress_of_a_change_is_reported_but_not_of_an_earlier_change() -> None:
    earlier = A_CHANGE._replace(number=2, wrapped=1000, state="done")
    unmeasured = A_CHANGE._replace(total=0)
    further = [A_CHANGE._replace(wrapped=wrapped) for wrapped in (64, 340, 340)]
    read = iter([None, earlier, unmeasured, *further, A_CHANGE._replace(wrapped=1000, state="done")])
    reported: list[str] = []

    progress.follow(2, lambda: next(read), root_key_view.progress, reported.append, threading.Event(), pause=0)

    assert reported == [f"wrapped {wrapped} of 1,000 versions of service keys" for wrapped in ("64", "340", "1,000")]


class Screen(io.StringIO):
    """Sets `shown` when the expected text has been written."""

    def __init__(self, wanted: str) -> None:
        super().__init__()
        self.wanted, self.shown = wanted, threading.Event()

    def write(self, text: str) -> int:
        if self.wanted in text:
            self.shown.set()
        return super().write(text)


def test_the_progress_of_a_change_is_shown_while_it_runs(operator_cli, monkeypatch) -> None:
    screen = Screen("wrapped 1 of 2 versions of service keys")
    monkeypatch.setattr(output, "progress", Console(file=screen))
    a_connected_service(operator_cli.field, ACME, "billing", serial="2b3c")
    operator_cli.gateway.wraps = 1
    operator = operator_cli.field.open("operator")
    with operator.tenant_tx(ACME) as tx:
        tx.root_keys.request(RootKeyRequestRow("0" * 32, PlatformKeyRef(), None))

    with root_key.show_progress(operator, ACME):
        assert screen.getvalue() == "changing the root key\n"
        with pytest.raises(OperationTimeout):
            operator_cli.gateway.change_root_key(ACME, "0" * 32)
        assert screen.shown.wait(20)
