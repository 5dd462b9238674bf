"""Attacks on one tenant's key by everybody who could get at it, made for real (MTCI U1 to U5, E1, E2).

Who attacks is the worker itself, which makes keys and must not be able to use one or take one out; the tenant's own
identity, which uses it and must not be able to do more; the key of another tenant; and a tenant that does not exist. As
everywhere (see `attacks`), a check holds only for the one refusal that the wall gives, beside a control that worked.

No attack could do harm if its wall were down: what would make a key exportable or delete it is asked for in the form
that changes nothing (`false` where it is false), and what would bring in another key carries none.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
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
"""The context of probes, the same for all: what keeps another tenant's key out is then that key's material alone."""

_NOBODY = f"{RESERVED_PREFIX}nobody"
"""A tenant that does not exist and, its name being reserved, never will."""
_PROBE = b"openkcm probe"
_ITEMS = 200
"""Ciphertexts in one call beside the control; the server's listener takes 1,000 strings of JSON, four of them each."""
_THREADS = 8
_SERVICE, _OTHER_SERVICE = "boundary-key", "boundary-other"
_MOST_VERSIONS = 20
"""Versions, the newest, as which a ciphertext of another is passed off."""

# What Transit answers to a request that no policy stopped; in our policies' place nothing else did.
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
"""Method, path and fields of a request that no policy must let through."""
_CHECKS = (
    ("U1", "key-is-derived-and-stays-inside"),
    ("U1", "encrypt-under-a-name-without-a-key"),
    ("U1", "let-the-key-be-exported-or-deleted"),
    ("U2", "open-others-probes"),
    ("U3", "open-as-another-version"),
    ("U3", "versions-on-record"),
    ("U4", "key-was-made-inside"),
    ("U4", "bring-in-or-take-out-as-worker"),
    ("U4", "bring-in-or-take-out-as-tenant"),
    ("U5", "open-as-another-service"),
)


