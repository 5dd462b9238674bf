"""A proof goes to nobody who is not known, once, and what comes back is only taken where it is the service's own."""

import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.clock import Clock
from agent.control import Control
from agent.memory import FILE
from agent.proof import FileProofs, parse, proofs_from
from tenancy.agent_errors import (
    AnswerNotUnderstood,
    AuthorityRefused,
    ControlRefused,
    EnrolmentRefused,
    FolderRefused,
    NotInOrder,
    ProofMissing,
    ProofUnreadable,
)
from tenancy.enrolment_errors import ProofRefused
from tests.agent.conftest import Field
from tests.agent.control import a_join_token
from tests.crypto.https.authority import _authority, pem, root

A_JWT = "eyJhbGciOiJFUzI1NiJ9.eyJqdGkiOiIxIn0.c2lnbmF0dXJl"


def nothing_was_sent(field: Field, proof: str) -> None:
    assert field.control.posts == []
    assert not any(proof in body for _, _, body in field.control.asked)


def test_another_authority_than_the_tokens_is_refused_before_anything_is_sent(field: Field):
    field.control.authority = _authority("Another root", None, None)
    proof = field.control.token()
    field.prove(proof)
    with pytest.raises(AuthorityRefused):
        field.agent().once(5)
    nothing_was_sent(field, proof)
    assert not (field.folder / "client.pem").exists()


def test_an_authority_that_only_says_it_is_the_right_one_is_refused(field: Field):
    field.control._discovery_of = field.control._discovery
    right = field.control._discovery()

    field.control._discovery = lambda: right | {"ca": pem(_authority("Another root", None, None).certificate)}
    proof = field.control.token()
    field.prove(proof)
    agent = field.agent()
    with pytest.raises(NotInOrder):
        agent.once(1)
    nothing_was_sent(field, proof)


@pytest.mark.parametrize(
    "elsewhere", ["http://127.0.0.1:9/v1/enrolments", "https://evil.example/v1/enrolments", "//evil", "http://[", ""]
)
def test_a_proof_is_sent_nowhere_but_to_the_address_that_was_given(field: Field, elsewhere: str):
    field.control.enrolment_url = elsewhere or "x"
    proof = field.control.token()
    field.prove(proof)
    with pytest.raises(ControlRefused):
        field.agent().once(5)
    nothing_was_sent(field, proof)


def test_a_redirect_is_not_followed(field: Field):
    field.control.redirect = field.control.url + "/elsewhere"
    proof = field.control.token()
    field.prove(proof)
    with pytest.raises(NotInOrder):
        field.agent().once(1)
    nothing_was_sent(field, proof)


@pytest.mark.parametrize(
    "url",
    [
        *("http://openkcm.example", "http://192.0.2.1:8080", "ftp://127.0.0.1", "127.0.0.1:8080", "http://"),
        *("https://user:word@openkcm.example", "http://127.0.0.1.evil.example", "https://openkcm.example/?a=b"),
    ],
)
def test_an_address_where_a_proof_could_be_read_on_the_way_is_refused(url: str):
    with pytest.raises(ControlRefused):
        Control(url, Clock())


@pytest.mark.parametrize("url", ["https://openkcm.example", "http://127.0.0.1:8080", "http://[::1]:8080/"])
def test_https_and_this_very_machine_are_taken(url: str):
    Control(url, Clock()).close()


def test_a_jwt_over_plain_http_needs_the_authority_by_name(field: Field, tmp_path: Path):
    field.control.jwts.add(A_JWT)
    field.prove(A_JWT)
    with pytest.raises(AuthorityRefused):
        field.agent().once(5)
    nothing_was_sent(field, A_JWT)
    named = tmp_path / "root.pem"
    named.write_text(root().pem)
    agent = field.agent(ca_file=named)
    agent.once(10)
    assert [set(sent) for sent in field.control.posts] == [{"service", "kind", "csr", "jwt"}]


def test_a_lost_answer_is_asked_for_with_the_same_request_also_after_a_restart(field: Field):
    field.prove()
    field.control.lose = 1
    agent = field.agent()
    agent.turn()
    assert len(field.control.posts) == 1
    field.agent().once(10)
    first, second = field.control.posts
    assert first == second


def test_a_busy_endpoint_is_asked_again(field: Field):
    field.control.busy, field.control.polls = 1, 1
    field.enrolled()
    assert len(field.control.posts) == 2


