"""Audit events: names, record fields, and the hash chain that anyone can verify offline.

A stream is the sequence of one tenant's records. PostgreSQL composes the text of each record under the stream's lock
and stores exactly that text; `link` is the chain over it. Since the stored text itself is hashed, no second encoding
exists. A verifier needs only the texts, SHA-256 and the signed checkpoint.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticSerializationError

from openkcm.errors import AuditBroken

GENESIS = bytes(32)
"""The hash before the first record of a stream."""
CHECKPOINT_MINUTES = 5
"""The interval at which the platform signs a checkpoint of each stream, counted from midnight UTC."""


class AuditName(StrEnum):
    """Event names; `UPSTREAM_NAME` maps them to those of the upstream project where it has one."""

    ENABLE_ACCEPTED = "marketplace.enable_accepted"
    DISABLE_RECORDED = "marketplace.disable_recorded"
    SERVICE_DISCOVERED = "marketplace.service_discovered"
    JOIN_TOKEN_MADE = "enrolment.join_token_made"  # noqa: S105 - a word, not a secret
    JOIN_TOKEN_REQUESTED = "enrolment.join_token_requested"  # noqa: S105 - the same
    FIELD_PROTECTED = "protection.field_protected"
    FIELD_PROTECTION_CHANGED = "protection.field_changed"
    FIELD_UNPROTECTED = "protection.field_unprotected"
    PROTECTION_CHANGE_REQUESTED = "protection.change_requested"
    ENROLMENT_ACCEPTED = "enrolment.accepted"
    ENROLMENT_PROOF_REFUSED = "enrolment.proof_refused"
    PROVISION_INTENDED = "tenant.provision_intended"
    TENANT_KEY_CREATED = "key.tenant_key_created"
    TENANT_KEY_REFUSED = "key.tenant_key_refused"
    PAYLOAD_KEY_CREATED = "key.payload_key_created"
    AUTHORITY_CREATED = "certificate.ca_created"
    ROUTE_PUBLISHED = "route.published"
    ROUTE_WITHDRAWN = "route.withdrawn"
    BOUNDARY_CHECKED = "isolation.checked"
    AUDIT_ARCHIVED = "audit.archived"
    AUDIT_RECONCILED = "audit.reconciled"
    AUDIT_DIFFERENCE = "audit.discrepancy_found"
    BOUNDARY_BREACHED = "isolation.breached"
    TENANT_ACTIVATED = "tenant.activated"
    TENANT_FAILED = "tenant.failed"
    PROVISION_ROLLED_BACK = "tenant.provision_rolled_back"
    PROVISION_RETRIED = "tenant.provision_retried"
    PROMISE_BROKEN = "tenant.provisioning_slo_breached"
    ANNOUNCED = "tenant.notified"
    ANNOUNCE_EXPIRED = "tenant.notification_expired"
    ANNOUNCE_RETRY_REQUESTED = "tenant.notification_retry_requested"
    NOTIFICATION_TARGET_ADDED = "tenant.notification_target_added"
    NOTIFICATION_TARGET_CHANGED = "tenant.notification_target_changed"
    NOTIFICATION_TARGET_REMOVED = "tenant.notification_target_removed"
    NOTIFICATION_SECRET_ROTATED = "tenant.notification_secret_rotated"  # noqa: S105 - the name of an event
    NOTIFICATION_TEST_REQUESTED = "tenant.notification_test_requested"
    SERVICE_CONNECT_INTENDED = "service.connect_intended"
    SERVICE_KEY_CREATED = "key.service_key_created"
    SERVICE_KEY_OPENED = "key.service_key_unwrapped"
    SERVICE_CERTIFICATE_ISSUED = "certificate.service_certificate_issued"
    SERVICE_CONNECTED = "service.connected"
    SERVICE_DISCONNECTED = "service.disconnected"
    CRYPTO_KEY_RELEASED = "crypto.key_released"
    CRYPTO_KEY_CHANGED = "crypto.key_changed"
    CRYPTO_USED = "crypto.used"
    CRYPTO_REFUSED = "crypto.refused"
    SIGNED_IN = "dashboard.signed_in"
    SIGNED_OUT = "dashboard.signed_out"
    ACCESS_REFUSED = "dashboard.access_refused"
    ACTION_REFUSED = "dashboard.action_refused"
    EXPORTED = "audit.exported"
    SERVICE_CONNECT_REQUESTED = "service.connect_requested"
    SERVICE_RENEW_REQUESTED = "service.renew_requested"
    SERVICE_DISCONNECT_REQUESTED = "service.disconnect_requested"
    RETRY_REQUESTED = "tenant.retry_requested"
    REPAIR_REQUESTED = "tenant.repair_requested"
    TENANT_LOCKED = "tenant.locked"
    TENANT_UNLOCKED = "tenant.unlocked"
    BREACH_CLEARED = "tenant.isolation_lock_cleared"
    TENANT_SUSPENDED = "tenant.suspended"
    TENANT_RESUMED = "tenant.resumed"
    LOCK_REQUESTED = "tenant.lock_requested"
    UNLOCK_REQUESTED = "tenant.unlock_requested"
    SUSPEND_REQUESTED = "tenant.suspend_requested"
    RESUME_REQUESTED = "tenant.resume_requested"
    KEYS_ROTATED = "key.rotated"
    ROTATION_STUCK = "key.rotation_stalled"
    TENANT_KEY_ROTATED = "key.tenant_key_rotated"
    TENANT_KEY_RETIRED = "key.tenant_key_versions_retired"
    TENANT_KEY_TRIMMED = "key.tenant_key_versions_deleted"
    SERVICE_KEY_ROTATED = "key.service_key_rotated"
    SERVICE_KEY_COMPROMISED = "key.service_key_compromised"
    SERVICE_KEY_DESTROYED = "key.service_key_destroyed"
    AUTHORITY_ROLL_INTENDED = "certificate.ca_rotation_intended"
    AUTHORITY_ROLLED = "certificate.ca_rotated"
    AUTHORITY_ENDED = "certificate.ca_retired"
    REVOCATION_LIST_PUBLISHED = "certificate.crl_published"
    EXPIRY_LATE = "certificate.renewal_overdue"
    EXPIRY_LAPSED = "certificate.expired"
    ROOT_KEY_CHECKED = "root_key.preflight_ended"
    ROOT_KEY_CHANGED = "root_key.changed"
    ROOT_KEY_UNAVAILABLE = "root_key.unavailable"
    ROOT_KEY_AVAILABLE = "root_key.available"
    ROOT_KEY_VERSION_NOTICED = "root_key.version_detected"
    ROOT_KEY_VERSION_FOLLOWED = "root_key.version_adopted"
    ROOT_KEY_PREFLIGHT_REQUESTED = "root_key.preflight_requested"
    ROOT_KEY_CHANGE_REQUESTED = "root_key.change_requested"
    POLICY_CHANGED = "policy.changed"
    POLICY_CHANGE_REQUESTED = "policy.change_requested"
    APPROVAL_REQUESTED = "approval.opened"
    APPROVAL_GRANTED = "approval.granted"
    APPROVAL_DECLINED = "approval.declined"
    APPROVAL_EXPIRED = "approval.expired"
    APPROVAL_WITHDRAWN = "approval.withdrawn"
    APPROVAL_EXECUTED = "approval.executed"
    APPROVAL_ASKED = "approval.submitted"
    APPROVAL_VOTED = "approval.vote_submitted"
    LEAVING_BEGUN = "tenant.offboarding_started"
    LEAVING_JOINED = "tenant.offboarding_joined"
    RESTORED = "tenant.restored"
    DESTRUCTION_BEGUN = "tenant.destruction_started"
    KEY_DESTROYED = "key.destroyed"
    ROWS_ERASED = "tenant.rows_erased"
    SHRED_CERTIFIED = "tenant.erasure_certified"
    OFFBOARDED = "tenant.offboarded"
    ROTATE_REQUESTED = "key.rotate_requested"
    RETIRE_REQUESTED = "key.retire_requested"
    AUTHORITY_ROLL_REQUESTED = "certificate.ca_rotation_requested"
    BREACH_CLEAR_REQUESTED = "tenant.isolation_lock_clear_requested"
    BOUNDARY_CHECK_REQUESTED = "isolation.check_requested"
    STREAM_BEGUN = "audit.forwarding_started"
    STREAM_ENDED = "audit.forwarding_stopped"
    STREAM_BEHIND = "audit.forwarding_delayed"
    OFFBOARD_REQUESTED = "tenant.offboard_requested"
    RESTORE_REQUESTED = "tenant.restore_requested"
    REPORT_REQUESTED = "report.requested"
    REPORT_MADE = "report.generated"
    REPORT_DOWNLOADED = "report.downloaded"


UPSTREAM_NAME: dict[AuditName, str] = {
    AuditName.PROVISION_INTENDED: "workflowStart",
    AuditName.TENANT_KEY_CREATED: "keyCreate",
    AuditName.PAYLOAD_KEY_CREATED: "keyCreate",
    AuditName.AUTHORITY_CREATED: "credentialCreate",
    AuditName.AUTHORITY_ROLLED: "credentialCreate",
    AuditName.AUTHORITY_ENDED: "credentialDelete",
    AuditName.TENANT_ACTIVATED: "tenantOnboarding",
    AuditName.ROUTE_PUBLISHED: "configurationCreate",
    AuditName.ROUTE_WITHDRAWN: "configurationDelete",
    AuditName.SERVICE_KEY_CREATED: "keyCreate",
    AuditName.TENANT_KEY_ROTATED: "keyRotate",
    AuditName.SERVICE_KEY_ROTATED: "keyRotate",
    AuditName.TENANT_KEY_TRIMMED: "keyPurge",
    AuditName.SERVICE_KEY_DESTROYED: "keyPurge",
    AuditName.FIELD_PROTECTED: "configurationCreate",
    AuditName.FIELD_PROTECTION_CHANGED: "configurationUpdate",
    AuditName.FIELD_UNPROTECTED: "configurationDelete",
    AuditName.SERVICE_CERTIFICATE_ISSUED: "credentialCreate",
    AuditName.SERVICE_DISCONNECTED: "credentialDelete",
    AuditName.CRYPTO_REFUSED: "unauthorizedRequest",
    AuditName.ENROLMENT_PROOF_REFUSED: "unauthorizedRequest",
    AuditName.SIGNED_IN: "userLoginSuccess",
    AuditName.ACCESS_REFUSED: "unauthorizedRequest",
    AuditName.ACTION_REFUSED: "unauthorizedRequest",
    AuditName.KEY_DESTROYED: "keyPurge",
    AuditName.OFFBOARDED: "tenantOffboarding",
}

ActorKind = Literal["human", "service", "system"]
Outcome = Literal["intended", "success", "refused", "failure"]


class AuditEvent(BaseModel):
    """A record before it is appended; the database adds sequence number, time and hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    event_id: str = Field(description="derived from workflow and step, so that a retried step adds nothing twice")
    name: AuditName
    actor_kind: ActorKind
    actor: str
    subject: str = Field(description="what was acted on, by its name")
    outcome: Outcome
    correlation_id: str = Field(description="the workflow id, or the webhook id before there is a workflow")
    source: str = Field(default="", description="address the request came from, if known")
    details: dict[str, str] = Field(default_factory=dict)

    def as_json(self) -> str:
        """Return the fields as a JSON object, with the upstream name."""
        try:
            fields = self.model_dump_json()
        except PydanticSerializationError:  # a lone surrogate, which the database rejects
            fields = json.dumps(self.model_dump())
        upstream = UPSTREAM_NAME.get(self.name)
        return fields if upstream is None else f'{fields[:-1]},"upstream_event_type":{json.dumps(upstream)}}}'


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as it is stored in the stream."""

    seq: int
    record: str
    chain_hash: bytes


def link(previous: bytes, record: str) -> bytes:
    """Return the chain hash of `record` after `previous`: SHA-256 over the 32 bytes and the text's UTF-8."""
    return hashlib.sha256(previous + record.encode("utf-8")).digest()


