"""What a proof that is checked away from us says: verdicts over audit exports and crypto-shred certificates.

Whoever checks one has the file and the platform's public keys, and need not believe anything else. Deciding is done
here and in `audit_verify` and `shred`; the one thing that needs a library, whether a signature is that of a key, is
passed in as a `SignatureCheck` (`config.public_keys` makes them).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class CheckedSignature:
    """What came of checking one. `fingerprint` is of the key it was checked with, `problem` None when it is valid."""

    key: str
    fingerprint: str = ""
    problem: str | None = None


SignatureCheck = Callable[[str, bytes, str], CheckedSignature]
"""Checks (key name, message, signature) and never raises for what it is given: hostile files bring all three."""


class Kind(StrEnum):
    EXPORT = "audit export"
    CERTIFICATE = "crypto-shred certificate"
    NEITHER = "file of neither kind"


class SignatureState(StrEnum):
    """Whether a signature stands behind a file. `NOT_CHECKED`: there is one, and no public key was given."""

    VERIFIED = "verified"
    NOT_CHECKED = "not checked"
    MISSING = "missing"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What checking a file found. `problem` names the place; None when nothing is wrong.

    `signed` is the last record the signature stands for: what comes after it is chained, but anybody could have
    written it. `fingerprint` is that of the key the signature was checked with, or, unchecked, the one the file names.
    """

    kind: Kind
    tenant_id: str = ""
    events: int = 0
    problem: str | None = None
    signature: SignatureState = SignatureState.MISSING
    signed: int = 0
    key: str = ""
    fingerprint: str = ""
    selection: Mapping[str, str] = field(default_factory=dict)

    @property
    def intact(self) -> bool:
        """Whether nothing was found wrong; the caller MUST also look at `signature` before trusting the content."""
        return self.problem is None


def differs_at(text: str, expected: str) -> int:
    """Return the position, counted from one, of the first character that is not the expected one."""
    together = zip(text, expected, strict=False)
    return next((at for at, (one, other) in enumerate(together, 1) if one != other), min(len(text), len(expected)) + 1)
