"""Builders of files for verification tests, written by the product's writers and signed with a test key."""

import io
import json
from collections.abc import Iterable
from datetime import UTC, datetime

from openkcm.contract.audit_events import GENESIS, StoredRecord, archive_message, head_message
from openkcm.verification.audit_export import ArchiveStatement, Checkpoint, ExportHeader, export_lines
from openkcm.verification.erasure_certificate import (
    Destroyed,
    ErasureStatement,
    Remains,
    certificate_file,
    shred_message,
    statement_text,
)
from openkcm.verification.public_keys import PublicKeys
from tests.compliance.reports.sample import chained
from tests.database.signing import SIGNER, Signer

TENANT = "acme-corp-12345"
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
KEYS = PublicKeys(SIGNER.public_keys())
FINGERPRINT = KEYS.fingerprint(SIGNER.name)


def a_stream(length: int, tenant_id: str = TENANT, subject: str = "Schlüssel") -> list[StoredRecord]:
    texts = []
    for seq in range(1, length + 1):
        fields = {"seq": seq, "name": "crypto.used", "subject": f"{subject} {seq}", "tenant_id": tenant_id}
        texts.append(json.dumps(fields | {"time": f"2026-11-25T12:00:{seq % 60:02}.000000Z"}, ensure_ascii=False))
    return chained(texts)


def stream_of_subjects(subjects: Iterable[str], *, ensure_ascii: bool = False) -> list[StoredRecord]:
    """Return a stream of minimal records that contain their sequence number."""
    records = ({"seq": seq, "subject": subject} for seq, subject in enumerate(subjects, start=1))
    return chained([json.dumps(record, ensure_ascii=ensure_ascii) for record in records])


def a_head(record: StoredRecord, tenant_id: str = TENANT, signer: Signer = SIGNER) -> Checkpoint:
    signature, key = signer.sign(head_message(tenant_id, record.seq, record.chain_hash))
    return Checkpoint(
        seq=record.seq,
        chain_hash=record.chain_hash.hex(),
        signature=signature,
        key=key,
        fingerprint=PublicKeys(signer.public_keys()).fingerprint(key),
    )


def an_archive_statement(
    record: StoredRecord, message: bytes | None = None, signer: Signer = SIGNER
) -> ArchiveStatement:
    """Return the statement that a file with the SHA-256 "00…" contains the records up to this one."""
    signed = message or archive_message(TENANT, record.seq, record.chain_hash, bytes(32))
    signature, key = signer.sign(signed)
    return ArchiveStatement(
        seq=record.seq,
        chain_hash=record.chain_hash.hex(),
        sha256=bytes(32).hex(),
        signature=signature,
        key=key,
        fingerprint=PublicKeys(signer.public_keys()).fingerprint(key),
    )


def a_header(records: list[StoredRecord], signed: Checkpoint | None, **changed: object) -> ExportHeader:
    header = ExportHeader(tenant_id=TENANT, exported_at=NOW, last_seq=len(records), signed_head=signed)
    return header.model_copy(update=changed)


def a_file(header: ExportHeader, records: list[StoredRecord], whole: list[StoredRecord] | None = None) -> bytes:
    """Return a file with these records; `whole` is the complete stream."""
    before = {one.seq + 1: one.chain_hash for one in whole or records} | {1: GENESIS}
    pieces = [[(one, before.get(one.seq)) for one in records]]
    return "".join(export_lines(header, pieces, lambda _number: None)).encode()


def an_export(length: int = 5, signed: int | None = None, signer: Signer = SIGNER, subject: str = "Schlüssel") -> bytes:
    """Return a complete export of `length` records; `signed` is the record of the checkpoint, 0 for none."""
    records, signed = a_stream(length, subject=subject), length if signed is None else signed
    return a_file(a_header(records, a_head(records[signed - 1], signer=signer) if signed else None), records)


def a_selection(records: list[StoredRecord], *numbers: int) -> bytes:
    header = a_header(records, a_head(records[-1]), selection={"text": "x"})
    return a_file(header, [records[number - 1] for number in numbers], records)


def a_statement(records: list[StoredRecord]) -> ErasureStatement:
    return ErasureStatement(
        tenant_id=TENANT,
        issued_at=NOW,
        grace_began_at=NOW,
        destroyed=(
            Destroyed(
                kind="L2 tenant key",
                name=f"L2-{TENANT}-primary",
                versions="1-2",
                fingerprint="ab" * 32,
                destroyed_at=NOW,
            ),
        ),
        erased={"service_key": 3, "managed_object": 2},
        kept={"audit_event": "für den Nachweis"},
        remains=(Remains(what="backups of PostgreSQL", until="2026-12-25"),),
        audit_seq=records[-1].seq,
        audit_hash=records[-1].chain_hash.hex(),
    )


def a_certificate(records: list[StoredRecord] | None = None, signer: Signer = SIGNER) -> bytes:
    text = statement_text(a_statement(records or a_stream(5)))
    return certificate_file(text, *signer.sign(shred_message(TENANT, text))).encode()


def with_flipped_bit(file: bytes, bit: int) -> bytes:
    altered = bytearray(file)
    altered[bit // 8] ^= 1 << bit % 8
    return bytes(altered)


def lines_of(file: bytes) -> list[bytes]:
    return list(io.BytesIO(file))  # by newlines alone, as the command reads
