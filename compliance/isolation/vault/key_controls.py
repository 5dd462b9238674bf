"""Isolation checks of one tenant's key against all identities with access to Transit (MTCI U1 to U5, E1, E2).

The attackers are the worker, which creates keys but must not use or export them; the tenant's own identity, which may
only use the key; the key of another tenant; and a tenant that does not exist. A check holds only for the expected
rejection, with a successful positive control.

No attack can do harm if its control is missing: requests that make a key exportable or deletable set the value that it
already has (`false`), and requests that import a key contain none.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

from compliance.isolation.vault.common import (
    FORBIDDEN,
    UNAUTHENTIC,
    Stopwatch,
    each_ending,
    is_refused,
    require_control,
    result,
)
from core import names as ids
from core.errors.keys import KeyUnavailable, WrongContext
from core.errors.platform import VaultRefused
from core.isolation import CheckResult, unchecked
from core.keys.encryption_context import EncryptionContext, Purpose
from openkcm.contract.names import RESERVED_PREFIX
from openkcm.errors import OpenKcmError
from vault.auth.client import VaultClient, VaultRejected, VaultServerError
from vault.auth.tenant_tokens import TenantTokens
from vault.transit.keys import KeyFindings, KeyTarget, encoded, key_errors

SHARED = EncryptionContext("", "", "", Purpose.BOUNDARY, "")
"""The context of probes, the same for all tenants, so that only the key material can cause a rejection."""

_NO_TENANT = f"{RESERVED_PREFIX}absent"
"""A tenant that cannot exist, because the prefix of its name is reserved."""
_PROBE = b"openkcm probe"
_ITEMS = 200
"""Ciphertexts in one call besides the control; the server accepts 1,000 JSON strings, of which each needs four."""
_THREADS = 8
_SERVICE, _OTHER_SERVICE = "boundary-key", "boundary-other"
_MOST_VERSIONS = 20
"""Number of newest versions with which a ciphertext is relabelled."""

# Errors of Transit for a request that no policy rejected.
_PAST_THE_POLICY = (
    "disallowed on the policy",
    "existing key",
    "imported key",
    "beginning of value",
    "not exportable",
    "no such",
)

_CHANGES = ("exportable", "allow_plaintext_backup", "deletion_allowed")
_RECORD = {"type": "aes256-gcm96", "derived": True} | dict.fromkeys(_CHANGES, False)
_Attempt = tuple[str, str, dict[str, Any] | None]
"""Method, path and fields of a request that the policies must reject."""
_OF_RECORD = ("versions-recorded", "key-was-made-inside")
_CHECKS = (
    ("U1", "key-is-derived-and-stays-inside"),
    ("U1", "encrypt-under-a-name-without-a-key"),
    ("U1", "let-the-key-be-exported-or-deleted"),
    ("U2", "open-others-probes"),
    ("U3", "open-as-another-version"),
    ("U3", "versions-recorded"),
    ("U4", "key-was-made-inside"),
    ("U4", "bring-in-or-take-out-as-worker"),
    ("U4", "bring-in-or-take-out-as-tenant"),
    ("U5", "open-as-another-service"),
)


class VaultKeyControlSuite:
    """Attacks on one tenant's key by all identities with access to Transit (MTCI U1 to U5, E1, E2).

    Any error that is neither the expected rejection nor a breach is raised. `session` has the worker's identity;
    `tokens` authenticate as tenants.
    """

    def __init__(self, session: VaultClient, tokens: TenantTokens) -> None:
        self._session = session
        self._tokens = tokens
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="key-attack")

    def attack(self, target: KeyTarget, others: Sequence[str]) -> KeyFindings:
        """Attack the key, and attempt to decrypt the probes of other tenants with it."""
        key = ids.l2_key(target.tenant_id)
        record = self._session.read(f"transit/keys/{key}")
        if record is None:
            expected = "the key server has a key of that name"
            missing = result(*_CHECKS[0], held=False, seconds=0, expected=expected, control="")
            return KeyFindings((missing, *unchecked(_CHECKS[1:], "the key server has no such key")), None)
        if record.get("soft_deleted"):
            return KeyFindings(unchecked(_CHECKS, "the key is disabled, so no positive control is possible"), None)
        calls = self._tokens.session(target.tenant_id)
        clock = Stopwatch()
        used = _KeyUses.of(calls, key, target, record, others)
        seconds = clock.lap()
        results = (
            _record_check(record, seconds),
            self._create_by_use(),
            self._change_settings(key),
            used.trial(len(others)),
            used.relabelled(),
            _versions(record, target, seconds),
            _origin_check(record, seconds),
            self._import_or_export(key, self._session, "worker", "it reads the key's record"),
            self._import_or_export(key, calls, "tenant", "it encrypts and decrypts with the key"),
            used.as_another_service(),
        )
        return KeyFindings(results, used.probe)

    def attack_record(self, target: KeyTarget) -> Sequence[CheckResult]:
        """Check only the key's record, by one call."""
        clock, record = Stopwatch(), self._session.read(f"transit/keys/{ids.l2_key(target.tenant_id)}")
        first, *others = _CHECKS[0], *(one for one in _CHECKS if one[1] in _OF_RECORD)
        if record is None:
            expected = "the key server has a key of that name"
            missing = result(*first, held=False, seconds=0, expected=expected, control="")
            return (missing, *unchecked(others, "the key server has no such key"))
        if record.get("soft_deleted"):
            return unchecked((first, *others), "the key is disabled, so no positive control is possible")
        seconds, read = clock.lap(), "the key server returns the record of the key"
        return (
            _record_check(record, seconds, read),
            _versions(record, target, seconds, read),
            _origin_check(record, seconds, read),
        )

    def attack_wrap(
        self, target: KeyTarget, context: EncryptionContext, outer: bytes, inner: bytes | None
    ) -> Sequence[CheckResult]:
        """Attempt to unwrap a service key with only one of its two wrapping keys.

        `inner` is `outer` unwrapped by the root key, None if the root key could not unwrap it. Raises
        PositiveControlFailed if the service key cannot be unwrapped with both keys.
        """
        key, clock = ids.l2_key(target.tenant_id), Stopwatch()
        calls = self._tokens.session(target.tenant_id)
        text = (inner or b"").decode("ascii", "replace")
        passed_off = [
            (context, f"vault:v{version}:{body}")
            for version in _newest(target.oldest, target.newest)
            for body in dict.fromkeys((_body(outer.decode("ascii", "replace")), encoded(outer)))
        ]
        opens, *alone = _rewrapped(calls, key, [(context, text), *passed_off])
        # Either both keys unwrap it, or one of its two layers is missing.
        is_key = inner is not None and not text.startswith("vault:v")
        require_control(opens or is_key or any(alone), "a service key cannot be unwrapped with both its keys")
        seconds = clock.lap()
        used: list[_Attempt] = [
            ("POST", f"transit/{use}/{key}", {"batch_input": _batch([(context, text)])})
            for use in ("decrypt", "rewrap")
        ]
        by_worker = all(self._rejected(self._session, used))
        both = "both keys together unwrap the same service key"
        without_root = result("E1", "open-without-root-key", not any(alone), seconds, UNAUTHENTIC, both)
        expected = "the root key's result is a ciphertext of the tenant key, which the worker may not use (403)"
        return without_root, result("E1", "open-without-tenant-key", opens and by_worker, clock.lap(), expected, both)

    def steal_wrap(self, target: KeyTarget, context: EncryptionContext, inner: bytes, attacker: str) -> CheckResult:
        """Let another tenant with a working key attempt to decrypt the inner wrap of a service key."""
        clock, text = Stopwatch(), inner.decode("ascii", "replace")
        calls, own = self._tokens.session(attacker), ids.l2_key(attacker)
        here = EncryptionContext(attacker, own, _SERVICE, Purpose.BOUNDARY, "")
        try:
            (mine,) = _encrypted(calls, own, [(here, os.urandom(16))])
        except VaultRefused:
            (missing,) = unchecked([("E2", "open-wrap-as-another-tenant")], "the attacker has no key yet")
            return missing
        forbidden = is_refused(partial(_rewrapped, calls, ids.l2_key(target.tenant_id), [(context, text)]))
        opens, *stolen = _rewrapped(calls, own, [(here, mine), (context, text), (context._replace(l2_key=own), text)])
        require_control(opens, "the attacker cannot decrypt its own ciphertext")
        held = forbidden and not any(stolen)
        expected = f"{FORBIDDEN}; with the attacker's own key {UNAUTHENTIC}"
        return result(
            "E2",
            "open-wrap-as-another-tenant",
            held,
            clock.lap(),
            expected,
            "the attacker's own ciphertext is decrypted",
        )

    def _create_by_use(self) -> CheckResult:
        clock, name = Stopwatch(), ids.l2_key(_NO_TENANT)
        calls, context = self._tokens.session(_NO_TENANT), encoded(SHARED.encode())
        # Encryption with a missing key counts as its creation, which the policy rejects; a data key is not found.
        encrypting: _Attempt = ("POST", f"transit/encrypt/{name}", {"plaintext": encoded(_PROBE), "context": context})
        held = _is_rejected(calls, encrypting) and _finds_no_key(calls, name, context)
        none_made = self._session.read(f"transit/keys/{name}") is None
        expected = f"{FORBIDDEN}, no data key is created, and no key exists afterwards"
        control = "the same on the tenant's own key works"
        return result("U1", "encrypt-under-a-name-without-a-key", held and none_made, clock.lap(), expected, control)

    def _change_settings(self, key: str) -> CheckResult:
        clock = Stopwatch()
        attempts: list[_Attempt] = [("POST", f"transit/keys/{key}/config", {change: False}) for change in _CHANGES]
        held = all(self._rejected(self._session, attempts))
        control = "the worker reads the key's record"
        return result("U1", "let-the-key-be-exported-or-deleted", held, clock.lap(), FORBIDDEN, control)

    def _import_or_export(self, key: str, calls: VaultClient, who: str, control: str) -> CheckResult:
        clock = Stopwatch()
        held = all(self._rejected(calls, list(_ways_in_and_out(key))))
        return result("U4", f"bring-in-or-take-out-as-{who}", held, clock.lap(), FORBIDDEN, control)

    def _rejected(self, calls: VaultClient, attempts: Sequence["_Attempt"]) -> list[bool]:
        """Return for each attempt whether a policy rejected it; concurrent, because the attempts mostly wait."""
        # The context carries the correlation id of the activity into the threads.
        tries = [partial(copy_context().run, _is_rejected, calls, attempt) for attempt in attempts]
        return [started.result() for started in [self._pool.submit(attempt) for attempt in tries]]


