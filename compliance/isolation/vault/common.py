"""What all attacks on keys share: what counts as a refusal, what as opened, and how a result is written down."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from core.errors.compliance import PositiveControlFailed
from core.errors.keys import WrongContext
from core.errors.platform import VaultRefused
from core.isolation import CheckResult
from core.keys.encryption_context import EncryptionContext
from openkcm.errors import OpenKcmError
from vault.auth.client import VaultClient, VaultRejected
from vault.transit.keys import decoded, encoded, key_error, key_errors

FORBIDDEN = "the key server's policy answers 403"
UNAUTHENTIC = "authentication of the ciphertext fails"


def each_ending(
    calls: VaultClient, key: str, items: Sequence[tuple[EncryptionContext, str]]
) -> list[bytes | OpenKcmError]:
    """Decrypt several ciphertexts under `key` in one call: the plaintext of each, or why there is none."""
    batch = [{"context": encoded(context.encode()), "ciphertext": ciphertext} for context, ciphertext in items]
    with key_errors():
        # Without the code a batch in which one item fails is answered like a request that is wrong; and one in which
        # all of them fail is answered so anyway, so that something must be in it that opens.
        answer = calls.write(f"transit/decrypt/{key}", {"batch_input": batch, "partial_failure_response_code": 200})
    return [_ending(item) for item in answer["batch_results"]]


def _ending(item: dict[str, Any]) -> bytes | OpenKcmError:
    return key_error(VaultRejected(400, item["error"])) if item.get("error") else decoded(item["plaintext"])


def each_opened(calls: VaultClient, key: str, items: Sequence[tuple[EncryptionContext, str]]) -> list[bytes | None]:
    """Decrypt as `each_ending`; None for each that does not authenticate, and anything else is raised."""
    opened: list[bytes | None] = []
    for ending in each_ending(calls, key, items):
        if isinstance(ending, OpenKcmError) and not isinstance(ending, WrongContext):
            raise ending
        opened.append(None if isinstance(ending, OpenKcmError) else ending)
    return opened


def is_refused(attack: Callable[[], object]) -> bool:
    """Return whether the policy said no. Getting any further, even to a failed decryption, is a breach."""
    try:
        attack()
    except VaultRefused:
        return True
    except WrongContext:
        return False
    return False


def require_control(worked: bool, problem: str) -> None:  # noqa: FBT001 - reads as: control that this worked
    if not worked:
        raise PositiveControlFailed(problem)


def result(clause: str, name: str, held: bool, seconds: float, wall: str, control: str) -> CheckResult:  # noqa: FBT001, PLR0913, PLR0917 - one line of the table of attacks
    """Return the evidence: the wall that refused and the control that worked, or that nothing refused."""
    evidence = f"{wall}; control: {control}" if held else f"the attack succeeded; expected: {wall}"
    return CheckResult(
        clause=clause, name=name, outcome="held" if held else "breached", seconds=seconds, evidence=evidence
    )


class Stopwatch:
    """Tells what each attack took."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        before, self._since = self._since, time.perf_counter()
        return self._since - before
