"""An attestation is sent once and only to a trusted endpoint; only the service's own certificate is accepted."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from openkcm.agent.attestation import FileAttestor, parse, proofs_from
from openkcm.agent.enrolment_client import EnrolmentClient
from openkcm.agent.errors import (
    AnswerNotUnderstood,
    AuthorityRefused,
    ControlRefused,
    EnrolmentRefused,
    NotInOrder,
    ProofMissing,
    ProofUnreadable,
)
from openkcm.agent.schedule import ServerClock
from openkcm.agent.state import FILE
from openkcm.errors import FolderRefused, ProofRefused
from tests.client.agent.conftest import Field
from tests.client.agent.control import ControlServer, a_join_token
from tests.crypto_service.authority import _authority, pem, root

A_JWT = "eyJhbGciOiJFUzI1NiJ9.eyJqdGkiOiIxIn0.c2lnbmF0dXJl"


pytestmark = pytest.mark.integration  # the crypto service and the control endpoint listen on loopback


def another_authority(control: ControlServer) -> None:
    control.authority = _authority("Another root", None, None)


def another_authority_with_the_right_fingerprint(control: ControlServer) -> None:
    right = control._discovery()
    control._discovery = lambda: right | {"ca": pem(_authority("Another root", None, None).certificate)}


def an_endpoint_at(url: str) -> Callable[[ControlServer], None]:
    return lambda control: setattr(control, "enrolment_url", url)


def a_redirect(control: ControlServer) -> None:
    control.redirect = control.url + "/elsewhere"


UNTRUSTED = {
    "another authority": (another_authority, AuthorityRefused),
    "another authority under the right fingerprint": (another_authority_with_the_right_fingerprint, NotInOrder),
    "another host": (an_endpoint_at("https://evil.example/v1/enrolments"), ControlRefused),
    "another port": (an_endpoint_at("http://127.0.0.1:9/v1/enrolments"), ControlRefused),
    "another host without a scheme": (an_endpoint_at("//evil"), ControlRefused),
    "no host": (an_endpoint_at("http://["), ControlRefused),
    "no address": (an_endpoint_at("x"), ControlRefused),
    "a redirect": (a_redirect, NotInOrder),
}


@pytest.mark.parametrize(("pretend", "refusal"), UNTRUSTED.values(), ids=UNTRUSTED)
def test_attestation_is_sent_only_to_the_trusted_ca_at_the_given_address(field: Field, pretend, refusal):
    pretend(field.control)
    proof = field.control.token()
    field.prove(proof)
    with pytest.raises(refusal):
        field.agent().once(1)
    assert field.control.posts == []
    assert not any(proof in body for _, _, body in field.control.asked)
    assert not (field.folder / "client.pem").exists()


def test_only_https_and_loopback_addresses_are_accepted():
    for url in ("https://openkcm.example", "http://127.0.0.1:8080", "http://[::1]:8080/"):
        EnrolmentClient(url, ServerClock()).close()
    for url in (
        *("http://openkcm.example", "http://192.0.2.1:8080", "ftp://127.0.0.1", "127.0.0.1:8080", "http://"),
        *("https://user:word@openkcm.example", "http://127.0.0.1.evil.example", "https://openkcm.example/?a=b"),
    ):
        with pytest.raises(ControlRefused):
            EnrolmentClient(url, ServerClock())


def test_jwt_over_plain_http_requires_the_ca_file(field: Field, tmp_path: Path):
    field.control.jwts.add(A_JWT)
    field.prove(A_JWT)
    with pytest.raises(AuthorityRefused):
        field.agent().once(5)
    assert field.control.posts == []
    named = tmp_path / "root.pem"
    named.write_text(root().pem)
    agent = field.agent(ca_file=named)
    agent.once(10)
    assert [set(sent) for sent in field.control.posts] == [{"service", "kind", "csr", "jwt"}]


def test_lost_response_repeats_the_same_request_after_a_restart(field: Field):
    field.prove()
    field.control.lose = 1
    agent = field.agent()
    agent.turn()
    assert len(field.control.posts) == 1
    field.agent().once(10)
    first, second = field.control.posts
    assert first == second


def test_busy_endpoint_is_retried(field: Field):
    field.control.busy, field.control.polls = 1, 1
    field.enrolled()
    assert len(field.control.posts) == 2


def test_restart_during_enrolment_continues_with_the_ticket_alone(field: Field):
    field.prove()
    field.control.polls = 1
    field.agent().turn()
    field.proof_file.unlink()
    field.agent().once(10)
    assert len(field.control.posts) == 1
    assert json.loads((field.folder / FILE).read_text())["pending"] is None


def test_rejected_attestation_is_sent_again_only_on_request(field: Field):
    field.prove(a_join_token())
    agent = field.agent()
    with pytest.raises(ProofRefused):
        agent.once(5)
    with pytest.raises(ProofMissing):
        agent.once(5)
    assert len(field.control.posts) == 1
    agent._enrolment.retry_rejected()
    agent._due.enrol = 0.0
    with pytest.raises(ProofRefused):
        agent.turn()
    assert len(field.control.posts) == 2


def test_rejected_enrolment_raises_its_reason(field: Field):
    field.prove()
    field.control.result = {"state": "refused", "problem": "tenant_not_operational"}
    with pytest.raises(EnrolmentRefused, match="tenant_not_operational"):
        field.agent().once(5)


WRONG = [
    {"service": "billing"},
    {"tenant_id": "globex-67890"},
    {"ca": pem(_authority("Another root", None, None).certificate)},
    {"chain": ""},
    {"certificate": root().pem},
    {"certificate": "nonsense"},
    {"https": "http://127.0.0.1"},
    {"https": None},
]


def test_result_for_another_service_is_never_written(field: Field):
    field.prove()
    for wrong in WRONG:
        field.control.result = wrong
        with pytest.raises(NotInOrder):
            field.agent().once(0.2)
        assert not (field.folder / "client.pem").exists(), wrong


def test_token_of_another_tenant_is_rejected_for_an_enrolled_folder(field: Field):
    agent = field.enrolled()
    field.stage.on_loop(lambda: field.stage.core.revoke(f"{field.leaf.serial_number:x}"))
    proof = a_join_token("globex-67890")
    field.prove(proof)
    field.time.passes(31)
    field.take_turns(agent, 4)
    assert len(field.control.posts) == 1
    with pytest.raises(FolderRefused, match="another tenant"):
        agent._enrolment.attempt(field.time.real())


def test_no_log_line_file_or_error_contains_the_attestation_or_key(field: Field):
    proof = field.control.token()
    field.prove(proof)
    with capture_logs() as lines:
        field.agent().once(10)
        field.prove(a_join_token())
        agent = field.agent()
        field.stage.on_loop(lambda: field.stage.core.revoke(f"{field.leaf.serial_number:x}"))
        field.take_turns(agent, 5)
    log_lines = json.dumps(lines, default=str)
    key = (field.folder / "client.key").read_text().splitlines()[1]
    for secret in (proof, proof.split(".")[2], key):
        assert secret not in log_lines
        for file in field.folder.iterdir():
            if file.name != "client.key":
                assert secret not in file.read_text(), file
    assert proof not in repr(parse(proof))


def test_invalid_attestation_is_rejected_without_quoting_it():
    for text in (
        *("nonsense", "okcmj1.acme-corp-12345.short.0123", "a.b.c", A_JWT + " " + A_JWT),
        *("eyJhbGciOiJub25lIn0.e30.c2ln", "okcmj2" + a_join_token()[6:]),
    ):
        with pytest.raises(ProofUnreadable) as refused:
            parse(text)
        assert text not in str(refused.value)


def test_attestation_is_read_from_a_file_or_the_environment_which_is_cleared(tmp_path: Path):
    token = a_join_token()
    environment = {"OPENKCM_JOIN_TOKEN": token, "HOME": "x"}
    assert proofs_from(None, environment).read().text == token
    assert environment == {"HOME": "x"}
    file = tmp_path / "token"
    proofs = FileAttestor(file)
    assert proofs.read() is None
    file.write_text(f"{token}\n")
    assert proofs.read().text == token
    file.write_bytes(b"\xff")
    with pytest.raises(ProofUnreadable):
        proofs.read()


def test_oversized_response_is_rejected(field: Field):
    field.control._discovery = lambda: {"service": "openkcm", "more": "x" * 400_000}
    with pytest.raises(AnswerNotUnderstood):
        EnrolmentClient(field.control.url, ServerClock()).discover()
