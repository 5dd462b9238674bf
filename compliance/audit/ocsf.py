"""Audit records as events of the Open Cybersecurity Schema Framework (OCSF), for SIEM systems.

A pure mapping of the text of a record. Fields without an equivalent in the schema keep their names under `unmapped`, as
does the upstream project's name of the event. The result cannot be verified; only the export in the OpenKCM format can.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any

from openkcm.contract.audit_events import AuditName, StoredRecord, fields_of

VERSION = "1.6.0"
"""Version of the OCSF schema."""
NOT_VERIFIABLE = "a rendering; the form that can be verified is that of openkcmctl audit export"
_OTHER = 99


class EventClass(IntEnum):
    """Used event classes by `class_uid`; the thousands are the category."""

    BASE = 0
    AUTHENTICATION = 3002
    ENTITY = 3004
    APPLICATION = 6002
    API = 6003


class Severity(IntEnum):
    INFORMATIONAL = 1
    MEDIUM = 3
    HIGH = 4
    CRITICAL = 5


_CATEGORIES = {0: "Uncategorized", 3: "Identity & Access Management", 6: "Application Activity"}
_CLASSES = {
    EventClass.BASE: "Base Event",
    EventClass.AUTHENTICATION: "Authentication",
    EventClass.ENTITY: "Entity Management",
    EventClass.APPLICATION: "Application Lifecycle",
    EventClass.API: "API Activity",
}
_CRUD = {1: "Create", 2: "Read", 3: "Update", 4: "Delete"}
ACTIVITIES: Mapping[EventClass, Mapping[int, str]] = MappingProxyType(
    {
        EventClass.BASE: {},
        EventClass.AUTHENTICATION: {1: "Logon", 2: "Logoff"},
        EventClass.ENTITY: _CRUD,
        EventClass.APPLICATION: {1: "Install", 2: "Remove", 3: "Start", 6: "Enable", 7: "Disable", 8: "Update"},
        EventClass.API: _CRUD,
    }
)
"""Used activities of each class; for `_OTHER` the activity name is the name of the audit event."""
REQUIRED: Mapping[EventClass, tuple[str, ...]] = MappingProxyType(
    {
        EventClass.BASE: (),
        EventClass.AUTHENTICATION: ("user", "service"),
        EventClass.ENTITY: ("entity",),
        EventClass.APPLICATION: ("app",),
        EventClass.API: ("actor", "api", "src_endpoint"),
    }
)
"""Required attributes of each class, in addition to `REQUIRED_OF_ALL`."""
REQUIRED_OF_ALL = ("activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid")


@dataclass(frozen=True, slots=True)
class Mapped:
    """OCSF class, activity (`_OTHER` if the class has no equivalent) and severity of one audit event name."""

    event_class: EventClass
    activity: int
    severity: Severity = Severity.INFORMATIONAL
    failed: Severity = Severity.MEDIUM
    """Severity if the operation was rejected or failed."""


def _all(
    event_class: EventClass,
    activity: int,
    *names: AuditName,
    severity: Severity = Severity.INFORMATIONAL,
    failed: Severity = Severity.MEDIUM,
) -> dict[AuditName, Mapped]:
    return dict.fromkeys(names, Mapped(event_class, activity, severity, failed))


_N, _API, _ENTITY, _APP = AuditName, EventClass.API, EventClass.ENTITY, EventClass.APPLICATION
_GRAVE = Severity.HIGH

OCSF: Mapping[AuditName, Mapped] = MappingProxyType(
    _all(EventClass.AUTHENTICATION, 1, _N.SIGNED_IN, _N.ENROLMENT_ACCEPTED, _N.ENROLMENT_PROOF_REFUSED)
    | _all(EventClass.AUTHENTICATION, 2, _N.SIGNED_OUT)
    # Requests of services, users and operators to an interface.
    | _all(_API, 1, _N.SERVICE_CONNECT_REQUESTED, _N.APPROVAL_ASKED, _N.JOIN_TOKEN_REQUESTED, _N.ENABLE_ACCEPTED)
    | _all(_API, 2, _N.CRYPTO_KEY_RELEASED, _N.EXPORTED, _N.STREAM_BEGUN, _N.STREAM_ENDED, _N.ACCESS_REFUSED)
    | _all(_API, 2, _N.SERVICE_KEY_OPENED, _N.REPORT_DOWNLOADED, _N.AUDIT_RECONCILED, _N.AUDIT_ARCHIVED)
    | _all(_API, 2, _N.AUDIT_DIFFERENCE, severity=_GRAVE, failed=_GRAVE)
    | _all(_API, 1, _N.REPORT_REQUESTED, _N.NOTIFICATION_TEST_REQUESTED)
    | _all(_API, 2, _N.STREAM_BEHIND, _N.ROOT_KEY_PREFLIGHT_REQUESTED, _N.ROOT_KEY_CHECKED)
    | _all(_API, 2, _N.BOUNDARY_CHECK_REQUESTED)
    | _all(_API, 2, _N.BOUNDARY_CHECKED, _N.BOUNDARY_BREACHED, failed=Severity.CRITICAL)
    | _all(
        _API,
        3,
        *(_N.CRYPTO_KEY_CHANGED, _N.SERVICE_RENEW_REQUESTED, _N.RETRY_REQUESTED, _N.LOCK_REQUESTED),
        _N.REPAIR_REQUESTED,
        *(_N.UNLOCK_REQUESTED, _N.SUSPEND_REQUESTED, _N.RESUME_REQUESTED, _N.ROOT_KEY_CHANGE_REQUESTED),
        *(_N.POLICY_CHANGE_REQUESTED, _N.APPROVAL_VOTED, _N.ROTATE_REQUESTED, _N.AUTHORITY_ROLL_REQUESTED),
        *(_N.RESTORE_REQUESTED, _N.PROTECTION_CHANGE_REQUESTED, _N.BREACH_CLEAR_REQUESTED),
        _N.ANNOUNCE_RETRY_REQUESTED,
    )
    | _all(_API, 4, _N.SERVICE_DISCONNECT_REQUESTED, _N.RETIRE_REQUESTED, _N.OFFBOARD_REQUESTED, _N.DISABLE_RECORDED)
    | _all(_ENTITY, 4, _N.NOTIFICATION_TARGET_REMOVED)
    | _all(_API, _OTHER, _N.CRYPTO_USED, _N.CRYPTO_REFUSED, _N.ACTION_REFUSED, _N.ANNOUNCED, _N.ANNOUNCE_EXPIRED)
    # Changes of a tenant's resources.
    | _all(
        _ENTITY,
        1,
        *(_N.SERVICE_DISCOVERED, _N.JOIN_TOKEN_MADE, _N.FIELD_PROTECTED, _N.TENANT_KEY_CREATED, _N.PAYLOAD_KEY_CREATED),
        *(_N.AUTHORITY_CREATED, _N.ROUTE_PUBLISHED, _N.SERVICE_CONNECT_INTENDED, _N.SERVICE_KEY_CREATED),
        *(_N.SERVICE_CERTIFICATE_ISSUED, _N.SERVICE_CONNECTED, _N.REVOCATION_LIST_PUBLISHED, _N.APPROVAL_REQUESTED),
        *(_N.SHRED_CERTIFIED, _N.PROVISION_INTENDED, _N.REPORT_MADE, _N.NOTIFICATION_TARGET_ADDED),
    )
    | _all(_ENTITY, 2, _N.EXPIRY_LATE, _N.ROTATION_STUCK, _N.ROOT_KEY_VERSION_NOTICED, severity=Severity.MEDIUM)
    | _all(_ENTITY, 2, _N.EXPIRY_LAPSED, _N.ROOT_KEY_UNAVAILABLE, severity=_GRAVE, failed=_GRAVE)
    | _all(_ENTITY, 2, _N.ROOT_KEY_AVAILABLE)
    | _all(
        _ENTITY,
        3,
        *(_N.FIELD_PROTECTION_CHANGED, _N.KEYS_ROTATED, _N.TENANT_KEY_ROTATED, _N.TENANT_KEY_RETIRED),
        *(_N.SERVICE_KEY_ROTATED, _N.AUTHORITY_ROLL_INTENDED, _N.AUTHORITY_ROLLED, _N.ROOT_KEY_CHANGED),
        *(_N.ROOT_KEY_VERSION_FOLLOWED, _N.POLICY_CHANGED, _N.APPROVAL_GRANTED, _N.APPROVAL_DECLINED),
        *(_N.APPROVAL_EXPIRED, _N.APPROVAL_EXECUTED, _N.APPROVAL_WITHDRAWN),
        *(_N.NOTIFICATION_TARGET_CHANGED, _N.NOTIFICATION_SECRET_ROTATED),
    )
    | _all(_ENTITY, 3, _N.SERVICE_KEY_COMPROMISED, severity=Severity.CRITICAL)
    | _all(_ENTITY, 1, _N.TENANT_KEY_REFUSED, severity=Severity.CRITICAL, failed=Severity.CRITICAL)
    | _all(
        _ENTITY,
        4,
        *(_N.FIELD_UNPROTECTED, _N.ROUTE_WITHDRAWN, _N.SERVICE_DISCONNECTED, _N.TENANT_KEY_TRIMMED),
        *(_N.AUTHORITY_ENDED, _N.PROVISION_ROLLED_BACK),
    )
    | _all(_ENTITY, 4, _N.SERVICE_KEY_DESTROYED, _N.KEY_DESTROYED, _N.ROWS_ERASED, severity=_GRAVE)
    # State of the tenant itself, which OCSF represents as an application.
    | _all(_APP, 1, _N.TENANT_ACTIVATED)
    | _all(_APP, 1, _N.TENANT_FAILED, _N.PROMISE_BROKEN, failed=_GRAVE)
    | _all(_APP, 3, _N.PROVISION_RETRIED)
    | _all(_APP, 2, _N.LEAVING_BEGUN, _N.LEAVING_JOINED, _N.DESTRUCTION_BEGUN, _N.OFFBOARDED, severity=_GRAVE)
    | _all(_APP, 6, _N.TENANT_UNLOCKED, _N.TENANT_RESUMED, _N.RESTORED, _N.BREACH_CLEARED)
    | _all(_APP, 7, _N.TENANT_LOCKED, severity=_GRAVE)
    | _all(_APP, 7, _N.TENANT_SUSPENDED, severity=Severity.MEDIUM)
)
_BY_TEXT = {str(name): mapped for name, mapped in OCSF.items()}
_UNKNOWN = Mapped(EventClass.BASE, _OTHER)
_FAILED = (2, "Failure")
_STATUS = {"success": (1, "Success"), "refused": _FAILED, "failure": _FAILED, "intended": (_OTHER, "Intended")}
_PRODUCT = {"name": "OpenKCM", "vendor_name": "OpenKCM"}
_USER_TYPES = {"human": (1, "User"), "service": (4, "Service"), "system": (3, "System")}


def event(stored: StoredRecord) -> dict[str, Any]:
    """Return a record as an OCSF event; a malformed record, which tampering can leave, becomes a base event."""
    fields = fields_of(stored.record)
    name = str(fields.get("name", ""))
    mapped = _BY_TEXT.get(name, _UNKNOWN)
    outcome = str(fields.get("outcome", ""))
    status_id, status = _STATUS.get(outcome, (0, "Unknown"))
    details = fields.get("details")
    code = str(details.get("code", "")) if isinstance(details, dict) else ""
    class_uid, category = int(mapped.event_class), int(mapped.event_class) // 1000
    activity = ACTIVITIES[mapped.event_class].get(mapped.activity, name or "Other")
    severity = mapped.failed if status_id == 2 else mapped.severity
    class_name = _CLASSES[mapped.event_class]
    mapped_event: dict[str, Any] = {
        "activity_id": mapped.activity,
        "activity_name": activity,
        "category_uid": category,
        "category_name": _CATEGORIES[category],
        "class_uid": class_uid,
        "class_name": class_name,
        "type_uid": class_uid * 100 + mapped.activity,
        "type_name": f"{class_name}: {activity}",
        "severity_id": int(severity),
        "severity": severity.name.capitalize(),
        "status_id": status_id,
        "status": status,
        "time": _milliseconds(fields.get("time")),
        "message": f"{name} of {fields.get('subject', '')}: {outcome}",
        "metadata": _metadata(stored, fields, name),
        **({"status_code": code} if code else {}),
        **_of_class(mapped.event_class, fields, name),
        "unmapped": {
            **{key: value for key, value in fields.items() if key in _KEPT},
            "chain_hash": stored.chain_hash.hex(),
            "verifiable": NOT_VERIFIABLE,
        },
    }
    return mapped_event


def ocsf_line(stored: StoredRecord) -> str:
    """Return a record as one line of JSON Lines."""
    return json.dumps(event(stored), separators=(",", ":")) + "\n"


_KEPT = ("name", "actor", "actor_kind", "subject", "outcome", "details", "upstream_event_type")


def _metadata(stored: StoredRecord, fields: Mapping[str, object], name: str) -> dict[str, Any]:
    return {
        "version": VERSION,
        "product": _PRODUCT,
        "uid": str(fields.get("event_id", "")),
        "correlation_uid": str(fields.get("correlation_id", "")),
        "sequence": stored.seq,
        "event_code": name,
        "original_time": str(fields.get("time", "")),
        "tenant_uid": str(fields.get("tenant_id", "")),
        "log_name": "audit",
        "log_provider": "openkcm",
    }


def _of_class(event_class: EventClass, fields: Mapping[str, object], name: str) -> dict[str, Any]:
    """Return the required attributes of the class, and the actor and source endpoint that every class allows."""
    kind, by = str(fields.get("actor_kind", "")), str(fields.get("actor", ""))
    subject = str(fields.get("subject", ""))
    type_id, user_type = _USER_TYPES.get(kind, (0, "Unknown"))
    user = {"name": by, "uid": by, "type_id": type_id, "type": user_type}
    actor = {"user": user} if kind == "human" else {"user": user, "app_name": by}
    source = str(fields.get("source", ""))
    common: dict[str, Any] = {"actor": actor, "src_endpoint": _endpoint(source, by)}
    match event_class:
        case EventClass.AUTHENTICATION:
            return common | {"user": user, "service": {"name": subject}}
        case EventClass.ENTITY:
            return common | {"entity": {"name": subject, "uid": subject, "type": name.partition(".")[0]}}
        case EventClass.APPLICATION:
            return common | {"app": _PRODUCT | {"uid": str(fields.get("tenant_id", ""))}}
        case EventClass.API:
            resources = [{"name": subject, "type": name.partition(".")[0]}]
            return common | {"api": {"operation": name}, "resources": resources}
        case _:
            return common


def _endpoint(source: str, by: str) -> dict[str, str]:
    """Return the source endpoint: the peer's address, or the process if the request did not use a network."""
    host = source.rpartition(":")[0].strip("[]") if source.count(":") == 1 or source.startswith("[") else source
    try:
        return {"ip": str(ip_address(host)), "svc_name": by}
    except ValueError:
        return {"name": source, "svc_name": by} if source else {"svc_name": by}


def _milliseconds(time: object) -> int:
    try:
        moment = datetime.fromisoformat(str(time))
    except ValueError:
        return 0
    return int(moment.astimezone(UTC).timestamp() * 1000)
