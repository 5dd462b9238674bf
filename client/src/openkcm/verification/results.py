"""What a proof that is checked away from us says: verdicts over audit exports and crypto-shred certificates.

Whoever checks one has the file and the platform's public keys, and need not believe anything else. Deciding is done
here and in `audit_verify` and `shred`; the one thing that needs a library, whether a signature is that of a key, is
passed in as a `SignatureCheck` (`openkcm.verification.public_keys` makes them).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class CheckedSignature:
    """The result of checking one. `fingerprint` is of the key it was checked with, `problem` None when it is valid.

    `unknown_key`: it was not checked, because the reader does not have the key that it names.
    """

    key: str
    fingerprint: str = ""
    problem: str | None = None
    unknown_key: bool = False


SignatureCheck = Callable[[str, bytes, str], CheckedSignature]
"""Checks (key name, message, signature) and never raises for what it is given: hostile files bring all three."""


class Kind(StrEnum):
    EXPORT = "audit export"
    CERTIFICATE = "crypto-shred certificate"
    NEITHER = "file of neither kind"


class SignatureState(StrEnum):
    """The state of a file's signature; docs/audit.md describes each for its reader."""

    VERIFIED = "verified"
    NOT_CHECKED = "not checked"
    """There is one, and no public key was given."""
    NOT_REACHED = "not reached"
    """A public key was given, and the file is refuted before its signature is checked."""
    UNKNOWN_KEY = "unknown key"
    """It names another key than those that were given."""
    MISSING = "missing"
    REFUSED = "refused"


class Outcome(StrEnum):
    """What verifying a file showed. `NOT_CHECKED`: something is missing, so it is neither of the other two."""

    INTACT = "intact"
    REFUTED = "refuted"
    NOT_CHECKED = "could-not-check"


@dataclass(frozen=True, slots=True)
class VerificationResult:
    """What checking a file found. `problem` names the place; None when nothing is wrong.

    `incomplete`: the problem is that something needed for the check is missing, and no finding against the file.

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
    incomplete: bool = False

    @property
    def intact(self) -> bool:
        """Whether nothing was found wrong; the caller MUST also look at `signature` before trusting the content."""
        return self.problem is None

    @property
    def outcome(self) -> Outcome:
        """What the command's exit status reports."""
        return outcome_of(self.problem, incomplete=self.incomplete)


def signature_state(checked: CheckedSignature) -> SignatureState:
    """Return the state of a signature that was to be checked."""
    if checked.problem is None:
        return SignatureState.VERIFIED
    return SignatureState.UNKNOWN_KEY if checked.unknown_key else SignatureState.REFUSED


def outcome_of(problem: str | None, *, incomplete: bool) -> Outcome:
    """Return the outcome of a verification that ended with `problem`."""
    if problem is None:
        return Outcome.INTACT
    return Outcome.NOT_CHECKED if incomplete else Outcome.REFUTED


def differs_at(text: str, expected: str) -> int:
    """Return the position, counted from one, of the first character that is not the expected one."""
    together = zip(text, expected, strict=False)
    return next((at for at, (one, other) in enumerate(together, 1) if one != other), min(len(text), len(expected)) + 1)
