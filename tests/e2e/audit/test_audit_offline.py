"""An auditor verifies the audit stream offline with a file and the public key, and detects every changed bit."""

from pathlib import Path

import httpx2
import pytest

from database.platform.scheduled import PlatformQueries
from openkcm.contract.audit_events import GENESIS, StoredRecord, link
from openkcm.verification.audit_export import export_lines, read_export
from tests.cli.audit.offline import verdict, verify
from tests.e2e.audit.schedules import sign_to_the_end
from tests.e2e.dashboard.harness.dashboard_pages import UMA
from tests.e2e.dashboard.harness.sign_ons import cookie
from tests.e2e.stack import Stack
from vault.transit.audit_signer import TransitAuditSigner


@pytest.fixture(scope="module")
def auditor_folder(stack: Stack, tenant: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the auditor's folder: public key and the tenant's stream, signed up to the record of its export."""
    auditor_folder = tmp_path_factory.mktemp("auditor")
    sign_to_the_end(stack, tenant)
    stack.command("audit", "export", tenant, "--out", str(auditor_folder / "audit.jsonl"))
    stack.command("audit", "public-key", "--out", str(auditor_folder / "key.pem"))
    return auditor_folder


def test_export_of_the_command_verifies_with_the_public_key_alone(stack, tenant, auditor_folder):
    found = verdict(auditor_folder, "audit.jsonl", "--public-key", "key.pem")
    assert (found["intact"], found["problem"], found["signature"]) == (True, None, "verified")
    assert found["tenant_id"] == tenant
    assert 0 < found["signed"] < found["events"]  # the export is recorded before it is written
    assert found["events"] == (auditor_folder / "audit.jsonl").read_bytes().count(b"\n") - 2
    shown = verify(auditor_folder, "audit.jsonl", as_json=False)
    assert shown.returncode == 0
    assert "signature: NOT CHECKED" in shown.stdout
    assert f"fingerprint {found['fingerprint']}" in shown.stdout
    assert PlatformQueries(stack.database()).audit_keys() == TransitAuditSigner(stack.vault()).public_keys()


def test_downloads_of_the_dashboard_verify_with_the_same_key(stack, tenant, auditor_folder):
    for name, query in (("selection.jsonl", "?text=boundary"), ("downloaded.jsonl", "")):
        address = f"{stack.settings.dashboard_url}/tenant/{tenant}/audit.jsonl{query}"
        answer = httpx2.get(address, cookies=cookie(stack, tenant, UMA), timeout=30)
        assert answer.status_code == 200
        (auditor_folder / name).write_bytes(answer.content)
    later = verdict(auditor_folder, "downloaded.jsonl", "--public-key", "key.pem", "--against", "audit.jsonl")
    assert (later["intact"], later["signature"]) == (True, "verified")
    assert later["against"]["same"] == verdict(auditor_folder, "audit.jsonl")["events"]
    part = verdict(auditor_folder, "selection.jsonl", "--public-key", "key.pem", "--against", "downloaded.jsonl")
    assert (part["intact"], part["against"]["only_here"]) == (True, 0)


def test_changed_and_rewritten_streams_are_rejected(auditor_folder):
    """Unit tests change every bit, line and record; this test makes one change of each kind in a real export."""
    export = (auditor_folder / "audit.jsonl").read_bytes()

    def problem(content: bytes) -> str:
        (auditor_folder / "altered.jsonl").write_bytes(content)
        found = verdict(auditor_folder, "altered.jsonl", "--public-key", "key.pem")
        assert not found["intact"]
        return str(found["problem"])

    place = len(export) // 2
    flipped = export[:place] + bytes([export[place] ^ 1]) + export[place + 1 :]
    line = export[:place].count(b"\n") + 1
    assert f"line {line}" in problem(flipped)

    # An attacker with the file can change a record and compute the chain again, but cannot sign the result.
    header, records = read_export(export.splitlines(keepends=True))
    assert header.signed_head is not None
    previous, forged = GENESIS, []
    for one in records:
        record = one.stored.record.replace('"outcome": "success"', '"outcome": "refused"')
        previous = link(previous, record)
        forged.append(StoredRecord(one.stored.seq, record, previous))
    assert [one.record for one in forged] != [one.stored.record for one in records]
    signed = header.signed_head.seq
    head = header.signed_head.model_copy(update={"chain_hash": forged[signed - 1].chain_hash.hex()})
    for signed_head, says in (
        (header.signed_head, f"record {signed} is not the signed one"),
        (head, "the signature does not match this content"),
    ):
        new_header = header.model_copy(update={"signed_head": signed_head})
        lines = export_lines(new_header, [[(one, None) for one in forged]], lambda _number: None)
        assert says in problem("".join(lines).encode())
    compared = verdict(auditor_folder, "audit.jsonl", "--against", "altered.jsonl")
    assert compared["problem"].endswith("differs between the files")