@dataclass(frozen=True, slots=True)
class _KeyUses:
    """Results of a few batch calls with the tenant's own identity and key, shared by several checks."""

    probe: str
    opened: int
    """Number of probes of other tenants that this key decrypted."""
    tried: int
    versions: Sequence[OpenKcmError | bytes]
    other_service: OpenKcmError | bytes
    seconds: float

    @classmethod
    def of(
        cls, calls: VaultClient, key: str, target: KeyTarget, record: dict[str, Any], others: Sequence[str]
    ) -> "_KeyUses":
        proof, clock = os.urandom(16), Stopwatch()
        here = EncryptionContext(target.tenant_id, key, _SERVICE, Purpose.SERVICE_KEY, "1")
        mine, probe = _encrypted(calls, key, [(here, proof), (SHARED, _PROBE)])
        newest, oldest = int(record["latest_version"]), int(record["min_decryption_version"])
        relabelled = [
            (here, f"vault:v{version}:{_body(mine)}") for version in _newest(1, newest + 1) if version != newest
        ]
        elsewhere = here._replace(service=_OTHER_SERVICE)
        own, other_service, *versions = _endings(calls, key, [(here, mine), (elsewhere, mine), *relabelled])
        require_control(own == proof, "the tenant cannot decrypt its own ciphertext")
        opened = tried = 0
        live = _newest(oldest, newest)
        every = [(SHARED, f"vault:v{version}:{_body(other)}") for other in others for version in live]
        for begin in range(0, max(1, len(every)), _ITEMS):
            batch = every[begin : begin + _ITEMS]
            own, *endings = _endings(calls, key, [(SHARED, probe), *batch])
            require_control(own == _PROBE, "the tenant cannot decrypt its own probe")
            opened, tried = opened + sum(map(_is_decrypted, endings)), tried + len(batch)
        return cls(probe, opened, tried, versions, other_service, clock.lap())

    def trial(self, others: int) -> CheckResult:
        if not others:
            (missing,) = unchecked([("U2", "open-others-probes")], "no other tenant has a probe yet")
            return missing
        expected = f"none of {self.tried} attempts decrypts a probe of {others} other tenants ({self.opened} did)"
        control = "the key decrypts its own probe in each call"
        return result("U2", "open-others-probes", not self.opened, self.seconds, expected, control)

    def relabelled(self) -> CheckResult:
        held = not any(map(_is_decrypted, self.versions))
        expected = f"none of {len(self.versions)} other versions, including retired ones, decrypts it"
        return result("U3", "open-as-another-version", held, self.seconds, expected, "its own version decrypts it")

    def as_another_service(self) -> CheckResult:
        held, control = not _is_decrypted(self.other_service), "the context of its own service decrypts it"
        return result("U5", "open-as-another-service", held, self.seconds, UNAUTHENTIC, control)


