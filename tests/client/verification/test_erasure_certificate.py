"""The erasure certificate: one canonical text for a statement, and every change of a file is detected in its part."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openkcm.contract.audit_events import head_message
from openkcm.errors import CertificateBroken
from openkcm.verification.erasure_certificate import (
    LONGEST_DOCUMENT,
    ErasureStatement,
    certificate_file,
    read_certificate,
    shred_message,
    statement_text,
    verify_certificate,
)
from openkcm.verification.results import Kind, SignatureState
from tests.core.proving import FINGERPRINT, KEYS, TENANT, a_certificate, a_statement, a_stream, with_flipped_bit
from tests.database.signing import SIGNER, Signer

PARTS = re.compile(r'"(statement|signature|key)":"')


def rejection(document: bytes) -> str:
    with pytest.raises(CertificateBroken) as broken:
        read_certificate(document)
    return broken.value.message


def signed(text: str) -> bytes:
    """Return a document around any text, with matching checksums and a valid signature."""
    return certificate_file(text, *SIGNER.sign(shred_message(TENANT, text))).encode()


def test_statement_has_one_canonical_text_and_is_read_back():
    found, statement = read_certificate(a_certificate()), a_statement(a_stream(5))
    assert found.statement == statement
    other = statement.model_copy(update={"erased": dict(reversed(statement.erased.items()))})
    assert statement_text(other) == statement_text(statement) == found.text


def test_certificate_verifies_and_names_its_key():
    verdict, statement = verify_certificate(a_certificate(), KEYS.check)
    assert (verdict.kind, verdict.intact, verdict.signature) == (Kind.CERTIFICATE, True, SignatureState.VERIFIED)
    assert (verdict.tenant_id, verdict.events, verdict.signed) == (TENANT, 1, 5)
    assert (verdict.key, verdict.fingerprint) == ("audit:1", FINGERPRINT)
    assert statement == a_statement(a_stream(5))
    verdict, _ = verify_certificate(a_certificate(signer=Signer()), None)
    assert (verdict.intact, verdict.signature, verdict.fingerprint) == (True, SignatureState.NOT_CHECKED, "")


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.full)])
def test_changed_bit_is_detected_in_its_part(step):
    document = a_certificate()
    text = document.decode()
    starts = {found[1]: len(text[: found.end()].encode()) for found in PARTS.finditer(text)}
    for place in range(0, len(document) * 8, step):
        altered = with_flipped_bit(document, place)
        for check in (KEYS.check, None):
            verdict, _ = verify_certificate(altered, check)
            assert not verdict.intact
            assert re.search(r"the part \w+|\(character \d+\)|\(byte \d+\)|at character \d+|the parts", verdict.problem)
        if place // 8 in range(starts["key"], starts["key"] + len("audit:1")) and altered[place // 8] in b"audit:0239":
            assert "the part key" in verdict.problem


@pytest.mark.parametrize("part", ["statement", "signature", "key"])
def test_changed_part_is_named(part):
    fields = json.loads(a_certificate())
    fields[part] = fields[part].replace(fields[part][5], "?", 1)
    document = json.dumps(fields, ensure_ascii=False, sort_keys=True, separators=(",", ":")) + "\n"
    assert rejection(document.encode()) == f"the part {part} was altered: its checksum does not match"


def test_signature_over_another_message_is_rejected():
    own = statement_text(a_statement(a_stream(5)))
    others = statement_text(a_statement(a_stream(5)).model_copy(update={"tenant_id": "beta-corp-1"}))
    for text, signature in (
        (others, SIGNER.sign(b"something else")),
        (own, SIGNER.sign(head_message(TENANT, 5, bytes(32)))),
        (own, SIGNER.sign(shred_message("beta-corp-1", own))),
        (own, Signer().sign(shred_message(TENANT, own))),
    ):
        verdict, _ = verify_certificate(certificate_file(text, *signature).encode(), KEYS.check)
        assert verdict.signature is SignatureState.REFUSED
        assert verdict.problem.startswith("the part signature: the signature does not match this content")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("acme", "ac\\u006de"), "the part statement differs at character"),
        (lambda text: text.replace(",", ", ", 1), "the part statement differs at character"),
        (lambda text: text.replace('"audit_seq":5', '"audit_seq":5.0'), "the part statement differs at character"),
        (lambda text: text.replace('"audit_seq":5', '"audit_seq":0'), "the part statement is invalid: audit_seq"),
        (lambda text: text.replace("openkcm-shred/1", "openkcm-shred/2"), "the part statement is invalid: format"),
        (lambda text: text.replace('"versions"', '"editions"'), "the part statement is invalid: destroyed.0"),
        (lambda text: text.replace("{", '{"more":1,', 1), "the part statement is invalid: more"),
        (lambda _text: "[]", "the part statement is invalid: no JSON"),
        (lambda _text: "[" * 100_000, "the part statement is invalid: no JSON"),
    ],
)
def test_signed_text_must_be_canonical(change, says):
    assert rejection(signed(change(statement_text(a_statement(a_stream(5)))))).startswith(says)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (b"", "the file is not JSON"),
        (b"[]", "the file does not have the parts"),
        (b"\xff", "the file is not text (byte 1)"),
        (b"[" * 200_000, "the file is not JSON"),
        (b'{"key":' + b"9" * 5_000 + b"}", "the file is not JSON"),
        (b" " * (LONGEST_DOCUMENT + 1), "the file is longer than the maximum"),
        (a_certificate() + a_certificate(), "the file is not JSON"),
        (a_certificate()[:-1], "the file was altered: it differs at character"),
        (a_certificate() + b"\n", "the file was altered: it differs at character"),
        (a_certificate().replace(b'{"key"', b'{"key":"x","key"'), "the file was altered"),
        (a_certificate().replace(b'"key":"audit:1"', b'"key":7'), "the part key was altered"),
        (a_certificate().replace(b'"sha256":{', b'"sha256":{"more":"",'), "the part sha256 does not have"),
        (a_certificate().replace(b'"sha256":{', b'"sha257":{'), "the file does not have the parts"),
    ],
    ids=range(13),  # signatures differ between runs, and test ids must not
)
def test_invalid_document_is_rejected_with_its_position(document, says):
    assert rejection(document).startswith(says)


@given(st.text(), st.text(), st.text())
def test_arbitrary_statement_text_is_rejected(text, signature, key):
    document = certificate_file(text, signature, key).encode()
    assert rejection(document).startswith("the part statement is invalid")


def test_time_without_a_zone_is_rejected():
    fields = json.loads(statement_text(a_statement(a_stream(5)))) | {"issued_at": "2026-11-25T12:00:00"}
    with pytest.raises(ValueError, match="issued_at"):
        ErasureStatement.model_validate(fields)
