"""What the rest of the controller may ask of OpenBao or Vault. Imports no hvac.

Every `ensure_` is get-or-create by name, safe to run twice and from two processes at once, and compares what exists
with what was asked for (Transit answers 200 with the *old* key whatever was asked), raising ConflictingResource.
All raise VaultUnavailable when the server does not answer and VaultRefused when a policy says no.

What every kind of Transit key shares: get-or-create that compares, disabling, and the reasons of a refusal.
"""

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from core.errors.keys import KeyUnavailable, WrongContext
from core.errors.platform import ConflictingResource
from core.isolation import CheckResult
from openkcm.errors import OpenKcmError
from vault.auth.client import Capability, VaultClient, VaultRejected, VaultServerError


@dataclass(frozen=True, slots=True)
class TransitKey:
    """A key by name; `version` is its newest one, `oldest` the first that still opens anything."""

    name: str
    version: int
    oldest: int = 1


REWRAP_BATCH = 100
"""Ciphertexts in one call: the server's listener takes 1,000 strings of JSON by default, and each item has four."""


def ciphertext_version(ciphertext: str) -> int:
    """Return the version of the Transit key that a ciphertext lies under, which it says in the clear."""
    scheme, version, rest = (*ciphertext.split(":", 2), "", "")[:3]
    if scheme != "vault" or not version.startswith("v") or not version[1:].isdecimal() or not rest:
        raise WrongContext
    return int(version[1:])


@dataclass(frozen=True, slots=True)
class ForgedLeaf:
    """What a certificate is to say that its tenant's authority would never have signed by itself.

    `serial` is one that somebody else has on record, lower-case hex; None for a fresh one.
    """

    tenant_id: str
    dns_of: str
    service: str
    serial: str | None = None


@dataclass(frozen=True, slots=True)
class KeyTarget:
    """A tenant's key as it is on record: `oldest` to `newest` are the versions that open anything.

    While a rotation has not come to its end (`rotating`) the key server may be a step ahead of the records.
    """

    tenant_id: str
    oldest: int
    newest: int
    rotating: bool


@dataclass(frozen=True, slots=True)
class KeyFindings:
    """What attacks on a key found; `probe` is what the tenant leaves for others, None where it could make none."""

    results: Sequence[CheckResult]
    probe: str | None


_MOVED_OR_ALTERED = ("message authentication failed", "invalid ciphertext", "missing ciphertext")
_TOO_OLD = "too old (disallowed by policy)"
_NO_KEY = ("soft-deleted key", "key not found", "no existing key", "disallowed by policy (too old)", _TOO_OLD)
_NEVER = ("exportable", "allow_plaintext_backup", "deletion_allowed", "imported_key")
"""What no key of ours may be; an imported key is one whose material somebody else has seen."""


class CapabilityMissing(OpenKcmError):
    """The server is a Vault without what was asked for.

    Not emulated: the nearest thing, raising the least version that decrypts, leaves encryption and signing alive, and
    a kill switch that half works is worse than none.
    """

    code: ClassVar[str] = "capability_missing"

    def __init__(self, capability: Capability) -> None:
        super().__init__(
            f"this key server has no {capability}",
            "withdraw the tenant's route and disable its entity in Vault, or use OpenBao",
        )


def ensure_key(session: VaultClient, name: str, kind: str, *, derived: bool) -> dict[str, Any]:
    """Return Transit's record of the key `name`, made if missing and enabled if it was disabled.

    Creating answers 200 with the key that is there whatever was asked for, so the record is compared in every case.

    Raises:
        ConflictingResource: a key of that name exists that is not what was asked for.
    """
    record = session.write(f"transit/keys/{name}", {"type": kind, "derived": True} if derived else {"type": kind})
    require_key(record, name, kind, derived=derived)
    if record.get("soft_deleted"):
        record = session.write(f"transit/keys/{name}/soft-delete-restore")
        require_key(record, name, kind, derived=derived)
    return record


def require_key(record: dict[str, Any], name: str, kind: str, *, derived: bool) -> None:
    """Raise ConflictingResource unless the record is of such a key, made and held by Transit alone."""
    wanted: dict[str, Any] = {"type": kind, "derived": derived, **dict.fromkeys(_NEVER, False)}
    # With convergent encryption equal plaintexts would show as equal ciphertexts. Vault calls an import by two names.
    optional = {"convergent_encryption": False, "imported_key_allow_rotation": False}
    for field, value in wanted.items():
        if record.get(field, False) != value:
            raise ConflictingResource("key", name, f"{field} is {record.get(field)}, not {value}")
    for field, value in optional.items():
        if record.get(field, value) != value:
            raise ConflictingResource("key", name, f"{field} is {record[field]}, not {value}")


def transit_key(name: str, record: dict[str, Any]) -> TransitKey:
    """Return what the rest of the controller knows of a key."""
    return TransitKey(name, int(record["latest_version"]), int(record.get("min_decryption_version", 1)))


def disable_key(session: VaultClient, name: str) -> None:
    """Make a key refuse everything, at once and reversibly. One that is missing or disabled already is left so.

    Raises:
        CapabilityMissing: the server is Vault, which has no soft deletion.
    """
    try:
        session.delete(f"transit/keys/{name}/soft-delete")
    except VaultRejected as rejected:
        if rejected.status in (404, 405) or "unsupported" in rejected.reason:
            raise CapabilityMissing(Capability.SOFT_DELETE) from rejected
        raise


@contextmanager
def key_errors() -> Iterator[None]:
    """Turn the reasons for which Transit rejects the use of a key into errors of the vocabulary.

    Raises:
        WrongContext: another key, another context or an altered ciphertext; Transit does not tell which.
        KeyUnavailable: the key is missing or disabled.
    """
    try:
        yield
    except (VaultRejected, VaultServerError) as rejected:
        raise key_error(rejected) from rejected


def key_error(rejected: VaultRejected | VaultServerError) -> OpenKcmError:
    """Return the error of the vocabulary for a rejected use of a key, or the same when the reason is not known."""
    if any(text in rejected.reason for text in _MOVED_OR_ALTERED):
        return WrongContext()
    if any(text in rejected.reason for text in _NO_KEY):
        return KeyUnavailable()
    return rejected


def batch_results(answer: dict[str, Any], field: str) -> list[str]:
    """Return what came of each item of a batch; for the server the whole is a success even where an item failed."""
    results = answer["batch_results"]
    for result in results:
        if result.get("error") or not result.get(field):
            raise VaultRejected(400, str(result.get("error")))
    return [str(result[field]) for result in results]


def encoded(raw: bytes) -> str:
    """Return bytes as Transit takes them."""
    return base64.b64encode(raw).decode("ascii")


def decoded(text: str) -> bytes:
    """Return the bytes of Transit's base64."""
    return base64.b64decode(text, validate=True)
