"""An auditor verifies the audit stream offline, with a file and the public key, and sees whether a bit was changed."""

import asyncio
from pathlib import Path

import httpx2
import pytest

from database.platform.scheduled import PlatformQueries
from openkcm.contract.audit_events import GENESIS, StoredRecord, link
from openkcm.verification.audit_export import export_lines, read_export
from tests.cli.offline import verdict, verify
from tests.stories.dashboard_pages import UMA
from tests.stories.sign_ons import cookie
from tests.stories.stack import PATIENCE_SECONDS, Stack
from vault.transit.audit_signer import TransitAuditSigner


async def sign_to_the_end(stack: Stack, tenant_id: str) -> None:
    """Trigger the signing until the last record is signed: a run under way takes no order, and records may follow."""
    schedule = (await stack.temporal()).get_schedule_handle("audit-heads")

    def signed() -> bool:
        with stack.database().tenant_tx(tenant_id) as tx:
            head, heads = tx.audit.head(), tx.audit.signed_heads()
        return bool(head and heads) and heads[-1].seq == head.seq

    async with asyncio.timeout(PATIENCE_SECONDS):
        while not signed():
            await schedule.trigger()
            await asyncio.sleep(1)


@pytest.fixture(scope="module")
def home(stack: Stack, tenant: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the auditor's folder: the tenant's stream, signed up to the record of its export, and the public key."""
    home = tmp_path_factory.mktemp("home")
    asyncio.run(sign_to_the_end(stack, tenant))
    stack.command("audit", "export", tenant, "--out", str(home / "audit.jsonl"))
    stack.command("audit", "public-key", "--out", str(home / "key.pem"))
    return home


def test_export_of_the_command_verifies_with_the_public_key_alone(stack, tenant, home):
    found = verdict(home, "audit.jsonl", "--public-key", "key.pem")
    assert (found["intact"], found["problem"], found["signature"]) == (True, None, "verified")
    assert found["tenant_id"] == tenant
    assert 0 < found["signed"] < found["events"]  # the export is recorded before it is written
    assert found["events"] == (home / "audit.jsonl").read_bytes().count(b"\n") - 2
    shown = verify(home, "audit.jsonl", as_json=False)
    assert shown.returncode == 0
    assert "signature: NOT CHECKED" in shown.stdout
    assert f"fingerprint {found['fingerprint']}" in shown.stdout
    assert PlatformQueries(stack.database()).audit_keys() == TransitAuditSigner(stack.vault()).public_keys()


def test_downloads_of_the_dashboard_verify_with_the_same_key(stack, tenant, home):
    for name, query in (("selection.jsonl", "?text=boundary"), ("downloaded.jsonl", "")):
        address = f"{stack.settings.dashboard_url}/tenant/{tenant}/audit.jsonl{query}"
        answer = httpx2.get(address, cookies=cookie(stack, tenant, UMA), timeout=30)
        assert answer.status_code == 200
        (home / name).write_bytes(answer.content)
    later = verdict(home, "downloaded.jsonl", "--public-key", "key.pem", "--against", "audit.jsonl")
    assert (later["intact"], later["signature"]) == (True, "verified")
    assert later["against"]["same"] == verdict(home, "audit.jsonl")["events"]
    part = verdict(home, "selection.jsonl", "--public-key", "key.pem", "--against", "downloaded.jsonl")
    assert (part["intact"], part["against"]["only_here"]) == (True, 0)


def test_changed_and_rewritten_streams_are_rejected(home):
    """The lower layers change every bit, line and record; here one change of each kind is made in a real export."""
    export = (home / "audit.jsonl").read_bytes()

    def problem(content: bytes) -> str:
        (home / "altered.jsonl").write_bytes(content)
        found = verdict(home, "altered.jsonl", "--public-key", "key.pem")
        assert not found["intact"]
        return str(found["problem"])

    place = len(export) // 2
    flipped = export[:place] + bytes([export[place] ^ 1]) + export[place + 1 :]
    line = export[:place].count(b"\n") + 1
    assert f"line {line}" in problem(flipped)

    # A holder of the file can change a text and chain every record again, but cannot sign the result.
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
        (header.signed_head, f"record {signed} is not the one that was signed"),
        (head, "the signature is not by the public key"),
    ):
        new_header = header.model_copy(update={"signed_head": signed_head})
        lines = export_lines(new_header, [[(one, None) for one in forged]], lambda _number: None)
        assert says in problem("".join(lines).encode())
    compared = verdict(home, "audit.jsonl", "--against", "altered.jsonl")
    assert compared["problem"].endswith("not the same in both files")
