"""`openkcmctl root-key`: what is shown, what is asked of the workflow, and how each way it can end is told."""

import io
import threading
from dataclasses import replace

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
from tests.cli.root_key_stand import AWS, BAO, HSM, PLATFORM, hold_by_root_key, refused
from tests.dashboard.held import a_change
from tests.dashboard.scene import ACME, KEY_ARN, ROLE_ARN
from tests.database.builders import a_connected_service
from workflows.client.workflow_client import OperationTimeout

POLICY = '{\n  "Effect": "Allow",\n  "Action": ["kms:Encrypt", "kms:Decrypt"]\n}'
DENIED = Problem(code="root_key_denied", message="access to the root key is denied", hint=f"add this:\n{POLICY}")
SLOW = Problem(code="root_key_slow", message="it answers too late", hint="look at its load")


def test_the_platforms_key_is_shown_as_what_it_is(desk) -> None:
    assert desk.run("root-key", "show", ACME) == {
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
    assert "not watched" in desk.invoke("root-key", "show", ACME).stdout


@pytest.mark.parametrize(
    ("noticed", "older", "words"),
    [(3, 0, "3; nothing lies under an older one"), (4, 1, "4; 1 wrap lies under an older one")],
)
def test_the_version_of_a_numbered_key_is_shown_with_what_is_not_under_it_yet(desk, noticed, older, words) -> None:
    with desk.worker.raw_tx(ACME) as connection:
        connection.execute("update okcm.service_key set wrapped = 'vault:v3:x'")
    with desk.worker.tenant_tx(ACME) as tx:
        tx.tenants.lock()
        tx.root_keys.notice(None, noticed)
    shown = desk.run("root-key", "show", ACME)
    assert (shown["version"], shown["older_wraps"]) == (noticed, older)
    assert words in desk.invoke("root-key", "show", ACME).stdout


def test_whom_a_role_at_aws_has_to_trust_is_shown(desk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the operator knows whom to trust" in desk.invoke("root-key", "show", ACME).stdout
    monkeypatch.setenv("OPENKCM_AWS_PRINCIPAL", "arn:aws:iam::999988887777:role/openkcm-platform")
    assert desk.run("root-key", "show", ACME)["aws_principal"] == "arn:aws:iam::999988887777:role/openkcm-platform"
    assert "role/openkcm-platform" in desk.invoke("root-key", "show", ACME).stdout


def test_a_change_is_asked_for_and_told_and_shown(desk) -> None:
    assert desk.run("root-key", "change", ACME, *AWS, "--role-arn", ROLE_ARN) == {
        "tenant_id": ACME,
        "root_key_mode": "aws-kms",
        "problems": [],
    }

    shown = desk.run("root-key", "show", ACME)
    assert (shown["name"], shown["health"], shown["health_message"]) == (KEY_ARN, "ok", "the root key does its part")
    assert shown["place"] == {"provider": "aws-kms", "key_arn": KEY_ARN, "role_arn": ROLE_ARN}
    [change] = shown["changes"]
    assert (change["from_mode"], change["to_mode"], change["state"]) == ("platform", "aws-kms", "done")
    assert (change["wrapped"], change["total"], change["problem"]) == (1, 1, None)
    drawn = desk.invoke("root-key", "show", ACME).stdout
    assert all(text in drawn for text in (KEY_ARN, ROLE_ARN, "openkcm/acme-corp-12345", "1 of 1"))


def test_a_preflight_that_finds_nothing_changes_nothing(desk) -> None:
    assert desk.run("root-key", "preflight", ACME, *AWS, "--role-arn", ROLE_ARN) == {
        "tenant_id": ACME,
        "root_key_mode": "platform",
        "problems": [],
    }
    assert desk.run("root-key", "show", ACME)["changes"] == []
    assert "can be the root key" in desk.invoke("root-key", "preflight", ACME, *PLATFORM).stdout


@pytest.mark.parametrize("word", ["preflight", "change"])
def test_problems_are_told_each_with_its_hint_and_end_with_one(desk, word) -> None:
    desk.gateway.problems = [DENIED, SLOW]
    credentials = desk.credentials(pin="1234")

    document = desk.run("root-key", word, ACME, *HSM, "--credentials", credentials, status=1)

    assert document["problems"] == [DENIED.model_dump(), SLOW.model_dump()]
    assert (document["tenant_id"], document["root_key_mode"]) == (ACME, "platform")
    assert document["error"]["code"] == "root_key_denied"
    assert document["error"]["hint"].startswith("mend what was found")
    shown = desk.invoke("root-key", word, ACME, *HSM, "--credentials", credentials)
    assert shown.exit_code == 1
    # A policy can be taken out of the hint as it stands.
    lines = [line.removeprefix("  ") for line in shown.stdout.splitlines()]
    assert POLICY in "\n".join(lines)
    assert "root_key_slow: it answers too late" in shown.stdout
    assert "root_key_denied" in shown.stderr


def test_what_stopped_the_last_change_can_be_read_later(desk) -> None:
    desk.gateway.problems = [DENIED]
    desk.run("root-key", "change", ACME, *HSM, "--credentials", desk.credentials(pin="1234"), status=1)

    shown = desk.run("root-key", "show", ACME)

    assert shown["problems"] == [DENIED.model_dump()]
    assert (shown["changes"][0]["state"], shown["changes"][0]["problem"]) == ("failed", "root_key_denied")
    assert "add this:" in desk.invoke("root-key", "show", ACME).stdout


def test_a_change_that_is_refused_at_the_door_is_the_same_document(desk) -> None:
    desk.gateway.fails = refused(OperationRunning("a change of the root key"))

    document = desk.run("root-key", "change", ACME, *PLATFORM, status=1)

    assert (document["root_key_mode"], document["problems"]) == ("platform", [])
    assert document["error"]["code"] == "operation_running"
    assert document["error"]["hint"] == "wait for it to end, then ask again"


def test_a_change_that_takes_longer_goes_on_and_says_where_to_look(desk) -> None:
    desk.gateway.fails = OperationTimeout()

    document = desk.run("root-key", "change", ACME, *PLATFORM, status=1)

    assert document["error"]["code"] == "not_done_in_time"
    assert "goes on by itself" in document["error"]["hint"]
    assert f"openkcmctl root-key show {ACME}" in document["error"]["hint"]


@pytest.mark.usefixtures("desk")
def test_the_real_gateway_is_asked_and_its_silence_is_one_document(monkeypatch, capsys, free_port) -> None:
    monkeypatch.setenv("OPENKCM_TEMPORAL_PORT", str(free_port))
    assert main(["root-key", "preflight", ACME, *PLATFORM, "--json"]) == 1
    assert '"temporal_unavailable"' in capsys.readouterr().out


@pytest.mark.parametrize("health", ["root_key_disabled", "root_key_unreachable", "root_key_of_a_later_version"])
def test_a_root_key_that_fails_is_shown_in_words(desk, health) -> None:
    hold_by_root_key(desk, health)

    shown = desk.run("root-key", "show", ACME)

    assert (shown["health"], shown["locks"]) == (health, ["root-key"])
    if health == RootKeyUnreachable.code:
        assert (shown["health_message"], shown["health_hint"]) == (RootKeyUnreachable.message, RootKeyUnreachable.hint)
    assert health in desk.invoke("root-key", "show", ACME).stdout


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


def test_a_wrong_option_is_named_and_its_value_is_not(desk) -> None:
    before = desk.everything_stored()
    for words, option in WRONG_OPTIONS:
        result = desk.invoke("root-key", "change", ACME, *words)
        assert result.exit_code == 2, words
        assert option in result.stderr, words
        assert "s.a-token" not in result.output
    for words, field_name, value in WRONG_VALUES:
        with pytest.raises(RootKeyRefused) as wrong:
            desk.run("root-key", "preflight", ACME, *words)
        assert wrong.value.message.startswith(f"{field_name}: ")
        assert value is None or value not in wrong.value.message + wrong.value.hint
    assert (desk.everything_stored(), desk.gateway.asked) == (before, [])


A_CHANGE = a_change(number=3, wrapped=0)


def test_progress_is_said_each_time_it_is_further_and_never_of_an_earlier_change() -> None:
    earlier = replace(A_CHANGE, number=2, wrapped=1000, state="done")
    unmeasured = replace(A_CHANGE, total=0)
    further = [replace(A_CHANGE, wrapped=wrapped) for wrapped in (64, 340, 340)]
    read = iter([None, earlier, unmeasured, *further, replace(A_CHANGE, wrapped=1000, state="done")])
    said: list[str] = []

    progress.follow(2, lambda: next(read), root_key_view.progress, said.append, threading.Event(), pause=0)

    assert said == [f"wrapped {wrapped} of 1,000 service keys" for wrapped in ("64", "340", "1,000")]


class Screen(io.StringIO):
    """Tells when something was written that is waited for."""

    def __init__(self, wanted: str) -> None:
        super().__init__()
        self.wanted, self.shown = wanted, threading.Event()

    def write(self, text: str) -> int:
        if self.wanted in text:
            self.shown.set()
        return super().write(text)


def test_people_see_from_the_start_how_far_a_change_is_while_it_runs(desk, monkeypatch) -> None:
    screen = Screen("wrapped 1 of 2 service keys")
    monkeypatch.setattr(output, "progress", Console(file=screen))
    a_connected_service(desk.field, ACME, "billing", serial="2b3c")
    desk.gateway.wraps = 1
    operator = desk.field.open("operator")
    with operator.tenant_tx(ACME) as tx:
        tx.root_keys.request(RootKeyRequestRow("0" * 32, PlatformKeyRef(), None))

    with root_key.shown(operator, ACME):
        assert screen.getvalue() == "changing the root key\n"
        with pytest.raises(OperationTimeout):
            desk.gateway.change_root_key(ACME, "0" * 32)
        assert screen.shown.wait(20)
