"""The crypto-shred certificate: what was destroyed when a tenant left, what remains and until when, signed.

It is made once, at the end of leaving, and is the last thing the platform says about the tenant. The statement is a
JSON text and the signature is over exactly that text, by the key that signs heads of audit streams, so whoever has the
file and the platform's public key needs nothing else. It names the end of the audit stream by number and hash: an
export of that stream, kept beside it, shows each step that led to it.

The document also has a checksum of each of its parts. They prove nothing, anybody can compute them; they tell which
part was damaged, and that one was where there is no public key at hand.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from tenancy.errors import CertificateBroken
from tenancy.proofs import Kind, SignatureCheck, SignatureState, Verdict, differs_at

LONGEST_DOCUMENT = 4_000_000
"""Bytes of the largest document that is read: some thousand services with all their versions are a tenth of that."""

_PARTS = ("statement", "signature", "key")

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


class ShredStatement(BaseModel):
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

    statement: ShredStatement
    text: str
    signature: str
    key: str


def statement_text(statement: ShredStatement) -> str:
    """Return exactly what is signed: one statement has one text, whoever writes it and whenever."""
    return _json(statement.model_dump(mode="json"))


def shred_message(tenant_id: str, text: str) -> bytes:
    """Return what the audit signing key signs: it begins unlike a head, so neither can be passed off as the other."""
    return f"openkcm-shred-certificate/1 {tenant_id} {hashlib.sha256(text.encode()).hexdigest()}".encode()


def certificate_file(text: str, signature: str, key: str) -> str:
    """Return the document: the signed text, the signature (base64 of the DER form) and the key (`name:version`)."""
    parts = dict(zip(_PARTS, (text, signature, key), strict=True))
    return f"{_json({**parts, 'sha256': {name: _checksum(part) for name, part in parts.items()}})}\n"


def read_certificate(document: bytes) -> Certificate:
    """Return what a document holds. Its signature is not looked at: that is for `verify_certificate`.

    Raises:
        CertificateBroken: it is not exactly as `certificate_file` wrote it; the message names the part.
    """
    if len(document) > LONGEST_DOCUMENT:
        raise CertificateBroken("the file is longer than any crypto-shred certificate")
    try:
        written = document.decode()
        fields = json.loads(written)
    except UnicodeDecodeError as failed:
        raise CertificateBroken(f"the file is not text (byte {failed.start + 1})") from None
    except json.JSONDecodeError as failed:
        raise CertificateBroken(f"the file is not JSON (character {failed.pos + 1})") from None
    except (ValueError, RecursionError):
        raise CertificateBroken("the file is not JSON") from None
    text, signature, key = _parts(fields)
    canonical = certificate_file(text, signature, key)
    if canonical != written:
        at = differs_at(written, canonical)
        raise CertificateBroken(f"the file is not as it was written: it differs at character {at}")
    return Certificate(_statement(text), text, signature, key)


def verify_certificate(document: bytes, check: SignatureCheck | None) -> tuple[Verdict, ShredStatement | None]:
    """Return what is to be said of a document, and the statement where it could be read.

    The events of a certificate are the destructions that it lists. Without `check` the signature is not looked at.
    """
    try:
        found = read_certificate(document)
    except CertificateBroken as broken:
        return Verdict(Kind.CERTIFICATE, problem=broken.message), None
    statement = found.statement
    checked = (
        None if check is None else check(found.key, shred_message(statement.tenant_id, found.text), found.signature)
    )
    problem, state = None, SignatureState.NOT_CHECKED
    if checked is not None:
        state = SignatureState.VERIFIED if checked.problem is None else SignatureState.REFUSED
        problem = None if checked.problem is None else f"the part signature: {checked.problem}"
    verdict = Verdict(
        Kind.CERTIFICATE,
        statement.tenant_id,
        events=len(statement.destroyed),
        problem=problem,
        signature=state,
        signed=statement.audit_seq,
        key=found.key,
        fingerprint="" if checked is None else checked.fingerprint,
    )
    return verdict, statement


def _parts(fields: object) -> tuple[str, str, str]:
    """Return the parts, each of which fits its checksum."""
    if not isinstance(fields, dict) or fields.keys() != {*_PARTS, "sha256"}:
        raise CertificateBroken("the file does not have the parts of a crypto-shred certificate")
    parts, checksums = [fields[name] for name in _PARTS], fields["sha256"]
    if not isinstance(checksums, dict) or checksums.keys() != set(_PARTS):
        raise CertificateBroken("the part sha256 does not have a checksum of each other part")
    for name, part in zip(_PARTS, parts, strict=True):
        if not isinstance(part, str) or _checksum(part) != checksums[name]:
            raise CertificateBroken(f"the part {name} was altered: it does not fit its checksum")
    statement, signature, key = parts
    return statement, signature, key


def _statement(text: str) -> ShredStatement:
    try:
        statement = ShredStatement.model_validate_json(text)
    except ValidationError as failed:
        place = ".".join(str(part) for part in failed.errors()[0]["loc"])
        raise CertificateBroken(f"the part statement is not one: {place or 'no JSON'}") from None
    if (canonical := statement_text(statement)) != text:
        raise CertificateBroken(f"the part statement differs at character {differs_at(text, canonical)}")
    return statement


def _checksum(part: str) -> str:
    """Return the SHA-256 of a part; a lone surrogate, which no text of ours holds, has one as well."""
    return hashlib.sha256(part.encode(errors="surrogatepass")).hexdigest()


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
