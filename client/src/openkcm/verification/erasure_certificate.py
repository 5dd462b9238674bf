"""The erasure certificate: a signed statement of what was destroyed at the offboarding of a tenant, and what remains.

It is issued once, at the end of offboarding, as the last statement about the tenant. The signature covers exactly the
statement's JSON text, by the key that signs checkpoints of audit streams. The file and the platform's public key are
enough to verify it. It names the end of the audit stream by number and hash: an export of the stream shows each step.
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
"""Maximum size of a document in bytes; some thousand services with all their versions take a tenth of it."""

DestroyedKind = Literal[
    "L2 tenant key", "service key", "payload key", "certificate authority key", "service certificate"
]


class Destroyed(BaseModel):
    """A destroyed key or certificate. `fingerprint` is SHA-256 of what identified it, never of key material."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: DestroyedKind
    name: str
    versions: str
    fingerprint: str = Field(pattern="^[0-9a-f]{64}$")
    destroyed_at: AwareDatetime


class Remains(BaseModel):
    """What still exists, for example in backups, and until when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: str
    until: str


class ErasureStatement(BaseModel):
    """`erased` counts rows by table; `kept` states what is kept of the tenant, and why."""

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
    """A parsed document: its statement, the signed text, the signature and the key's name."""

    statement: ErasureStatement
    text: str
    signature: str
    key: str


def statement_text(statement: ErasureStatement) -> str:
    """Return the signed text; a statement has exactly one."""
    return canonical_text(statement.model_dump(mode="json"))


def shred_message(tenant_id: str, text: str) -> bytes:
    """Return the message to sign; its prefix differs from that of a checkpoint, so neither can replace the other."""
    return f"openkcm-shred-certificate/1 {tenant_id} {hashlib.sha256(text.encode()).hexdigest()}".encode()


def certificate_file(text: str, signature: str, key: str) -> str:
    """Return the document: the signed text, the signature (base64 of the DER form) and the key (`name:version`)."""
    return write_document(SignedText(text, signature, key))


def read_certificate(document: bytes) -> Certificate:
    """Return the content of a document without verifying its signature; see `verify_certificate`.

    Raises:
        CertificateBroken: it is not in the form that `certificate_file` writes; the message names the part.
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
    """Return the result for a document, and the statement if it could be read.

    The events of a certificate are its destructions. Without `check` the signature is not checked.
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
