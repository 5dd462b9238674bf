"""The shared functions of all kinds of Transit keys: creation with comparison, disabling, and conversion of errors.

`ensure_key` creates a key by name if it is missing. It is idempotent, also between processes, and compares the existing
key with the request, because Transit responds with 200 and the *old* key in any case. Different properties raise
ConflictingResource. All functions raise VaultUnavailable for an unreachable server and VaultRefused for a denial.
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
    """A key by name; `version` is the newest, `oldest` the first that still decrypts."""

    name: str
    version: int
    oldest: int = 1


REWRAP_BATCH = 100
"""Ciphertexts in one call: the server accepts 1,000 JSON strings in a request by default, and each item has four."""


def ciphertext_version(ciphertext: str) -> int:
    """Return the version of the Transit key in the unencrypted prefix of a ciphertext."""
    scheme, version, rest = (*ciphertext.split(":", 2), "", "")[:3]
    if scheme != "vault" or not version.startswith("v") or not version[1:].isdecimal() or not rest:
        raise WrongContext
    return int(version[1:])


@dataclass(frozen=True, slots=True)
class ForgedLeaf:
    """The content of a forged certificate, which a tenant CA would never sign in regular operation.

    `serial` is the recorded serial of another certificate, in lower-case hex; None for a new one.
    """

    tenant_id: str
    dns_of: str
    service: str
    serial: str | None = None


@dataclass(frozen=True, slots=True)
class KeyTarget:
    """A tenant's key as recorded: the versions from `oldest` to `newest` decrypt.

    During a rotation (`rotating`) the key server may be a step ahead of the records.
    """

    tenant_id: str
    oldest: int
    newest: int
    rotating: bool


@dataclass(frozen=True, slots=True)
class KeyFindings:
    """The results of attacks on a key; `probe` is a ciphertext for attacks with other keys, None without one."""

    results: Sequence[CheckResult]
    probe: str | None


_WRONG_CONTEXT = ("message authentication failed", "invalid ciphertext", "missing ciphertext")
_TOO_OLD = "too old (disallowed by policy)"
_NO_KEY = ("soft-deleted key", "key not found", "no existing key", "disallowed by policy (too old)", _TOO_OLD)
_NEVER = ("exportable", "allow_plaintext_backup", "deletion_allowed", "imported_key")
"""Properties that no key of the platform may have; the material of an imported key is known outside."""


class CapabilityMissing(OpenKcmError):
    """The server is a Vault without the requested feature.

    There is no emulation: a higher minimum version for decryption would leave encryption and signing enabled, and an
    incomplete lock is worse than none.
    """

    code: ClassVar[str] = "capability_missing"

    def __init__(self, capability: Capability) -> None:
        super().__init__(
            f"this key server has no {capability}",
            "withdraw the tenant's route and disable its entity in Vault, or use OpenBao",
        )


def ensure_key(
    session: VaultClient, name: str, kind: str, *, derived: bool, auto_rotate: str | None = None
) -> dict[str, Any]:
    """Return Transit's record of the key `name`; create it if missing and enable it if disabled.

    `auto_rotate` is the period after which the key server creates the next version of a key that is created here.

    A creation responds with 200 and the existing key in any case, so the record is always compared.

    Raises:
        ConflictingResource: a key of that name exists with other properties.
    """
    wanted: dict[str, object] = {"type": kind}
    if derived:
        wanted["derived"] = True
    if auto_rotate is not None:
        wanted["auto_rotate_period"] = auto_rotate
    record = session.write(f"transit/keys/{name}", wanted)
    require_key(record, name, kind, derived=derived)
    if record.get("soft_deleted"):
        record = session.write(f"transit/keys/{name}/soft-delete-restore")
        require_key(record, name, kind, derived=derived)
    return record


def require_key(record: dict[str, Any], name: str, kind: str, *, derived: bool) -> None:
    """Raise ConflictingResource unless the record has these properties and its key was created in Transit."""
    wanted: dict[str, Any] = {"type": kind, "derived": derived, **dict.fromkeys(_NEVER, False)}
    # With convergent encryption equal plaintexts have equal ciphertexts. Vault has two names for an import.
    optional = {"convergent_encryption": False, "imported_key_allow_rotation": False}
    for field, value in wanted.items():
        if record.get(field, False) != value:
            raise ConflictingResource("key", name, f"{field} is {record.get(field)}, not {value}")
    for field, value in optional.items():
        if record.get(field, value) != value:
            raise ConflictingResource("key", name, f"{field} is {record[field]}, not {value}")


def transit_key(name: str, record: dict[str, Any]) -> TransitKey:
    """Return a key as other packages use it."""
    return TransitKey(name, int(record["latest_version"]), int(record.get("min_decryption_version", 1)))


def disable_key(session: VaultClient, name: str) -> None:
    """Disable a key at once and reversibly; without effect on a missing or disabled key.

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
    """Convert the reasons for which Transit rejects the use of a key.

    Raises:
        WrongContext: another key, another context or an altered ciphertext; Transit does not distinguish them.
        KeyUnavailable: the key is missing or disabled.
    """
    try:
        yield
    except (VaultRejected, VaultServerError) as rejected:
        raise key_error(rejected) from rejected


def key_error(rejected: VaultRejected | VaultServerError) -> OpenKcmError:
    """Return the converted error for a rejected use of a key, or the same error if the reason is unknown."""
    if any(text in rejected.reason for text in _WRONG_CONTEXT):
        return WrongContext()
    if any(text in rejected.reason for text in _NO_KEY):
        return KeyUnavailable()
    return rejected


def batch_results(answer: dict[str, Any], field: str) -> list[str]:
    """Return the result of each item of a batch; the server reports success even if an item failed."""
    results = answer["batch_results"]
    for result in results:
        if result.get("error") or not result.get(field):
            raise VaultRejected(400, str(result.get("error")))
    return [str(result[field]) for result in results]


def encoded(raw: bytes) -> str:
    """Return bytes in base64, as Transit expects them."""
    return base64.b64encode(raw).decode("ascii")


def decoded(text: str) -> bytes:
    """Return the bytes of Transit's base64."""
    return base64.b64decode(text, validate=True)