def _record_check(
    record: dict[str, Any], seconds: float, control: str = "the key encrypts and decrypts for its tenant"
) -> CheckResult:
    wrong = sorted(field for field, value in _RECORD.items() if record.get(field) != value)
    if record.get("convergent_encryption"):
        wrong.append("convergent_encryption")
    expected = "the key's record is that of a derived key that cannot be exported or deleted"
    expected += f"; violated: {', '.join(wrong)}" if wrong else ""
    return result(*_CHECKS[0], not wrong, seconds, expected, control)


def _origin_check(
    record: dict[str, Any], seconds: float, control: str = "the key encrypts and decrypts"
) -> CheckResult:
    imported = bool(record.get("imported_key")) or bool(record.get("imported_key_allow_rotation"))
    expected = "the key's record says that it was not imported"
    return result("U4", "key-was-made-inside", not imported, seconds, expected, control)


def _versions(
    record: dict[str, Any], target: KeyTarget, seconds: float, control: str = "the newest one encrypts"
) -> CheckResult:
    usable = int(record["min_decryption_version"]), int(record["latest_version"])
    held = usable == (target.oldest, target.newest)
    if not held and target.rotating:
        (running,) = unchecked(
            [("U3", "versions-recorded")], "a rotation is running, so the key server may be one version ahead"
        )
        return running
    recorded = f"{target.oldest} to {target.newest}"
    expected = f"the usable versions at the key server ({usable[0]} to {usable[1]}) are the recorded ones ({recorded})"
    return result("U3", "versions-recorded", held, seconds, expected, control)


