"""`openkcm audit` for operators and scripts: with a real database, and on a machine that has only the files."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cli.__main__ import main
from database.connection.database import Database
from database.offboarding import ErasureCertificateRow
from openkcm.verification.erasure_certificate import shred_message, statement_text
from openkcm.verification.public_keys import PublicKeys
from tests.cli.audit import offline
from tests.core.proving import (
    FINGERPRINT,
    KEYS,
    TENANT,
    a_certificate,
    a_file,
    a_head,
    a_header,
    a_selection,
    a_statement,
    a_stream,
    an_export,
)
from tests.database.fixtures import Field
from tests.database.signing import SIGNER, Signer


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with files that were created without a database."""
    (tmp_path / "audit.jsonl").write_bytes(an_export(5, signed=4))
    (tmp_path / "later.jsonl").write_bytes(an_export(8))
    (tmp_path / "certificate.json").write_bytes(a_certificate(a_stream(5)))
    (tmp_path / "key.pem").write_text(KEYS.file())
    return tmp_path


# ── export ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_export_verifies_offline_with_the_public_key(stand: Path, run: Any) -> None:
    status, exported = run("export", TENANT, "--out", str(stand / "audit.jsonl"))
    assert (status, exported["events"], exported["signed"]) == (0, 22, 21)  # one record is that of the export
    assert (exported["key"], exported["fingerprint"]) == ("audit:1", FINGERPRINT)
    assert (stand / "audit.jsonl").stat().st_mode & 0o777 == 0o600
    _, keys = run("public-key", "--out", str(stand / "key.pem"))
    assert keys["keys"] == [{"key": "audit:1", "fingerprint": FINGERPRINT, "pem": SIGNER.public_keys()["audit:1"]}]
    found = offline.verdict(stand, "audit.jsonl", "--public-key", "key.pem")
    assert (found["events"], found["intact"], found["problem"]) == (22, True, None)
    assert (found["signature"], found["signed"], found["tenant_id"]) == ("verified", 21, TENANT)


def test_an_ocsf_export_states_that_it_is_not_verifiable(stand: Path, run: Any) -> None:
    status, document = run("export", TENANT, "--format", "ocsf", "--out", str(stand / "audit.ocsf"))
    assert (status, document["events"], document["verifiable"]) == (0, 22, False)
    events = [json.loads(line) for line in (stand / "audit.ocsf").read_text().splitlines()]
    assert [one["metadata"]["sequence"] for one in events] == list(range(1, 23))
    assert all("openkcmctl audit export" in one["unmapped"]["verifiable"] for one in events)
    assert offline.verdict(stand, "audit.ocsf")["problem"].startswith("line 1 is the start of neither")


def test_an_altered_stream_is_exported_unchanged_and_verification_names_the_record(
    stand: Path, run: Any, field: Field
) -> None:
    """An altered stream is evidence, so it must be exportable."""
    with field.administrator() as administrator:
        administrator.execute("alter table okcm.audit_event disable trigger append_only")
        administrator.execute("delete from okcm.audit_event where seq = 7")
    assert run("export", TENANT, "--out", str(stand / "audit.jsonl"))[1]["events"] == 21
    found = offline.verdict(stand, "audit.jsonl")
    assert (found["events"], found["problem"]) == (6, "record 7 is missing or out of order (line 8)")


def test_public_keys_are_printed_in_the_format_of_the_file(stand: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stand.exists()
    assert main(["audit", "public-key"]) == 0
    assert PublicKeys.read(capsys.readouterr().out).file() == KEYS.file()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("export", TENANT, "--out", "taken"), "file_refused"),
        (("export", TENANT, "--out", "nowhere/audit.jsonl"), "file_refused"),
        (("export", "unknown-corp", "--out", "file"), "tenant_unknown"),
        (("erasure-certificate", "unknown-corp", "--out", "file"), "tenant_unknown"),
        (("erasure-certificate", TENANT, "--out", "file"), "erasure_certificate_not_found"),
    ],
)
def test_a_rejected_export_neither_writes_nor_overwrites_a_file(
    stand: Path, run: Any, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: str
) -> None:
    monkeypatch.chdir(stand)
    (stand / "taken").write_text("the evidence")
    status, document = run(*words)
    assert (status, document["error"]["code"]) == (1, code)
    assert [(file.name, file.read_text()) for file in stand.iterdir()] == [("taken", "the evidence")]


def test_an_export_without_a_database_leaves_no_file(stand: Path, run: Any, field: Field) -> None:
    with field.server.offline(field.name):
        status, document = run("export", TENANT, "--out", str(stand / "audit.jsonl"))
    assert (status, document["error"]["code"]) == (1, "database_unavailable")
    assert list(stand.iterdir()) == []


