import json
from datetime import UTC, datetime

from tenancy.shred import Destroyed, Remains, ShredStatement, certificate_file, shred_message, statement_text

AT = datetime(2026, 11, 25, 12, tzinfo=UTC)
STATEMENT = ShredStatement(
    tenant_id="acme-corp-12345",
    issued_at=AT,
    grace_began_at=AT,
    destroyed=(Destroyed(kind="service key", name="orders 1", versions="1", fingerprint="ab" * 32, destroyed_at=AT),),
    erased={"service_key": 1},
    kept={"tenant": "the id"},
    remains=(Remains(what="backups", until="their end"),),
    audit_seq=7,
    audit_hash="cd" * 32,
)


def test_the_text_is_one_whatever_order_its_parts_were_given_in():
    text = statement_text(STATEMENT)
    assert statement_text(ShredStatement.model_validate_json(text)) == text
    assert json.loads(text)["format"] == "openkcm-shred/1"


def test_what_is_signed_names_the_tenant_and_changes_with_the_text():
    text = statement_text(STATEMENT)
    message = shred_message("acme-corp-12345", text)
    assert message.startswith(b"openkcm-shred-certificate/1 acme-corp-12345 ")
    assert message != shred_message("acme-corp-12345", text + " ")


def test_the_file_holds_exactly_the_text_that_was_signed():
    text = statement_text(STATEMENT)
    assert json.loads(certificate_file(text, "signature", "audit-heads:1")) == {
        "statement": text,
        "signature": "signature",
        "key": "audit-heads:1",
    }