def _ways_in_and_out(key: str) -> Iterator[_Attempt]:
    for kind in ("encryption-key", "hmac-key"):
        yield "GET", f"transit/export/{kind}/{key}", None
    yield "GET", f"transit/backup/{key}", None
    yield "GET", f"transit/byok-export/{ids.l2_key(_NO_TENANT)}/{key}", None
    yield "POST", f"transit/restore/{key}", {"backup": encoded(b"backup")}
    yield "POST", f"transit/keys/{key}/import", {"ciphertext": encoded(b"no key"), "type": "aes256-gcm96"}
    yield "POST", f"transit/keys/{key}/import_version", {"ciphertext": encoded(b"no key")}
    yield "GET", "transit/wrapping_key", None
    yield "POST", f"transit/datakey/plaintext/{key}", {"context": encoded(SHARED.encode())}


def _is_rejected(calls: VaultClient, attempt: _Attempt) -> bool:
    try:
        calls.request(*attempt)
    except VaultRefused:
        return True
    except VaultRejected:
        return False
    except VaultServerError as failed:
        # Transit returns 500 for some invalid requests, as a failing server does.
        if any(text in failed.reason for text in _PAST_THE_POLICY):
            return False
        raise
    return False


def _finds_no_key(calls: VaultClient, name: str, context: str) -> bool:
    try:
        with key_errors():
            calls.write(f"transit/datakey/wrapped/{name}", {"context": context})
    except (VaultRefused, KeyUnavailable):
        return True
    return False


def _encrypted(calls: VaultClient, key: str, items: Sequence[tuple[EncryptionContext, bytes]]) -> list[str]:
    batch = [{"plaintext": encoded(plain), "context": encoded(context.encode())} for context, plain in items]
    with key_errors():
        answer = calls.write(f"transit/encrypt/{key}", {"batch_input": batch})
    return [str(item["ciphertext"]) for item in answer["batch_results"]]


def _endings(
    calls: VaultClient, key: str, items: Sequence[tuple[EncryptionContext, str]]
) -> list[bytes | OpenKcmError]:
    """Decrypt a batch whose first item is the control; raises any error that is not the expected rejection."""
    try:
        endings = each_ending(calls, key, items)
    except VaultRejected:  # no item could be decrypted, not even the control
        endings = [WrongContext() for _ in items]
    for ending in endings:
        if isinstance(ending, OpenKcmError) and not isinstance(ending, WrongContext | KeyUnavailable):
            raise ending
    return endings


def _is_decrypted(ending: bytes | OpenKcmError) -> bool:
    return isinstance(ending, bytes)


def _rewrapped(calls: VaultClient, key: str, items: Sequence[tuple[EncryptionContext, str]]) -> list[bool]:
    """Return for each ciphertext whether the key decrypts it; the plaintext stays in Vault."""
    with key_errors():
        answer = calls.write(f"transit/rewrap/{key}", {"batch_input": _batch(items)})
    return [not item.get("error") for item in answer["batch_results"]]


def _batch(items: Sequence[tuple[EncryptionContext, str]]) -> list[dict[str, str]]:
    return [{"ciphertext": text, "context": encoded(context.encode())} for context, text in items]


def _newest(oldest: int, newest: int) -> Sequence[int]:
    return range(max(oldest, newest - _MOST_VERSIONS + 1), newest + 1)


def _body(ciphertext: str) -> str:
    return ciphertext.rsplit(":", 1)[-1]
