"""Conversion of responses in the key server's audit log to events: key, tenant, operation, identity.

Paths, numbers and times are in clear text. With the set-up of OpenKCM (`setup`) contexts and the serials and names of
tenant CAs are too; the server hides everything else. A context names the tenant, service and purpose of a use. For the
platform's root key, which all tenants share, only the context identifies the tenant.
"""

import base64
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from compliance.reconciliation.access_rules import FIRST_BOOT, OURS, ROOT, TENANT, UNAUTHENTICATED
from compliance.reconciliation.model import USES, KeyKind, KeyOperation, RequestOutcome, ServerEvent
from core import names as ids
from core.keys.encryption_context import EncryptionContext, decode
from openkcm.contract.names import TENANT_DOMAIN
from openkcm.errors import InvalidName
from vault.auth.client import ROLE_PREFIX
from vault.auth.tenant_tokens import TENANT_ROLE
from vault.auth.transport import CORRELATION_HEADER
from vault.setup import AUDIT_KEY, FINGERPRINT_KEY, LOCKS_MOUNT, PLATFORM_PAYLOAD_KEY, SERVER_ROLE

_MADE_WITHIN = timedelta(seconds=2)
_READS = frozenset({"read", "list"})
_LOGINS = re.compile(r"auth/[^/]+/login|auth/token/(lookup|renew|revoke)-self|sys/(audit/test|health|seal-status)")
_KEY = re.compile(r"transit/keys/([^/]+)(?:/([a-z-]+))?")
_USE = re.compile(r"transit/(encrypt|decrypt|rewrap|datakey/wrapped|datakey/plaintext|sign|hmac)/([^/]+)(?:/sha2-256)?")
_USES: Mapping[str, KeyOperation] = MappingProxyType(
    {
        "encrypt": KeyOperation.ENCRYPTED,
        "decrypt": KeyOperation.DECRYPTED,
        "rewrap": KeyOperation.REWRAPPED,
        "datakey/wrapped": KeyOperation.WRAPPED,
        "datakey/plaintext": KeyOperation.WRAPPED,
        "sign": KeyOperation.SIGNED,
        "hmac": KeyOperation.FINGERPRINTED,
    }
)
_CHANGES: Mapping[str, KeyOperation] = MappingProxyType(
    {
        "rotate": KeyOperation.ROTATED,
        "config": KeyOperation.CONFIGURED,
        "trim": KeyOperation.TRIMMED,
        "soft-delete": KeyOperation.DISABLED,
        "soft-delete-restore": KeyOperation.ENABLED,
        "csr": KeyOperation.READ,
    }
)
"""Operations below the path of a key. A CSR returns the public key and proves that the private key exists."""
_AROUND: Mapping[tuple[str, bool], KeyOperation] = MappingProxyType(
    {
        ("transit/keys/", True): KeyOperation.READ,
        ("transit/config/keys", True): KeyOperation.READ,
        ("transit/config/keys", False): KeyOperation.SET_UP,
    }
)
"""(path, whether it is a read) → operation."""
_ROLES = f"{ROLE_PREFIX}(worker|codec|crypto|offboarding|operator|setup)"
_SET_UP = re.compile(
    rf"sys/(mounts|auth)/(transit|pki|{LOCKS_MOUNT}|jwt|approle)(/tune)?|sys/policies/acl/({_ROLES}|{ROLE_PREFIX}{TENANT_ROLE})"
    rf"|auth/jwt/(config|role/{TENANT_ROLE})|auth/approle/role/{_ROLES}(/custom-secret-id|/secret-id/lookup|/secret-id-accessor/destroy)?"
    rf"|sys/config/auditing/request-headers/.+|pki/root/generate/internal|pki/roles/{SERVER_ROLE}"
    r"|sys/rotate/recovery/init"
)
"""Paths that the set-up of OpenKCM uses (`setup`, `self_init`); other administration is not by OpenKCM."""
_RETIREMENT = frozenset({"min_decryption_version", "min_encryption_version"})