def test_after_a_restart_in_the_middle_the_result_is_had_with_the_ticket_alone(field: Field):
    field.prove()
    field.control.polls = 1
    field.agent().turn()
    field.proof_file.unlink()
    field.agent().once(10)
    assert len(field.control.posts) == 1
    assert json.loads((field.folder / FILE).read_text())["pending"] is None


def test_a_refused_proof_is_said_so_and_not_sent_again_until_somebody_says_so(field: Field):
    field.prove(a_join_token())
    agent = field.agent()
    with pytest.raises(ProofRefused):
        agent.once(5)
    with pytest.raises(ProofMissing):
        agent.once(5)
    assert len(field.control.posts) == 1
    agent._enrolment.hear_again()
    agent._due.enrol = 0.0
    with pytest.raises(ProofRefused):
        agent.turn()
    assert len(field.control.posts) == 2


def test_a_refused_enrolment_says_why(field: Field):
    field.prove()
    field.control.result = {"state": "refused", "problem": "tenant_closed"}
    with pytest.raises(EnrolmentRefused, match="tenant_closed"):
        field.agent().once(5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"service": "billing"},
        {"tenant_id": "globex-67890"},
        {"ca": pem(_authority("Another root", None, None).certificate)},
        {"chain": ""},
        {"certificate": root().pem},
        {"certificate": "nonsense"},
        {"https": "http://127.0.0.1"},
        {"https": None},
    ],
)
def test_a_result_that_is_not_this_services_never_gets_into_the_folder(field: Field, wrong):
    field.prove()
    field.control.result = wrong
    with pytest.raises(NotInOrder):
        field.agent().once(1.5)
    assert not (field.folder / "client.pem").exists()


def test_a_token_of_another_tenant_is_refused_for_a_folder_that_has_one(field: Field):
    agent = field.enrolled()
    field.stage.on_loop(lambda: field.stage.core.revoke(f"{field.leaf.serial_number:x}"))
    proof = a_join_token("globex-67890")
    field.prove(proof)
    field.time.passes(31)
    for _ in range(4):
        field.time.passes(agent.turn())
    assert len(field.control.posts) == 1
    with pytest.raises(FolderRefused, match="another tenant"):
        agent._enrolment.attempt(field.time.real())


def test_no_log_line_file_or_error_holds_the_proof_or_the_key(field: Field):
    proof = field.control.token()
    field.prove(proof)
    with capture_logs() as lines:
        field.agent().once(10)
        field.prove(a_join_token())
        agent = field.agent()
        field.stage.on_loop(lambda: field.stage.core.revoke(f"{field.leaf.serial_number:x}"))
        for _ in range(5):
            field.time.passes(agent.turn())
    told = json.dumps(lines, default=str)
    key = (field.folder / "client.key").read_text().splitlines()[1]
    for secret in (proof, proof.split(".")[2], key):
        assert secret not in told
        for file in field.folder.iterdir():
            if file.name != "client.key":
                assert secret not in file.read_text(), file
    assert proof not in repr(parse(proof))


@pytest.mark.parametrize(
    "text",
    [
        *("nonsense", "okcmj1.acme-corp-12345.short.0123", "a.b.c", A_JWT + " " + A_JWT),
        *("eyJhbGciOiJub25lIn0.e30.c2ln", "okcmj2" + a_join_token()[6:]),
    ],
    ids=["no form", "cut", "no JWT", "two", "no signature", "another form"],
)
def test_what_is_no_proof_is_refused_without_quoting_it(text: str):
    with pytest.raises(ProofUnreadable) as refused:
        parse(text)
    assert text not in str(refused.value)


def test_proofs_come_from_a_file_standard_input_or_the_environment_which_loses_it(tmp_path: Path):
    token = a_join_token()
    environment = {"KCM_JOIN_TOKEN": token, "HOME": "x"}
    assert proofs_from(None, environment).read().text == token
    assert environment == {"HOME": "x"}
    file = tmp_path / "token"
    proofs = FileProofs(file)
    assert proofs.read() is None
    file.write_text(f"{token}\n")
    assert proofs.read().text == token
    file.write_bytes(b"\xff")
    with pytest.raises(ProofUnreadable):
        proofs.read()


def test_an_answer_without_an_end_is_cut(field: Field):
    field.control._discovery = lambda: {"service": "openkcm", "more": "x" * 400_000}
    with pytest.raises(AnswerNotUnderstood):
        Control(field.control.url, Clock()).discover()
