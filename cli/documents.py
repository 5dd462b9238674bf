"""Rows as the JSON types of the documents that commands print."""

from datetime import datetime
from typing import Any

from core import names as ids
from core.tenants.lifecycle import State
from database.certificates import AuthorityRow, RevocationListRow
from database.isolation import AssessmentRow
from database.keys import KeyVersionRow
from database.offboarding import OffboardingRow
from database.rotation import RotationRow
from database.services.repository import ServiceRow
from database.tenants import TenantRow


def summarize_tenant(row: TenantRow) -> dict[str, Any]:
    return {
        "tenant_id": row.tenant_id,
        "organization": row.organization,
        "region": row.region,
        "state": row.state,
        "locks": list(row.locks),
        "root_key_mode": row.root_key_mode,
        "l2_key": ids.l2_key(row.tenant_id),
        "requested_at": row.requested_at.isoformat(),
        "ready_at": row.ready_at and row.ready_at.isoformat(),
        "ready_seconds": None if row.ready_at is None else (row.ready_at - row.requested_at).total_seconds(),
        "provisioning_slo_breached_at": row.promise_broken_at and row.promise_broken_at.isoformat(),
    }


def describe_service(row: ServiceRow) -> dict[str, Any]:
    """Return a service as JSON types."""
    return {
        "service_id": row.service,
        "kind": row.kind,
        "state": row.state,
        "certificate_not_after": row.certificate_not_after and row.certificate_not_after.isoformat(),
        "last_seen_at": row.last_seen_at and row.last_seen_at.isoformat(),
        "connected_at": row.connected_at and row.connected_at.isoformat(),
        "disconnected_at": row.disconnected_at and row.disconnected_at.isoformat(),
    }


def describe_key_version(key: KeyVersionRow) -> dict[str, Any]:
    """Return a version of a service key as JSON types."""
    return {
        "service_id": key.service,
        "version": key.version,
        "state": key.state,
        "l2_version": key.l2_version,
        "activated_at": key.activated_at and key.activated_at.isoformat(),
        "last_opened_at": key.last_opened_at and key.last_opened_at.isoformat(),
    }


def describe_rotation(tenant_id: str, rotation: RotationRow) -> dict[str, Any]:
    """Return a rotation as JSON types."""
    return {
        "id": ids.rotation_workflow(tenant_id, rotation.number),
        "state": rotation.state,
        "stage": rotation.stage,
        "done": rotation.done,
        "total": rotation.total,
        "problem": rotation.problem,
        "root_key_version": rotation.wanted.root_key_version,
        "scheduled": rotation.wanted.scheduled,
        "started_at": rotation.started_at.isoformat(),
        "finished_at": rotation.finished_at and rotation.finished_at.isoformat(),
    }


def describe_ca(
    row: AuthorityRow, issued_until: datetime | None, listed: RevocationListRow | None = None
) -> dict[str, Any]:
    """Return a tenant CA as JSON types."""
    return {
        "serial": row.serial,
        "state": row.state,
        "key_version": row.key_version,
        "not_after": row.not_after.isoformat(),
        "issued_until": issued_until and issued_until.isoformat(),
        "revocation_list": listed and describe_crl(listed),
    }


def describe_crl(listed: RevocationListRow) -> dict[str, Any]:
    """Return the number and times of a CRL as JSON types."""
    return {
        "number": listed.number,
        "this_update": listed.this_update.isoformat(),
        "next_update": listed.next_update.isoformat(),
    }


def describe_assessment(row: AssessmentRow | None) -> dict[str, Any] | None:
    """Return an isolation assessment as JSON types, one entry for each clause."""
    if row is None:
        return None
    return {
        "run": row.run,
        "examined_at": row.examined_at.isoformat(),
        "passed": row.passed,
        "clauses": [line.model_dump(include={"clause", "held", "breached", "not_checked"}) for line in row.lines],
    }


def describe_offboarding(row: OffboardingRow | None) -> dict[str, Any] | None:
    """Return the progress of a tenant's offboarding as JSON types; None without an offboarding."""
    if row is None or row.since is None:
        return None
    times = {"since": row.since, "until": row.until, "destroying_at": row.destroying_at, "ended_at": row.offboarded_at}
    restorable = row.destroying_at is None and row.state is State.LEAVING and not row.immediate
    return {name: at and at.isoformat() for name, at in times.items()} | {"restorable": restorable}