class VaultKeyControlSuite:
    """Attacks on one tenant's key by everybody who could get at it (MTCI U1 to U5, E1, E2).

    Raises what is neither a refusal nor a breach.

    `session` is the worker's own identity, `tokens` speak for tenants.
    """

    def __init__(self, session: VaultClient, tokens: TenantTokens) -> None:
        self._session = session
        self._tokens = tokens
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="key-attack")

    def attack(self, target: KeyTarget, others: Sequence[str]) -> KeyFindings:
        """Attack the key alone, and have it tried on the probes of other tenants."""
        key = ids.l2_key(target.tenant_id)
        record = self._session.read(f"transit/keys/{key}")
        if record is None:
            gone = result(*_CHECKS[0], held=False, seconds=0, wall="the key server has a key of that name", control="")
            return KeyFindings((gone, *unchecked(_CHECKS[1:], "the key server has no such key")), None)
        if record.get("soft_deleted"):
            return KeyFindings(unchecked(_CHECKS, "the key is disabled, so that nothing can serve as a control"), None)
        calls = self._tokens.session(target.tenant_id)
        clock = Stopwatch()
        used = _Used.of(calls, key, target, record, others)
        seconds = clock.lap()
        results = (
            _as_it_must_be(record, seconds),
            self._made_by_use(),
            self._changed(key),
            used.trial(len(others)),
            used.relabelled(),
            _versions(record, target, seconds),
            _made_inside(record, seconds),
            self._carried(key, self._session, "worker", "it reads the key's record"),
            self._carried(key, calls, "tenant", "it encrypts and decrypts with the key"),
            used.as_another_service(),
        )
        return KeyFindings(results, used.probe)

    def attack_wrap(
        self, target: KeyTarget, context: EncryptionContext, outer: bytes, inner: bytes | None
    ) -> Sequence[CheckResult]:
        """Attack a service key with one of its two keys each.

        `inner` is what its root key made of `outer`, None where it opened nothing. Raises PositiveControlFailed for a
        service key that does not open at all.
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
        # Either it opens with both its keys, or one of its two layers was never there.
        is_key = inner is not None and not text.startswith("vault:v")
        require_control(opens or is_key or any(alone), "a service key does not open with both its keys")
        seconds = clock.lap()
        used: list[_Attempt] = [
            ("POST", f"transit/{use}/{key}", {"batch_input": _batch([(context, text)])})
            for use in ("decrypt", "rewrap")
        ]
        by_worker = all(self._stopped(self._session, used))
        both = "the same key opens with both layers"
        without_root = result("E1", "open-without-root-key", not any(alone), seconds, UNAUTHENTIC, both)
        wall = "what the root key opens is a ciphertext under the tenant key, which the worker may not use (403)"
        return without_root, result("E1", "open-without-tenant-key", opens and by_worker, clock.lap(), wall, both)

    def steal_wrap(self, target: KeyTarget, context: EncryptionContext, inner: bytes, thief: str) -> CheckResult:
        """Have another tenant, which has a working key, open what lies under the root key."""
        clock, text = Stopwatch(), inner.decode("ascii", "replace")
        calls, own = self._tokens.session(thief), ids.l2_key(thief)
        here = EncryptionContext(thief, own, _SERVICE, Purpose.BOUNDARY, "")
        try:
            (mine,) = _encrypted(calls, own, [(here, os.urandom(16))])
        except VaultRefused:
            (missing,) = unchecked([("E2", "open-wrap-as-another-tenant")], "the attacker has no key of its own yet")
            return missing
        forbidden = is_refused(partial(_rewrapped, calls, ids.l2_key(target.tenant_id), [(context, text)]))
        opens, *stolen = _rewrapped(calls, own, [(here, mine), (context, text), (replace(context, l2_key=own), text)])
        require_control(opens, "the thief's own ciphertext does not open")
        held = forbidden and not any(stolen)
        wall = f"{FORBIDDEN}; under a key of its own {UNAUTHENTIC}"
        return result("E2", "open-wrap-as-another-tenant", held, clock.lap(), wall, "the thief's own opens")

    def _made_by_use(self) -> CheckResult:
        clock, name = Stopwatch(), ids.l2_key(_NOBODY)
        calls, context = self._tokens.session(_NOBODY), encoded(SHARED.encode())
        # To encrypt where there is no key counts as making one, which the policy refuses; a data key is only not found.
        encrypting: _Attempt = ("POST", f"transit/encrypt/{name}", {"plaintext": encoded(_PROBE), "context": context})
        held = _is_stopped(calls, encrypting) and _finds_no_key(calls, name, context)
        none_made = self._session.read(f"transit/keys/{name}") is None
        wall = f"{FORBIDDEN}, a data key is not made, and afterwards there is no key"
        control = "the same on the tenant's own key works"
        return result("U1", "encrypt-under-a-name-without-a-key", held and none_made, clock.lap(), wall, control)

    def _changed(self, key: str) -> CheckResult:
        clock = Stopwatch()
        attempts: list[_Attempt] = [("POST", f"transit/keys/{key}/config", {change: False}) for change in _CHANGES]
        held = all(self._stopped(self._session, attempts))
        control = "the worker reads the key's record"
        return result("U1", "let-the-key-be-exported-or-deleted", held, clock.lap(), FORBIDDEN, control)

    def _carried(self, key: str, calls: VaultClient, who: str, control: str) -> CheckResult:
        clock = Stopwatch()
        held = all(self._stopped(calls, list(_ways_in_and_out(key))))
        return result("U4", f"bring-in-or-take-out-as-{who}", held, clock.lap(), FORBIDDEN, control)

    def _stopped(self, calls: VaultClient, attempts: Sequence["_Attempt"]) -> list[bool]:
        """Return of each whether a policy stopped it; side by side, because they mostly wait."""
        # With the activity's context, by which whatever happens there is known to belong to it.
        tries = [partial(copy_context().run, _is_stopped, calls, attempt) for attempt in attempts]
        return [started.result() for started in [self._pool.submit(attempt) for attempt in tries]]


@dataclass(frozen=True, slots=True)
class _Used:
    """What the tenant's own identity did with its key in three calls or so, for several checks at once."""

    probe: str
    opened: int
    """Others' probes that this key opened."""
    tried: int
    versions: Sequence[OpenKcmError | bytes]
    other_service: OpenKcmError | bytes
    seconds: float

    @classmethod
    def of(
        cls, calls: VaultClient, key: str, target: KeyTarget, record: dict[str, Any], others: Sequence[str]
    ) -> "_Used":
        proof, clock = os.urandom(16), Stopwatch()
        here = EncryptionContext(target.tenant_id, key, _SERVICE, Purpose.SERVICE_KEY, "1")
        mine, probe = _encrypted(calls, key, [(here, proof), (SHARED, _PROBE)])
        newest, oldest = int(record["latest_version"]), int(record["min_decryption_version"])
        relabelled = [
            (here, f"vault:v{version}:{_body(mine)}") for version in _newest(1, newest + 1) if version != newest
        ]
        elsewhere = replace(here, service=_OTHER_SERVICE)
        own, other_service, *versions = _endings(calls, key, [(here, mine), (elsewhere, mine), *relabelled])
        require_control(own == proof, "the tenant's own ciphertext does not open")
        opened = tried = 0
        live = _newest(oldest, newest)
        every = [(SHARED, f"vault:v{version}:{_body(other)}") for other in others for version in live]
        for begin in range(0, max(1, len(every)), _ITEMS):
            batch = every[begin : begin + _ITEMS]
            own, *endings = _endings(calls, key, [(SHARED, probe), *batch])
            require_control(own == _PROBE, "the tenant's own probe does not open")
            opened, tried = opened + sum(map(_is_opened, endings)), tried + len(batch)
        return cls(probe, opened, tried, versions, other_service, clock.lap())

    def trial(self, others: int) -> CheckResult:
        if not others:
            (nothing,) = unchecked([("U2", "open-others-probes")], "no other tenant has left a probe yet")
            return nothing
        wall = f"none of {self.tried} attempts opens a probe of {others} other tenants ({self.opened} did)"
        return result("U2", "open-others-probes", not self.opened, self.seconds, wall, "its own opens in each call")

    def relabelled(self) -> CheckResult:
        held = not any(map(_is_opened, self.versions))
        wall = f"none of {len(self.versions)} other versions, retired ones among them, opens it"
        return result("U3", "open-as-another-version", held, self.seconds, wall, "under its own version it opens")

    def as_another_service(self) -> CheckResult:
        held, control = not _is_opened(self.other_service), "in the context of its own service it opens"
        return result("U5", "open-as-another-service", held, self.seconds, UNAUTHENTIC, control)


