"""The crypto-shred certificate: what was destroyed when a tenant left, what remains and until when, signed.

It is made once, at the end of leaving, and is the last thing the platform says about the tenant. The statement is a
JSON text and the signature is over exactly that text, by the key that signs heads of audit streams, so whoever has the
file and the platform's public key needs nothing else. It names the end of the audit stream by number and hash: an
export of that stream, kept beside it, shows each step that led to it.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from openkcm.errors import CertificateBroken
from openkcm.verification.results import Kind, SignatureCheck, SignatureState, VerificationResult, signature_state
from openkcm.verification.signed_document import (
    InvalidDocument,
    SignedText,
    canonical_text,
    read_document,
    statement_of,
    write_document,
)

LONGEST_DOCUMENT = 4_000_000
"""Bytes of the largest document that is read: some thousand services with all their versions are a tenth of that."""

DestroyedKind = Literal[
    "L2 tenant key", "service key", "payload key", "certificate authority key", "service certificate"
]


class Destroyed(BaseModel):
    """Something that opens nothing any more. `fingerprint` is SHA-256 of what identified it, never of key material."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: DestroyedKind
    name: str
    versions: str
    fingerprint: str = Field(pattern="^[0-9a-f]{64}$")
    destroyed_at: AwareDatetime


class Remains(BaseModel):
    """What is there still, in backups for instance, and until when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: str
    until: str


class ErasureStatement(BaseModel):
    """`erased` is rows by table; `kept` says what is kept of the tenant, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["openkcm-shred/1"] = "openkcm-shred/1"
    tenant_id: str
    issued_at: AwareDatetime
    grace_began_at: AwareDatetime
    destroyed: tuple[Destroyed, ...]
    erased: dict[str, int]
    kept: dict[str, str]
    remains: tuple[Remains, ...]
    audit_seq: int = Field(gt=0, le=2**63 - 1)
    audit_hash: str = Field(pattern="^[0-9a-f]{64}$")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A document that was read: what it states, the text that was signed, the signature and the key's name."""

    statement: ErasureStatement
    text: str
    signature: str
    key: str


def statement_text(statement: ErasureStatement) -> str:
    """Return exactly what is signed: one statement has one text, whoever writes it and whenever."""
    return canonical_text(statement.model_dump(mode="json"))


def shred_message(tenant_id: str, text: str) -> bytes:
    """Return what the audit signing key signs: it begins unlike a head, so neither can be passed off as the other."""
    return f"openkcm-shred-certificate/1 {tenant_id} {hashlib.sha256(text.encode()).hexdigest()}".encode()


def certificate_file(text: str, signature: str, key: str) -> str:
    """Return the document: the signed text, the signature (base64 of the DER form) and the key (`name:version`)."""
    return write_document(SignedText(text, signature, key))


def read_certificate(document: bytes) -> Certificate:
    """Return what a document holds. Its signature is not looked at: that is for `verify_certificate`.

    Raises:
        CertificateBroken: it is not exactly as `certificate_file` wrote it; the message names the part.
    """
    try:
        signed = read_document(document, LONGEST_DOCUMENT, Kind.CERTIFICATE)
        statement = statement_of(signed, ErasureStatement, statement_text)
    except InvalidDocument as broken:
        raise CertificateBroken(str(broken)) from None
    return Certificate(statement, signed.text, signed.signature, signed.key)


def verify_certificate(
    document: bytes, check: SignatureCheck | None
) -> tuple[VerificationResult, ErasureStatement | None]:
    """Return what is to be said of a document, and the statement where it could be read.

    The events of a certificate are the destructions that it lists. Without `check` the signature is not looked at.
    """
    try:
        found = read_certificate(document)
    except CertificateBroken as broken:
        return VerificationResult(Kind.CERTIFICATE, problem=broken.message), None
    statement = found.statement
    checked = (
        None if check is None else check(found.key, shred_message(statement.tenant_id, found.text), found.signature)
    )
    problem, state = None, SignatureState.NOT_CHECKED
    if checked is not None:
        state = signature_state(checked)
        problem = None if checked.problem is None else f"the part signature: {checked.problem}"
    verdict = VerificationResult(
        Kind.CERTIFICATE,
        statement.tenant_id,
        events=len(statement.destroyed),
        problem=problem,
        signature=state,
        signed=statement.audit_seq,
        key=found.key,
        fingerprint="" if checked is None else checked.fingerprint,
        incomplete=checked is not None and checked.unknown_key,
    )
    return verdict, statement
