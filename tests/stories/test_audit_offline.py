"""My auditor takes a file and the public key home, and sees there, without us, whether a single bit was changed."""

import asyncio
import hashlib
import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from config import secrets
from tenancy.audit import GENESIS, StoredRecord, link
from tenancy.audit_export import ExportHeader, export_lines, read_export
from tenancy.shred import Destroyed, Remains, ShredStatement, certificate_file, shred_message, statement_text
from tests.cli.offline import verdict, verify
from tests.dashboard.people import cookie_of
from tests.stories.stack import PATIENCE_SECONDS, Stack
from vault.signer import TransitAuditSigner


async def sign_to_the_end(stack: Stack, tenant_id: str) -> None:
    """Ask for it until it is done: a look that runs already takes no order, and records may come meanwhile."""
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
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the auditor is: a folder, and nothing else of ours."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
async def export(stack: Stack, acme: str, home: Path) -> bytes:
    """ACME's stream, signed up to the record that it is handed out, with the public key beside it."""
    if not (home / "audit.jsonl").exists():
        await sign_to_the_end(stack, acme)
        stack.command("audit", "export", acme, "--out", str(home / "audit.jsonl"))
        stack.command("audit", "public-key", "--out", str(home / "key.pem"))
    return (home / "audit.jsonl").read_bytes()


def told(home: Path, content: bytes) -> str:
    """Return what is said to be wrong with another content of the file."""
    (home / "altered.jsonl").write_bytes(content)
    found = verdict(home, "altered.jsonl", "--public-key", "key.pem")
    assert not found["intact"]
    return str(found["problem"])


def records_of(export: bytes) -> tuple[ExportHeader, list[StoredRecord]]:
    header, records = read_export(export.splitlines(keepends=True))
    return header, [one.stored for one in records]


def file_of(header: ExportHeader, records: list[StoredRecord]) -> bytes:
    return "".join(export_lines(header, [[(one, None) for one in records]], lambda _number: None)).encode()


def signed_of(header: ExportHeader) -> int:
    """Return the last record that is signed; what came after it, the hand-out itself for one, nobody has signed yet."""
    assert header.signed_head is not None
    return header.signed_head.seq


def rechained(records: list[StoredRecord], old: str, new: str) -> list[StoredRecord]:
    """Change a text wherever it stands, and chain everything anew as whoever has the whole file can."""
    previous, chained = GENESIS, []
    for one in records:
        record = one.record.replace(old, new)
        previous = link(previous, record)
        chained.append(StoredRecord(one.seq, record, previous))
    return chained


def test_what_the_command_hands_out_verifies_where_there_is_nothing_else(acme, home, export):
    found = verdict(home, "audit.jsonl", "--public-key", "key.pem")
    assert (found["intact"], found["problem"], found["signature"]) == (True, None, "verified")
    assert found["tenant_id"] == acme
    assert 0 < found["signed"] < found["events"]  # that it is handed out is on record before it is
    assert found["events"] == export.count(b"\n") - 2


def test_what_the_dashboard_hands_out_verifies_with_the_same_command_and_key(stack, acme, home, export):
    assert export
    now = datetime.now(UTC)
    claims = {
        "iss": f"{stack.settings.dashboard_url}/dev-sign-on",
        "aud": stack.settings.oidc_client_id,
        "sub": "uma@acme.example",
        "name": "Uma",
        "iat": int(now.timestamp()),
        "exp": int((now + timedelta(hours=1)).timestamp()),
        "nonce": f"auditor-{now.timestamp()}",
        stack.settings.oidc_tenant_claim: acme,
        stack.settings.oidc_roles_claim: ["auditor"],
    }
    cookies = cookie_of(claims, stack.secret(secrets.DASHBOARD_COOKIE), stack.settings.dashboard_url)
    for name, query in (("selection.jsonl", "?text=boundary"), ("downloaded.jsonl", "")):
        address = f"{stack.settings.dashboard_url}/tenant/{acme}/audit.jsonl{query}"
        answer = httpx.get(address, cookies=cookies, timeout=30)
        assert answer.status_code == 200
        (home / name).write_bytes(answer.content)
    later = verdict(home, "downloaded.jsonl", "--public-key", "key.pem", "--against", "audit.jsonl")
    assert (later["intact"], later["signature"]) == (True, "verified")
    assert later["against"]["same"] == verdict(home, "audit.jsonl")["events"]
    part = verdict(home, "selection.jsonl", "--public-key", "key.pem", "--against", "downloaded.jsonl")
    assert (part["intact"], part["against"]["only_here"]) == (True, 0)


def test_without_the_key_it_is_said_that_the_signature_was_not_checked(home, export):
    assert export
    shown = verify(home, "audit.jsonl", as_json=False)
    fingerprint = verdict(home, "audit.jsonl", "--public-key", "key.pem")["fingerprint"]
    assert shown.returncode == 0
    assert "signature: NOT CHECKED" in shown.stdout
    assert f"fingerprint {fingerprint}" in shown.stdout