def test_the_stored_certificate_verifies_offline_and_against_the_stream(
    stand: Path, run: Any, worker: Database
) -> None:
    with worker.tenant_tx(TENANT) as tx:
        text = statement_text(a_statement(list(tx.audit.records())))
        tx.leaving.certify(ErasureCertificateRow(text, *SIGNER.sign(shred_message(TENANT, text)), datetime.now(UTC)))
    status, document = run("erasure-certificate", TENANT, "--out", str(stand / "certificate.json"))
    assert (status, document["key"]) == (0, "audit:1")
    run("export", TENANT, "--out", str(stand / "audit.jsonl"))
    run("public-key", "--out", str(stand / "key.pem"))
    words = ("certificate.json", "--public-key", "key.pem", "--against", "audit.jsonl")
    found = offline.verdict(stand, *words)
    assert (found["intact"], found["kind"], found["signature"]) == (True, "erasure certificate", "verified")
    assert found["against"] == {"same": 1, "only_here": 0, "only_there": 23}


@pytest.mark.usefixtures("secrets_folder")
def test_without_a_recorded_key_none_is_returned(run: Any) -> None:
    status, document = run("public-key")
    assert (status, document["error"]["code"]) == (1, "public_key_refused")


# ── offline verification ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.integration
def test_verification_without_a_key_states_that_no_signature_was_checked(files: Path) -> None:
    found = offline.verdict(files, "audit.jsonl")
    assert (found["intact"], found["signature"], found["fingerprint"]) == (True, "not checked", FINGERPRINT)
    shown = offline.verify(files, "audit.jsonl", as_json=False)
    assert "signature: NOT CHECKED, no public key was given" in shown.stdout
    assert f"audit:1, fingerprint {FINGERPRINT}" in shown.stdout
    assert "records 5 to 5 came after the signed one" in shown.stdout
    assert "not in the file" in offline.verify(files, "certificate.json", as_json=False).stdout


def flip(file: Path, what: bytes) -> None:
    """Flip one bit of a file at the first place of a text."""
    whole = file.read_bytes()
    place = whole.index(what) + len(what) - 1
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])


@pytest.mark.integration
def test_verification_of_a_flipped_bit_fails_with_status_1_and_the_record(files: Path) -> None:
    flip(files / "audit.jsonl", b"ssel 3")
    shown = offline.verify(files, "audit.jsonl", "--public-key", "key.pem", as_json=False)
    assert shown.returncode == 1
    assert "NOT INTACT: audit export of acme-corp-12345" in shown.stdout
    assert "record 3 was altered (line 4)" in shown.stderr
    flip(files / "certificate.json", b"L2 tenant key")
    found = offline.verdict(files, "certificate.json")
    assert (found["intact"], found["error"]["code"]) == (False, "erasure_certificate_invalid")
    assert found["problem"] == "the part statement was altered: its checksum does not match"


def test_a_file_of_neither_kind_is_reported(files: Path, run: Any) -> None:
    for content in (b"", b"x", b"\0" * 100, b'{"format', b"[" * 100_000, b'{"kex":"', b"\n\n"):
        (files / "other").write_bytes(content)
        status, found = run("verify", str(files / "other"), "--public-key", str(files / "key.pem"))
        assert (status, found["intact"], found["events"]) == (1, False, 0)
        assert "line 1" in found["problem"]


def test_an_oversized_line_is_not_read_completely(files: Path, run: Any) -> None:
    with (files / "audit.jsonl").open("ab") as file:
        file.truncate(200_000_000)
    _, found = run("verify", str(files / "audit.jsonl"))
    assert found["problem"] == "line 8 follows the last line"


def test_two_files_of_one_stream_are_compared_record_by_record(files: Path, run: Any) -> None:
    whole = (files / "later.jsonl").read_bytes()
    altered = whole.replace("Schlüssel 7".encode(), "Schlüssel 1".encode())
    for name, content in (
        ("rewritten", an_export(8, subject="harmless")),
        ("altered", altered),
        ("other", an_export(3).replace(TENANT.encode(), b"beta-corp-12345")),
    ):
        (files / name).write_bytes(content)

    def against(file: str, other: str) -> Any:
        return run("verify", str(files / file), "--against", str(files / other))[1]

    assert against("audit.jsonl", "later.jsonl")["against"] == {"same": 5, "only_here": 0, "only_there": 3}
    assert against("certificate.json", "later.jsonl")["against"] == {"same": 1, "only_here": 0, "only_there": 7}
    for file, other, problem in (
        ("certificate.json", "rewritten", "record 5 differs between the files"),
        ("audit.jsonl", "rewritten", "record 1 differs between the files"),
        ("audit.jsonl", "altered", "the file to compare with is not intact: record 7 was altered (line 8)"),
    ):
        found = against(file, other)
        assert (found["intact"], found["problem"]) == (False, problem)
    assert not against("audit.jsonl", "other")["intact"]


