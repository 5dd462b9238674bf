"""Results of offline verification of audit exports and erasure certificates.

A verifier needs the file and the platform's public keys, and trusts nothing else. The decisions are made here and in
`audit_export` and `erasure_certificate`. Only the signature check needs a library; it is passed in as a
`SignatureCheck` (created by `openkcm.verification.public_keys`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class CheckedSignature:
    """The result of a signature check. `fingerprint` identifies the key that was used; a valid one has no `problem`.

    `unknown_key`: the signature was not checked, because the verifier lacks the key that it names.
    """

    key: str
    fingerprint: str = ""
    problem: str | None = None
    unknown_key: bool = False


SignatureCheck = Callable[[str, bytes, str], CheckedSignature]
"""Checks (key name, message, signature) and never raises for invalid input: all three can come from a hostile file."""


class Kind(StrEnum):
    EXPORT = "audit export"
    CERTIFICATE = "erasure certificate"
    NEITHER = "file of neither kind"


class SignatureState(StrEnum):
    """The state of a file's signature; docs/audit.md describes each state."""

    VERIFIED = "verified"
    NOT_CHECKED = "not checked"
    """The file has a signature, and no public key was given."""
    NOT_REACHED = "not reached"
    """A public key was given, and the file was refuted before its signature was checked."""
    UNKNOWN_KEY = "unknown key"
    """The signature names a key that was not given."""
    MISSING = "missing"
    REFUSED = "refused"


class Outcome(StrEnum):
    """The outcome of a verification. `NOT_CHECKED`: an input is missing, so the file is neither of the other two."""

    INTACT = "intact"
    REFUTED = "refuted"
    NOT_CHECKED = "could-not-check"


@dataclass(frozen=True, slots=True)
class VerificationResult:
    """The result of a verification. `problem` names the position; None if the file is intact.

    `incomplete`: an input for the check is missing, which does not refute the file.

    `archived` is the number of the last record before the file, which archive files contain; 0 if it begins with the
    first. `events` counts the records of the file.

    `signed` is the last record that the signature covers: later records are chained, but an attacker could have written
    them. `fingerprint` identifies the key of the signature check or, without a check, the key that the file names.
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
    archived: int = 0

    @property
    def last(self) -> int:
        """The number of the last record of a whole stream."""
        return self.archived + self.events

    @property
    def intact(self) -> bool:
        """Whether no problem was found; the caller MUST also check `signature` before trusting the content."""
        return self.problem is None

    @property
    def outcome(self) -> Outcome:
        """The outcome that the command's exit status reports."""
        return outcome_of(self.problem, incomplete=self.incomplete)


def signature_state(checked: CheckedSignature) -> SignatureState:
    """Return the state of a signature after its check."""
    if checked.problem is None:
        return SignatureState.VERIFIED
    return SignatureState.UNKNOWN_KEY if checked.unknown_key else SignatureState.REFUSED


def outcome_of(problem: str | None, *, incomplete: bool) -> Outcome:
    """Return the outcome of a verification that ended with `problem`."""
    if problem is None:
        return Outcome.INTACT
    return Outcome.NOT_CHECKED if incomplete else Outcome.REFUTED


def differs_at(text: str, expected: str) -> int:
    """Return the position, counted from one, of the first character that differs."""
    together = zip(text, expected, strict=False)
    return next((at for at, (one, other) in enumerate(together, 1) if one != other), min(len(text), len(expected)) + 1)