def is_linked(previous: bytes, stored: StoredRecord) -> bool:
    """Return whether a record's chain hash is that of its text after `previous`."""
    try:
        return link(previous, stored.record) == stored.chain_hash
    except UnicodeEncodeError:  # an export can hold a lone surrogate, PostgreSQL cannot
        return False


def _has_sequence_number(record: str, position: int) -> bool:
    """Return whether the text contains its sequence number, so that a renumbering outside of it is detected."""
    seq = fields_of(record).get("seq")
    return type(seq) is int and seq == position


@lru_cache(maxsize=1)
def fields_of(record: str) -> Mapping[str, object]:
    """Return the fields of a record's text; empty for a text that is not JSON, which only tampering can produce.

    The last text is cached: a verifier reads each record several times, and parsing dominates its run time. The result
    is read-only.
    """
    try:
        fields = json.loads(record)
    except (ValueError, RecursionError):  # too deeply nested: an attempt to exhaust the verifier's stack
        fields = None
    return MappingProxyType(fields if isinstance(fields, dict) else {})


def verify_chain(records: Iterable[StoredRecord], after: StoredRecord | None = None) -> StoredRecord | None:
    """Return the last record of a valid stream, None for an empty one; a stream can be verified in parts.

    `after` is the result for the part before. The chain does not reveal truncation at the end; the caller MUST compare
    the result with a signed checkpoint.

    Raises:
        AuditBroken: a record is missing, out of order or altered; the message names the first bad position.
    """
    last, previous, first = (None, GENESIS, 1) if after is None else (after, after.chain_hash, after.seq + 1)
    for position, stored in enumerate(records, start=first):
        if stored.seq != position:
            raise AuditBroken(f"record {position} is missing or out of order")
        if not is_linked(previous, stored) or not _has_sequence_number(stored.record, position):
            raise AuditBroken(f"record {position} was altered")
        previous, last = stored.chain_hash, stored
    return last


def head_message(tenant_id: str, seq: int, chain_hash: bytes) -> bytes:
    """Return the message that a checkpoint signs: tenant, length and hash of the stream in one unambiguous line."""
    return f"openkcm-audit-head/1 {tenant_id} {seq} {chain_hash.hex()}".encode()


def archive_message(tenant_id: str, seq: int, chain_hash: bytes, sha256: bytes) -> bytes:
    """Return the message of an archive statement: a verified file with this SHA-256 ends with record `seq`.

    It differs from `head_message`: a checkpoint, of which the database has many, does not prove that its records were
    archived.
    """
    return f"openkcm-audit-archive/1 {tenant_id} {seq} {chain_hash.hex()} {sha256.hex()}".encode()