def events_of(entry: Mapping[str, Any], at: datetime) -> Iterator[ServerEvent]:
    """Yield the events of a response: none, one, or one for each context of a batch."""
    request = entry["request"]
    path, operation = str(request.get("path", "")), str(request.get("operation", ""))
    if _LOGINS.fullmatch(path):
        return
    found = _found(path, operation, request.get("data") or {}, _answered(entry), at)
    if found is None:
        return
    headers = {str(name).lower(): values for name, values in (request.get("headers") or {}).items()}
    event = replace(
        found,
        request_id=str(request["id"]),
        who=_who(entry),
        answer=_answer(entry),
        correlation_id=str(next(iter(headers.get(CORRELATION_HEADER.lower()) or ()), "")),
        path=path,
    )
    if event.act in USES and event.layer in {KeyKind.TENANT_KEY, KeyKind.ROOT_KEY}:
        yield from _by_context(event, request.get("data") or {}, _answered(entry))
    else:
        yield event


def _found(
    path: str, operation: str, data: Mapping[str, Any], answer: Mapping[str, Any], at: datetime
) -> ServerEvent | None:
    """Return the event of a path; None for reads outside of Transit."""
    if path.startswith("transit/"):
        return _transit(path, operation, data, answer, at)
    if operation in _READS:
        return None  # certificates and CRLs are public, and reads of the server's configuration change nothing
    if path == "pki/root/sign-intermediate":
        return _authority(data, answer, at)
    if path == f"pki/sign/{SERVER_ROLE}":
        return _event(at, KeyOperation.SERVER_CERTIFICATE, path)
    return _event(at, _change_outside_transit(path), path)


def _change_outside_transit(path: str) -> KeyOperation:
    if path.startswith(f"{LOCKS_MOUNT}/"):
        return KeyOperation.LOCK_RECORDED
    if _SET_UP.fullmatch(path):
        return KeyOperation.SET_UP
    return KeyOperation.OTHER if path.startswith("pki/") else KeyOperation.ADMINISTERED


def _transit(
    path: str, operation: str, data: Mapping[str, Any], answer: Mapping[str, Any], at: datetime
) -> ServerEvent:
    used = _USE.fullmatch(path)
    if used is not None and operation in {"update", "create"}:
        how, name = used.groups()
        event = _event(at, _USES[how], name)
        wanted = {"datakey/plaintext": KeyKind.PAYLOAD_KEY, "hmac": KeyKind.TENANT_KEY}.get(how, event.layer)
        known = event.layer is wanted or name == FINGERPRINT_KEY
        return event if known else replace(event, act=KeyOperation.OTHER)
    key = _KEY.fullmatch(path)
    if key is not None:
        name, below = key.groups()
        event = _event(at, KeyOperation.OTHER, name)
        return _of_key(event, operation, answer) if below is None else _below_key(event, below, data, answer)
    act = _AROUND.get((path, operation in _READS), KeyOperation.OTHER)
    return replace(_event(at, act, path), tenant_id=_named_in(path))


def _below_key(event: ServerEvent, below: str, data: Mapping[str, Any], answer: Mapping[str, Any]) -> ServerEvent:
    if below == "config" and data.get("deletion_allowed") is True:
        return replace(event, act=KeyOperation.DELETION_ALLOWED)
    if below == "config" and data and data.keys() <= _RETIREMENT:
        return replace(event, act=KeyOperation.RETIRED, version=_number(data.get("min_decryption_version")))
    act = _CHANGES.get(below, KeyOperation.OTHER)
    if act is KeyOperation.TRIMMED:
        return replace(event, act=act, version=_number(data.get("min_available_version")))
    return replace(event, act=act, version=_number(answer.get("latest_version")) if act is KeyOperation.ROTATED else 0)


def _named_in(path: str) -> str:
    """Return the tenant whose key is part of an unknown path, otherwise an empty text."""
    return next((tenant_id for part in path.split("/") if (tenant_id := ids.tenant_of_key(part))), "")


def _of_key(event: ServerEvent, operation: str, answer: Mapping[str, Any]) -> ServerEvent:
    if operation in _READS:
        return replace(event, act=KeyOperation.READ)
    if operation == "delete":
        return replace(event, act=KeyOperation.DELETED)
    made = _made_at(answer)
    fresh = made is not None and abs(event.at - made) <= _MADE_WITHIN
    return replace(event, act=KeyOperation.MADE if fresh else KeyOperation.ENSURED)


def _made_at(answer: Mapping[str, Any]) -> datetime | None:
    """Return the creation time of a key with one version, else None; Transit returns the existing or new key."""
    versions = answer.get("keys")
    first = versions.get("1") if isinstance(versions, Mapping) and len(versions) == 1 else None
    if isinstance(first, Mapping):
        first = first.get("creation_time")
    if isinstance(first, int):
        return datetime.fromtimestamp(first, UTC)
    try:
        return datetime.fromisoformat(str(first)) if first else None
    except ValueError:
        return None