def test_a_selection_is_signed_only_together_with_a_whole_export(
    files: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    words = ("verify", "selection.jsonl", "--public-key", "key.pem")
    Path("selection.jsonl").write_bytes(a_selection(a_stream(8), 2, 5))
    assert "a selection is not bound to its checkpoint" in run(*words)[1]["problem"]
    _, found = run(*words, "--against", "later.jsonl")
    assert (found["intact"], found["signed"], found["selection"]) == (True, 8, {"text": "x"})
    Path("selection.jsonl").write_bytes(a_selection(a_stream(8), 2, 7))
    _, beyond = run(*words, "--against", "audit.jsonl")
    assert "does not have 1 of the selection's records" in beyond["problem"]
    _, beside = run(*words, "--against", "certificate.json")
    assert "a selection is not bound to its checkpoint" in beside["problem"]
    assert beyond["outcome"] == beside["outcome"] == "could-not-check"


def test_an_unreadable_file_or_key_is_rejected(files: Path, run: Any) -> None:
    export, missing = str(files / "audit.jsonl"), str(files / "missing")
    (files / "no-key.pem").write_text("not a key")
    for words, code in (
        ((missing,), "file_refused"),
        ((export, "--public-key", missing), "file_refused"),
        ((str(files),), "file_refused"),
        ((export, "--public-key", str(files / "no-key.pem")), "public_key_refused"),
    ):
        status, document = run("verify", *words)
        assert (status, document["error"]["code"]) == (3, code)


def test_tampering_another_key_and_a_missing_key_are_distinguished(files: Path, run: Any) -> None:
    """Every installation uses the same key names, so only the fingerprint distinguishes another installation's key."""
    for name, signer in (("other.pem", Signer()), ("later-key.pem", Signer("audit:2"))):
        (files / name).write_text(PublicKeys(signer.public_keys()).file())
    (files / "altered.jsonl").write_bytes((files / "audit.jsonl").read_bytes().replace(b"ssel 3", b"ssel 9"))

    def found(file: str, key: str) -> tuple[Any, ...]:
        status, document = run("verify", str(files / file), "--public-key", str(files / key))
        return status, document["outcome"], document["signature"], document["error"]["code"]

    for key in ("key.pem", "other.pem"):
        assert found("altered.jsonl", key) == (1, "refuted", "not reached", "audit_chain_invalid")
    for key in ("other.pem", "later-key.pem"):
        assert found("audit.jsonl", key) == (3, "could-not-check", "unknown key", "signing_key_unknown")
    assert found("certificate.json", "later-key.pem") == (3, "could-not-check", "unknown key", "signing_key_unknown")
    assert found("certificate.json", "other.pem") == (1, "refuted", "refused", "erasure_certificate_invalid")


@pytest.mark.integration
def test_the_text_output_states_why_a_signature_was_not_checked(files: Path) -> None:
    (files / "other.pem").write_text(PublicKeys(Signer().public_keys()).file())
    shown = offline.verify(files, "audit.jsonl", "--public-key", "other.pem", as_json=False)
    assert "COULD NOT CHECK: audit export" in shown.stdout
    assert f"its key is not among the given public keys; the file names the key audit:1, fingerprint {FINGERPRINT}" in (
        shown.stdout
    )
    flip(files / "audit.jsonl", b"ssel 3")
    shown = offline.verify(files, "audit.jsonl", "--public-key", "key.pem", as_json=False)
    assert "signature: NOT CHECKED, the file is not intact" in shown.stdout
    assert "no public key was given" not in shown.stdout


def test_a_summary_lists_the_contents_and_the_result_of_the_verification(files: Path, run: Any) -> None:
    words = ("--public-key", str(files / "key.pem"), "--summary")
    assert run("verify", str(files / "later.jsonl"), *words, str(files / "export.txt"))[0] == 0
    report = (files / "export.txt").read_text()
    assert f"signature: verified, by the key audit:1, fingerprint {FINGERPRINT}" in report
    assert "From 2026-11-25T12:00:01.000000Z to 2026-11-25T12:00:08.000000Z" in report
    assert "       8  crypto.used" in report
    assert run("verify", str(files / "certificate.json"), *words, str(files / "shred.txt"))[0] == 0
    report = (files / "shred.txt").read_text()
    for text in ("L2 tenant key  L2-acme-corp-12345-primary  versions 1-2", "3  service_key", "für den Nachweis"):
        assert text in report
    assert "backups of PostgreSQL, until 2026-12-25" in report


def test_a_summary_of_an_altered_file_contains_no_figures(files: Path, run: Any) -> None:
    whole = (files / "later.jsonl").read_bytes()
    (files / "later.jsonl").write_bytes(whole.replace("Schlüssel 7".encode(), "Schlüssel 1".encode()))
    assert run("verify", str(files / "later.jsonl"), "--summary", str(files / "report.txt"))[0] == 1
    report = (files / "report.txt").read_text()
    assert "problem: record 7 was altered (line 8)" in report
    assert "crypto.used" not in report


@pytest.mark.integration
def test_control_characters_of_a_file_are_escaped_in_the_output(files: Path) -> None:
    records, hostile = a_stream(1), "\x1b[31m\u202e"
    head = a_head(records[0]).model_copy(update={"key": hostile})
    header = a_header(records, head, selection={hostile: hostile})
    (files / "audit.jsonl").write_bytes(a_file(header, records))
    for words in (("audit.jsonl",), ("audit.jsonl", "--public-key", "key.pem")):
        shown = offline.verify(files, *words, as_json=False)
        assert "audit export of acme-corp-12345" in shown.stdout
        assert not {"\x1b", "\u202e"} & set(shown.stdout + shown.stderr)
