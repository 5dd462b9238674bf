"""Helpers of the checks of keys: rejections, decryptions and check results."""

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
    """Decrypt several ciphertexts with `key` in one call; return the plaintext or the error of each."""
    batch = [{"context": encoded(context.encode()), "ciphertext": ciphertext} for context, ciphertext in items]
    with key_errors():
        # Without the code Transit rejects the whole batch if one item fails. If all items fail it rejects the batch
        # in any case, so the batch must contain one item that can be decrypted.
        answer = calls.write(f"transit/decrypt/{key}", {"batch_input": batch, "partial_failure_response_code": 200})
    return [_ending(item) for item in answer["batch_results"]]


def _ending(item: dict[str, Any]) -> bytes | OpenKcmError:
    return key_error(VaultRejected(400, item["error"])) if item.get("error") else decoded(item["plaintext"])


def each_opened(calls: VaultClient, key: str, items: Sequence[tuple[EncryptionContext, str]]) -> list[bytes | None]:
    """Decrypt as `each_ending`; return None for each unauthentic ciphertext, and raise any other error."""
    plaintexts: list[bytes | None] = []
    for ending in each_ending(calls, key, items):
        if isinstance(ending, OpenKcmError) and not isinstance(ending, WrongContext):
            raise ending
        plaintexts.append(None if isinstance(ending, OpenKcmError) else ending)
    return plaintexts


def is_refused(attack: Callable[[], object]) -> bool:
    """Return whether the policy rejects the attack. Any other result, even a failed decryption, is a breach."""
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


def result(clause: str, name: str, held: bool, seconds: float, expected: str, control: str) -> CheckResult:  # noqa: FBT001, PLR0913, PLR0917 - one line of the table of attacks
    """Return the check result; its evidence is the expected rejection with the control, or the successful attack."""
    evidence = f"{expected}; control: {control}" if held else f"the attack succeeded; expected: {expected}"
    return CheckResult(
        clause=clause, name=name, outcome="held" if held else "breached", seconds=seconds, evidence=evidence
    )


class Stopwatch:
    """Measures the duration of each attack."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        before, self._since = self._since, time.perf_counter()
        return self._since - before