def _authority(data: Mapping[str, Any], answer: Mapping[str, Any], at: datetime) -> ServerEvent:
    tenant_id = str(data.get("permitted_dns_domains", "")).removesuffix(f".{TENANT_DOMAIN}")
    serial = str(answer.get("serial_number", "")).replace(":", "").replace("-", "").lower()
    event = _event(at, KeyOperation.AUTHORITY, ids.ca_key(tenant_id))
    return replace(event, serial=serial) if event.tenant_id else _event(at, KeyOperation.AUTHORITY, "an authority")


def _event(at: datetime, act: KeyOperation, key: str) -> ServerEvent:
    tenant_id = ids.tenant_of_key(key) or ""
    layer = KeyKind.PLATFORM
    if key.startswith("root-"):
        layer = KeyKind.ROOT_KEY
    elif tenant_id or key == PLATFORM_PAYLOAD_KEY:
        layer = next(layer for prefix, layer in _LAYERS.items() if key.startswith(prefix))
    elif act in {*_USES.values(), *_CHANGES.values()} - {KeyOperation.READ} and key not in _PLATFORM_KEYS:
        act = KeyOperation.OTHER  # a key of another product in the secrets engine of OpenKCM
    return ServerEvent(at, "", act, key, tenant_id, "", layer=layer)


_PLATFORM_KEYS = frozenset({AUDIT_KEY, FINGERPRINT_KEY})
_LAYERS: Mapping[str, KeyKind] = MappingProxyType(
    {"L2-": KeyKind.TENANT_KEY, "ca-": KeyKind.AUTHORITY, "payload": KeyKind.PAYLOAD_KEY}
)


def _by_context(event: ServerEvent, data: Mapping[str, Any], answer: Mapping[str, Any]) -> Iterator[ServerEvent]:
    """Yield one event for each used context and outcome.

    If an item of a batch failed, the server may hide the whole response; then all items count as done.
    """
    items: Sequence[Any] = data.get("batch_input") or [data]
    results: Sequence[Any] = answer.get("batch_results") or []
    counted: Counter[tuple[EncryptionContext | None, RequestOutcome]] = Counter()
    for number, item in enumerate(items):
        failed = number < len(results) and bool(results[number].get("error"))
        counted[
            _context(item), RequestOutcome.FAILED if failed and event.answer is RequestOutcome.DONE else event.answer
        ] += 1
    for (context, answered), times in counted.items():
        tenant_id = event.tenant_id or ("" if context is None else context.tenant_id)
        yield replace(event, context=context, answer=answered, count=times, tenant_id=tenant_id)


def _context(item: Mapping[str, Any]) -> EncryptionContext | None:
    try:
        return decode(base64.b64decode(str(item.get("context", "")), validate=True))
    except (ValueError, InvalidName):
        return None


def _answered(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    response = entry.get("response") or {}
    return response.get("data") or {}


def _answer(entry: Mapping[str, Any]) -> RequestOutcome:
    if (entry.get("auth") or {}).get("policy_results", {}).get("allowed") is False:
        return RequestOutcome.REFUSED
    return RequestOutcome.FAILED if entry.get("error") else RequestOutcome.DONE


def _who(entry: Mapping[str, Any]) -> str:
    """Return the identity of the token, by its policies, which the holder of the token cannot choose."""
    auth = entry.get("auth") or {}
    policies, metadata, shown = (
        auth.get("policies") or [],
        auth.get("metadata") or {},
        str(auth.get("display_name", "")),
    )
    if ROOT in policies:
        return FIRST_BOOT if str(entry["request"]["id"]).startswith("initialize[") else ROOT
    if not policies:
        return UNAUTHENTICATED
    if policies == [f"{ROLE_PREFIX}{TENANT_ROLE}"] and metadata.get("role") == TENANT_ROLE and shown.startswith("jwt-"):
        return TENANT + shown.removeprefix("jwt-")
    role = str(metadata.get("role_name", ""))
    process = role.removeprefix(ROLE_PREFIX)
    if policies == [role] and role.startswith(ROLE_PREFIX) and shown == "approle" and process in OURS:
        return process
    return " ".join(filter(None, (shown, role))) or "unknown identity"


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