def test_a_flipped_bit_anywhere_is_found_in_its_line(home, export):
    places = random.Random(export[-100:]).sample(range(len(export) * 8), 12)  # noqa: S311 - places in a file
    for place in [0, len(export) * 8 - 1, *places]:
        altered = bytearray(export)
        altered[place // 8] ^= 1 << place % 8
        line = export[: place // 8].count(b"\n") + 1
        assert f"line {line}" in told(home, bytes(altered))


def test_what_is_cut_added_or_moved_is_found_with_its_place(home, export):
    lines = export.splitlines(keepends=True)
    header, records = records_of(export)
    swapped = [*lines[:3], lines[4], lines[3], *lines[5:]]
    assert told(home, b"".join(swapped)) == "record 3 is missing or out of order (line 4)"
    assert "breaks off after line" in told(home, export[: len(export) // 2].rpartition(b"\n")[0] + b"\n")
    signed = signed_of(header)
    assert f"record {signed}, which was signed, is missing" == told(
        home, file_of(header.model_copy(update={"last_seq": signed - 1}), records[: signed - 1])
    )
    more = json.dumps(json.loads(records[-1].record) | {"seq": len(records) + 1})
    appended = [*records, StoredRecord(len(records) + 1, more, link(records[-1].chain_hash, more))]
    assert f"record {len(records) + 1} comes after the end" in told(home, file_of(header, appended))


def test_an_old_head_does_not_cover_what_was_put_behind_it(home, export):
    header, records = records_of(export)
    more = json.dumps(json.loads(records[-1].record) | {"seq": len(records) + 1})
    appended = [*records, StoredRecord(len(records) + 1, more, link(records[-1].chain_hash, more))]
    longer = file_of(header.model_copy(update={"last_seq": len(appended)}), appended)
    (home / "altered.jsonl").write_bytes(longer)
    found = verdict(home, "altered.jsonl", "--public-key", "key.pem")
    assert (found["events"], found["signed"]) == (len(records) + 1, signed_of(header))
    shown = verify(home, "altered.jsonl", "--public-key", "key.pem", as_json=False)
    assert f"records {signed_of(header) + 1} to {len(appended)} came after the signed one" in shown.stdout


def test_a_whole_stream_written_anew_is_caught_by_the_signature(home, export):
    header, records = records_of(export)
    forged = rechained(records, '"outcome": "success"', '"outcome": "refused"')
    assert forged != records
    signed = signed_of(header)
    assert header.signed_head is not None
    assert told(home, file_of(header, forged)) == f"record {signed} is not the one that was signed"
    head = header.signed_head.model_copy(update={"chain_hash": forged[signed - 1].chain_hash.hex()})
    assert "the signature is not by the public key" in told(
        home, file_of(header.model_copy(update={"signed_head": head}), forged)
    )
    (home / "altered.jsonl").write_bytes(file_of(header.model_copy(update={"signed_head": head}), forged))
    assert verdict(home, "audit.jsonl", "--against", "altered.jsonl")["problem"].endswith("not the same in both files")


def test_the_crypto_shred_certificate_verifies_at_home_and_a_flipped_bit_in_it_is_found(stack, acme, home, export):
    _, records = records_of(export)
    now = datetime.now(UTC)
    name = f"L2-{acme}-primary"
    destroyed = Destroyed(
        kind="L2 tenant key",
        name=name,
        versions="1",
        fingerprint=hashlib.sha256(name.encode()).hexdigest(),
        destroyed_at=now,
    )
    statement = ShredStatement(
        tenant_id=acme,
        issued_at=now,
        grace_began_at=now - timedelta(days=30),
        destroyed=(destroyed,),
        erased={"service_key": 1},
        kept={"audit_event": "what was done stays provable"},
        remains=(Remains(what="backups", until="2026-12-31"),),
        audit_seq=records[-1].seq,
        audit_hash=records[-1].chain_hash.hex(),
    )
    text = statement_text(statement)
    document = certificate_file(text, *TransitAuditSigner(stack.vault()).sign(shred_message(acme, text))).encode()
    (home / "certificate.json").write_bytes(document)
    found = verdict(home, "certificate.json", "--public-key", "key.pem", "--against", "audit.jsonl")
    assert (found["intact"], found["signature"], found["against"]["same"]) == (True, "verified", 1)
    for place in random.Random(document[-100:]).sample(range(len(document) * 8), 12):  # noqa: S311 - places in a file
        altered = bytearray(document)
        altered[place // 8] ^= 1 << place % 8
        (home / "altered.json").write_bytes(bytes(altered))
        found = verdict(home, "altered.json", "--public-key", "key.pem")
        assert not found["intact"]
        assert found["problem"]


def test_the_public_keys_on_record_are_those_of_the_key_server(stack, export):
    assert export
    assert stack.database().audit_keys() == TransitAuditSigner(stack.vault()).public_keys()
