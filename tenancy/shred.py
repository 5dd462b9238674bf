"""The statement of what was destroyed when a tenant left: its fields, its one text, and what is signed of it.

The text that is signed is the text that is kept and given out, so that nobody has to encode it a second time to verify
it. It is signed with the key of the audit heads, whose public halves are published.
"""

import hashlib
import json
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

DestroyedKind = Literal[
    "L2 tenant key", "service key", "payload key", "certificate authority key", "service certificate"
]


class Destroyed(BaseModel):
    """One thing that is gone; `fingerprint` (SHA-256, hex) is of what could be known of it."""

    model_config = ConfigDict(frozen=True)

    kind: DestroyedKind
    name: str
    versions: str
    fingerprint: str
    destroyed_at: datetime


class Remains(BaseModel):
    """What is not gone yet, and until when."""

    model_config = ConfigDict(frozen=True)

    what: str
    until: str


class ShredStatement(BaseModel):
    """What was destroyed, erased and kept of a tenant; `audit_seq` and `audit_hash` tie it to the tenant's stream."""

    model_config = ConfigDict(frozen=True)

    format: Literal["openkcm-shred/1"] = "openkcm-shred/1"
    tenant_id: str
    issued_at: datetime
    grace_began_at: datetime
    destroyed: tuple[Destroyed, ...]
    erased: dict[str, int]
    kept: dict[str, str]
    remains: tuple[Remains, ...]
    audit_seq: int
    audit_hash: str


def statement_text(statement: ShredStatement) -> str:
    """Return the statement as canonical JSON: exactly what is signed and kept."""
    fields = statement.model_dump(mode="json")
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def shred_message(tenant_id: str, text: str) -> bytes:
    """Return what is signed: the tenant and the text's hash in one unambiguous line."""
    return f"openkcm-shred-certificate/1 {tenant_id} {hashlib.sha256(text.encode()).hexdigest()}".encode()


def certificate_file(text: str, signature: str, key: str) -> str:
    """Return the document that is given to the customer."""
    return json.dumps({"statement": text, "signature": signature, "key": key}, ensure_ascii=False, indent=2) + "\n"
