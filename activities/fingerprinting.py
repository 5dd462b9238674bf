"""A new version of a tenant key is admitted only with a fingerprint that no other key has (MTCI U2)."""

import structlog

from activities.journal import record
from activities.metrics import Metrics
from core.errors.compliance import TenantKeyReplaced, TenantKeyShared
from core.isolation import CheckResult
from core.messages.base import StepInput
from database.connection.transaction import TenantTransaction
from database.keys import Fingerprinted
from openkcm.contract.audit_events import AuditName
from openkcm.errors import OpenKcmError
from vault.transit.keys import TransitKey

_REFUSED = {Fingerprinted.TAKEN: TenantKeyShared, Fingerprinted.CHANGED: TenantKeyReplaced}

log = structlog.get_logger()


def refused_fingerprint(
    tx: TenantTransaction, step: StepInput, key: TransitKey, fingerprint: str
) -> OpenKcmError | None:
    """Put the newest version's fingerprint on record; return why the key must not be used, None when it may.

    The caller raises what is returned once the transaction is committed: by then it is in the audit stream.
    """
    refusal = _REFUSED.get(tx.fingerprints.record(key.name, key.version, fingerprint))
    if refusal is None:
        return None
    record(tx, step, AuditName.TENANT_KEY_REFUSED, key.name, "failure", version=str(key.version), code=refusal.code)
    return refusal()


def alarm(metrics: Metrics, tenant_id: str, refusal: OpenKcmError) -> None:
    """Say it where somebody is woken: as a boundary that was breached."""
    log.error("tenant key refused", tenant_id=tenant_id, code=refusal.code)
    metrics.count_boundary_checks(
        [CheckResult(clause="U2", name="fingerprint", outcome="breached", seconds=0, evidence=refusal.message)]
    )
