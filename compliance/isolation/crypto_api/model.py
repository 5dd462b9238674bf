"""What may be tried at the doors of the crypto service.

Every attack has a positive control: who may do it does the same, in the same second, and it works. A check holds only
when the attack got the one answer that the wall gives. A service that is away or in trouble raises `CryptoApiFailing`:
it proves nothing in either direction.

From what was answered to results: one place that says when a wall has held.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from core.isolation import CheckResult
from openkcm.errors import PlatformError


class CryptoApiUnreachable(PlatformError):
    """Nobody listens: the crypto service does not run here, or has just gone."""

    code: ClassVar[str] = "fronts_away"
    message = "the crypto service does not answer at its address"
    hint = "see whether it runs: python -m devstack doctor"


class CryptoApiFailing(PlatformError):
    """It answered, and neither as a wall does nor as to its owner."""

    code: ClassVar[str] = "fronts_failing"
    hint = "the check is tried again; if it stays, see python -m devstack doctor and the log of the crypto service"


class ProbeRefused(PlatformError):
    """What the platform's own service may do did not work, so nothing was proven."""

    code: ClassVar[str] = "front_control_failed"
    hint = "the check is tried again with a certificate of its own; if it stays, see the log of the crypto service"


class ListenerProtocol(StrEnum):
    HTTPS = "https"
    KMIP = "kmip"


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody with a certificate. `presented_pem` is the certificate and what is above it, without the root."""

    tenant_id: str
    service: str
    serial: str
    presented_pem: str
    root_pem: str
    not_after: datetime
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pair:
    """The platform's own services: two of one tenant, and one of another."""

    one: Identity
    sibling: Identity
    other: Identity


@dataclass(frozen=True, slots=True)
class ForgedIdentities:
    """Certificates that a tenant's authority signed and that must open nothing, each with all else right.

    `for_other` names another tenant throughout; `other_uri` does in its URI alone; both have the serial number of a
    certificate that this tenant has on record. `unrecorded` is one of the authority's own tenant, never given out.
    """

    for_other: Identity
    other_uri: Identity
    unrecorded: Identity


ALIKE = "it is answered, byte for byte, like what was never there"
NO_SERVICE = "the certificate opens nothing, and no reason is told"
NO_TLS = "the handshake fails: the name is outside of what the authority may sign"


@dataclass(frozen=True, slots=True)
class AccessTest:
    """One attack: `refused` makes it and says whether the wall answered, `control` whether the owner's own try worked.

    `able` says whether the attacker may still do what is its own: where it may not, whatever it was answered says
    nothing of the wall. `wall` is how the wall answers, `works` what the control is; both stand in the evidence.
    """

    clause: str
    name: str
    refused: Callable[[], bool]
    control: Callable[[], bool]
    able: Callable[[], bool]
    wall: str
    works: str


@dataclass(slots=True)
class TestResults:
    """The results so far; of one attack made in several directions the worst counts, and their times add up."""

    _results: dict[str, CheckResult] = field(default_factory=dict)

    def judge(self, trials: Iterable[AccessTest]) -> None:
        """Make the attacks in turn. The control comes last, so it also shows that the attack left no trace.

        Raises: ProbeRefused when an attack was refused and its control as well, or when it was answered otherwise and
            the attacker is stopped itself, by a restart of the service for one; nothing was shown then.
        """
        for trial in trials:
            began = time.perf_counter()
            held = trial.refused()
            if held and not trial.control():
                raise ProbeRefused(f"the control of {trial.name} did not work: {trial.works}")
            if not held and not trial.able():
                raise ProbeRefused(f"the attacker of {trial.name} may not even do what is its own")
            self._add(trial, held=held, seconds=time.perf_counter() - began)

    def results(self) -> tuple[CheckResult, ...]:
        return tuple(self._results.values())

    def _add(self, trial: AccessTest, *, held: bool, seconds: float) -> None:
        before = self._results.get(trial.name)
        evidence = f"{trial.wall}; control: {trial.works}" if held else f"the attack succeeded; expected: {trial.wall}"
        if before is not None:
            seconds += before.seconds
            if before.outcome == "breached":
                held, evidence = False, before.evidence
        self._results[trial.name] = CheckResult(
            clause=trial.clause,
            name=f"fronts/{trial.name}",
            outcome="held" if held else "breached",
            seconds=seconds,
            evidence=evidence,
        )
