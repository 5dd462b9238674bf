"""Identities, checks and results of the isolation checks through the APIs of the crypto service.

Every attack has a positive control: an authorized caller sends the same request in the same second and succeeds. A
check holds only if the attack got the expected rejection. An unreachable or failing service proves neither isolation
nor a breach, so it raises `CryptoApiUnreachable` or `CryptoApiFailing`.
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
    """The crypto service is not running or stopped during the checks."""

    code: ClassVar[str] = "crypto_api_unreachable"
    message = "the crypto service does not answer at its address"
    hint = "check that it is running and reachable at its configured ports"


class CryptoApiFailing(PlatformError):
    """The answer is neither the expected rejection nor a success."""

    code: ClassVar[str] = "crypto_api_failing"
    hint = "the check is retried; if it keeps failing, see the log of the crypto service"


class ProbeRefused(PlatformError):
    """An authorized request of the probe service failed, so the check proves nothing."""

    code: ClassVar[str] = "crypto_api_control_failed"
    hint = "the check is retried with a new certificate; if it keeps failing, see the log of the crypto service"


class ListenerProtocol(StrEnum):
    HTTPS = "https"
    KMIP = "kmip"


@dataclass(frozen=True, slots=True)
class Identity:
    """A client certificate with its key. `presented_pem` is the certificate chain without the root."""

    tenant_id: str
    service: str
    serial: str
    presented_pem: str
    root_pem: str
    not_after: datetime
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pair:
    """Probe services of the platform: two of one tenant, and one of another tenant."""

    one: Identity
    sibling: Identity
    other: Identity


@dataclass(frozen=True, slots=True)
class ForgedIdentities:
    """Certificates that a tenant CA signed and the service must reject; only the named property of each is wrong.

    `for_other` names another tenant everywhere, `other_uri` only in its URI; both have the serial number of a recorded
    certificate of this tenant. `unrecorded` names the CA's own tenant but was never issued.
    """

    for_other: Identity
    other_uri: Identity
    unrecorded: Identity


ALIKE = "rejected with the same bytes as a request for something that does not exist"
NO_SERVICE = "the certificate is not authorized, and the answer gives no reason"
NO_TLS = "the handshake fails: the name violates the name constraints of the tenant CA"


@dataclass(frozen=True, slots=True)
class AccessTest:
    """One attack: `refused` runs it and returns whether it was rejected as expected, `control` runs its control.

    `attacker_works` returns whether the attacker can still access its own data; otherwise a rejection proves nothing.
    `expected` describes the expected rejection and `control_text` the control; the evidence contains both.
    """

    clause: str
    name: str
    refused: Callable[[], bool]
    control: Callable[[], bool]
    attacker_works: Callable[[], bool]
    expected: str
    control_text: str


@dataclass(slots=True)
class TestResults:
    """Results by check; of an attack in several directions the worst result counts, and the durations are added."""

    _results: dict[str, CheckResult] = field(default_factory=dict)

    def judge(self, trials: Iterable[AccessTest]) -> None:
        """Run the attacks in turn. The control runs after the attack, so it also shows that the attack changed nothing.

        Raises:
            ProbeRefused: the attack and its control were both rejected, or the attack was not rejected as expected
                while the attacker cannot access its own data, as during a restart. The check then proves nothing.
        """
        for trial in trials:
            began = time.perf_counter()
            held = trial.refused()
            if held and not trial.control():
                raise ProbeRefused(f"the positive control of {trial.name} failed: {trial.control_text}")
            if not held and not trial.attacker_works():
                raise ProbeRefused(f"the attacker of {trial.name} cannot access its own data")
            self._add(trial, held=held, seconds=time.perf_counter() - began)

    def results(self) -> tuple[CheckResult, ...]:
        return tuple(self._results.values())

    def _add(self, trial: AccessTest, *, held: bool, seconds: float) -> None:
        before = self._results.get(trial.name)
        evidence = (
            f"{trial.expected}; control: {trial.control_text}"
            if held
            else f"the attack succeeded; expected: {trial.expected}"
        )
        if before is not None:
            seconds += before.seconds
            if before.outcome == "breached":
                held, evidence = False, before.evidence
        self._results[trial.name] = CheckResult(
            clause=trial.clause,
            name=f"crypto-api/{trial.name}",
            outcome="held" if held else "breached",
            seconds=seconds,
            evidence=evidence,
        )
