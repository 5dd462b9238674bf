"""Attestation: a one-time join token, or a JWT that the platform's issuer signed.

Neither is passed on a command line, where other users of the machine could read it. A file is read again for each
enrolment, so an operator only has to replace it.
"""

import base64
import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import structlog

from openkcm.agent.errors import ProofUnreadable
from openkcm.contract import enrolment
from openkcm.contract.enrolment import parse_join_token
from openkcm.errors import InvalidName

JOIN_TOKEN_VARIABLE = "OPENKCM_JOIN_TOKEN"  # noqa: S105 - a name
JWT_VARIABLE = "OPENKCM_JWT"
_LONGEST = 16_384
_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_OTHERS = 0o077

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AttestationEvidence:
    """`kind` is its name in a request; a join token also names the tenant and the CA."""

    kind: str
    text: str = field(repr=False)
    tenant_id: str | None = None
    authority: str = ""
    """The first half of the SHA-256 of the CA certificate's DER, in hex; empty if the attestation names none."""

    @property
    def digest(self) -> str:
        """Return the digest by which a used attestation is recognised; the attestation itself is not stored."""
        return hashlib.sha256(self.text.encode()).hexdigest()


class Attestor(Protocol):
    def read(self) -> AttestationEvidence | None:
        """Return the present attestation, None if the source is empty; raises ProofUnreadable."""
        ...


def parse(text: str) -> AttestationEvidence | None:
    """Return the attestation in a text, None for an empty one; raises ProofUnreadable, which quotes nothing of it."""
    text = text.strip()
    if not text:
        return None
    with suppress(InvalidName):
        token = parse_join_token(text)
        return AttestationEvidence(enrolment.Proof.JOIN_TOKEN, text, token.tenant_id, token.ca_fingerprint)
    if _JWT.fullmatch(text) and len(text) <= _LONGEST and _is_signed(text):
        return AttestationEvidence(enrolment.Proof.JWT, text)
    raise ProofUnreadable


def _is_signed(text: str) -> bool:
    """Return whether the header names an algorithm; the control endpoint verifies claims and signature."""
    head = text.partition(".")[0]
    try:
        named = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except ValueError:
        return False
    return isinstance(named, dict) and str(named.get("alg", "none")).lower() != "none"


class FileAttestor:
    """A file that may be replaced at any time."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> AttestationEvidence | None:
        try:
            with self._file.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                text = file.read(_LONGEST + 1)
        except FileNotFoundError:
            return None
        except OSError as failed:
            raise ProofUnreadable(f"{self._file} cannot be read", "check its permissions") from failed
        if stat.S_IMODE(mode) & _OTHERS:
            log.warning("attestation file is readable by others", file=str(self._file))
        try:
            return parse(text.decode("ascii"))
        except UnicodeDecodeError:
            raise ProofUnreadable from None


class InlineAttestor:
    """An attestation given once, at the start."""

    def __init__(self, text: str) -> None:
        self._proof = parse(text)

    def read(self) -> AttestationEvidence | None:
        return self._proof


def proofs_from(
    file: Path | None,
    environment: MutableMapping[str, str],
    stdin: bool = False,  # noqa: FBT001, FBT002 - a flag of the command
) -> Attestor:
    """Return the source of attestations: a file, standard input, or the environment, which is then cleared."""
    given = [environment.pop(name, "") for name in (JOIN_TOKEN_VARIABLE, JWT_VARIABLE)]
    if stdin:
        return InlineAttestor(sys.stdin.read(_LONGEST + 1))
    if file is not None:
        return FileAttestor(file)
    return InlineAttestor(next(filter(None, given), ""))
