"""By what an agent proves which workload it is: a one-time join token, or a JWT that the platform's issuer signed.

Neither is ever on a command line, where other users of the machine could read it. A file is read anew at each need, so
that whoever makes a new token only has to put it there.
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

JOIN_TOKEN_VARIABLE = "KCM_JOIN_TOKEN"  # noqa: S105 - a name
JWT_VARIABLE = "KCM_JWT"
_LONGEST = 16_384
_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_OTHERS = 0o077

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AttestationEvidence:
    """`kind` is its name in a request; a join token says of which tenant it is and which authority is the right one."""

    kind: str
    text: str = field(repr=False)
    tenant_id: str | None = None
    authority: str = ""
    """The first half of the SHA-256 of the authority's DER, in hex; empty where the proof does not say."""

    @property
    def digest(self) -> str:
        """By what it is remembered that this proof was used; the proof itself is not kept."""
        return hashlib.sha256(self.text.encode()).hexdigest()


class Attestor(Protocol):
    def read(self) -> AttestationEvidence | None:
        """Return the proof there is now, None where there is none; raises ProofUnreadable."""
        ...


def parse(text: str) -> AttestationEvidence | None:
    """Return the proof a text is, None when it is empty; raises ProofUnreadable, which quotes nothing of it."""
    text = text.strip()
    if not text:
        return None
    with suppress(InvalidName):
        joined = parse_join_token(text)
        return AttestationEvidence(enrolment.Proof.JOIN_TOKEN, text, joined.tenant_id, joined.ca_fingerprint)
    if _JWT.fullmatch(text) and len(text) <= _LONGEST and _is_signed(text):
        return AttestationEvidence(enrolment.Proof.JWT, text)
    raise ProofUnreadable


def _is_signed(text: str) -> bool:
    """Whether the header names an algorithm; what is signed, and by whom, is for the control endpoint to judge."""
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
            with self._file.open("rb") as opened:
                mode = os.fstat(opened.fileno()).st_mode
                text = opened.read(_LONGEST + 1)
        except FileNotFoundError:
            return None
        except OSError as failed:
            raise ProofUnreadable(f"{self._file} cannot be read", "check who may read it") from failed
        if stat.S_IMODE(mode) & _OTHERS:
            log.warning("others may read the file with the proof", file=str(self._file))
        try:
            return parse(text.decode("ascii"))
        except UnicodeDecodeError:
            raise ProofUnreadable from None


class InlineAttestor:
    """What was given once, at the start."""

    def __init__(self, text: str) -> None:
        self._proof = parse(text)

    def read(self) -> AttestationEvidence | None:
        return self._proof


def proofs_from(
    file: Path | None,
    environment: MutableMapping[str, str],
    stdin: bool = False,  # noqa: FBT001, FBT002 - as a script says it
) -> Attestor:
    """Return where proofs come from: a file, standard input, or the environment, from which it is taken away."""
    given = [environment.pop(name, "") for name in (JOIN_TOKEN_VARIABLE, JWT_VARIABLE)]
    if stdin:
        return InlineAttestor(sys.stdin.read(_LONGEST + 1))
    if file is not None:
        return FileAttestor(file)
    return InlineAttestor(next(filter(None, given), ""))