def _as_it_must_be(record: dict[str, Any], seconds: float) -> CheckResult:
    wrong = sorted(field for field, value in _RECORD.items() if record.get(field) != value)
    if record.get("convergent_encryption"):
        wrong.append("convergent_encryption")
    wall = "the key's record is that of a derived key that cannot be exported or deleted"
    wall += f"; not so: {', '.join(wrong)}" if wrong else ""
    return result(*_CHECKS[0], not wrong, seconds, wall, "the key encrypts and decrypts for its tenant")


def _made_inside(record: dict[str, Any], seconds: float) -> CheckResult:
    imported = bool(record.get("imported_key")) or bool(record.get("imported_key_allow_rotation"))
    wall = "the key's record says that it was not imported"
    return result("U4", "key-was-made-inside", not imported, seconds, wall, "the key encrypts and decrypts")


def _versions(record: dict[str, Any], target: KeyTarget, seconds: float) -> CheckResult:
    there = int(record["min_decryption_version"]), int(record["latest_version"])
    held = there == (target.oldest, target.newest)
    if not held and target.rotating:
        (running,) = unchecked(
            [("U3", "versions-on-record")], "a rotation has not come to its end: the key server is a step ahead"
        )
        return running
    recorded = f"{target.oldest} to {target.newest}"
    wall = f"the versions that open at the key server ({there[0]} to {there[1]}) are those on record ({recorded})"
    return result("U3", "versions-on-record", held, seconds, wall, "the newest one encrypts")


def _ways_in_and_out(key: str) -> Iterator[_Attempt]:
    for kind in ("encryption-key", "hmac-key"):
        yield "GET", f"transit/export/{kind}/{key}", None
    yield "GET", f"transit/backup/{key}", None
    yield "GET", f"transit/byok-export/{ids.l2_key(_NOBODY)}/{key}", None
    yield "POST", f"transit/restore/{key}", {"backup": encoded(b"backup")}
    yield "POST", f"transit/keys/{key}/import", {"ciphertext": encoded(b"no key"), "type": "aes256-gcm96"}
    yield "POST", f"transit/keys/{key}/import_version", {"ciphertext": encoded(b"no key")}
    yield "GET", "transit/wrapping_key", None
    yield "POST", f"transit/datakey/plaintext/{key}", {"context": encoded(SHARED.encode())}


def _is_stopped(calls: VaultClient, attempt: _Attempt) -> bool:
    try:
        calls.request(*attempt)
    except VaultRefused:
        return True
    except VaultRejected:
        return False
    except VaultServerError as failed:
        # Transit says some of what it will not do with 500, and so does a server in trouble.
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
    """Decrypt a batch whose first item must open; raises for an ending that is neither a success nor a refusal."""
    try:
        endings = each_ending(calls, key, items)
    except VaultRejected:  # not even the first one opened
        endings = [WrongContext() for _ in items]
    for ending in endings:
        if isinstance(ending, OpenKcmError) and not isinstance(ending, WrongContext | KeyUnavailable):
            raise ending
    return endings


def _is_opened(ending: bytes | OpenKcmError) -> bool:
    return isinstance(ending, bytes)


def _rewrapped(calls: VaultClient, key: str, items: Sequence[tuple[EncryptionContext, str]]) -> list[bool]:
    """Return of each ciphertext whether the key opens it: whatever it is, the plaintext stays in Vault."""
    with key_errors():
        answer = calls.write(f"transit/rewrap/{key}", {"batch_input": _batch(items)})
    return [not item.get("error") for item in answer["batch_results"]]


def _batch(items: Sequence[tuple[EncryptionContext, str]]) -> list[dict[str, str]]:
    return [{"ciphertext": text, "context": encoded(context.encode())} for context, text in items]


def _newest(oldest: int, newest: int) -> Sequence[int]:
    return range(max(oldest, newest - _MOST_VERSIONS + 1), newest + 1)


def _body(ciphertext: str) -> str:
    return ciphertext.rsplit(":", 1)[-1]
