"""Reconciliation with the audit log of the key server after records of a stream were archived."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from compliance.reconciliation.ledger import ServerLog, our_records, reconcile_all
from compliance.reconciliation.model import DiscrepancyKind, KeyKind, KeyOperation, ServerEvent
from core import names as ids
from core.keys.encryption_context import EncryptionContext, Purpose
from database.connection.database import Database
from openkcm.contract.audit_events import AuditName
from tests.activities.retention.archiving import TENANT, append, run
from tests.database.builders import a_provisioned_tenant, an_audit_event, made_old
from tests.database.fixtures import Field
from tests.database.signing import sign_head

NOW = datetime.now(UTC)
L2 = ids.l2_key(TENANT)
Alarms = Callable[[], list[datetime | None]]


def use_of_credentials(at: datetime) -> ServerEvent:
    context = EncryptionContext(TENANT, L2, "", Purpose.CREDENTIALS, "request")
    who = f"tenant:{TENANT}"
    return ServerEvent(at, f"{at}", KeyOperation.DECRYPTED, L2, TENANT, who, layer=KeyKind.TENANT_KEY, context=context)


@pytest.fixture
def alarms(worker: Database, operator: Database, field: Field, tmp_path: Path) -> Alarms:
    """Archive a change to a customer's root key; return a function that returns the times of unexplained uses.

    The key server's log has a use of the credentials before the end of the archive, and one after it.
    """
    a_provisioned_tenant(worker, TENANT)
    with worker.tenant_tx(TENANT) as tx:
        for outcome in ("intended", "success"):
            event_id = f"root-key-1/{AuditName.ROOT_KEY_CHANGED}/arn/{outcome}"
            details = {"before": "platform root-eu-west-1", "after": "aws-kms arn"}
            tx.audit.append(
                an_audit_event(
                    event_id, name=AuditName.ROOT_KEY_CHANGED, subject="arn", outcome=outcome, details=details
                )
            )
    sign_head(worker, TENANT)
    made_old(field, TENANT, days=2000)
    append(worker, TENANT, 2, "young")
    sign_head(worker, TENANT)
    assert run(worker, tmp_path / "archive").records > 2

    def found() -> list[datetime | None]:
        log = ServerLog(begin=NOW - timedelta(days=3000))
        log.events[TENANT] = [use_of_credentials(NOW - timedelta(days=days)) for days in (2500, 1000)]
        stream = our_records(operator, TENANT, None)
        differences = reconcile_all(log, {TENANT: stream}, None, NOW).tenants[TENANT]
        return [one.at for one in differences if one.kind is DiscrepancyKind.UNRECORDED_USE]

    return found


def test_use_is_explained_while_the_customers_root_key_is_in_use(alarms: Alarms, field: Field) -> None:
    with field.administrator() as administrator:
        administrator.execute("update okcm.tenant set root_key_mode = 'aws-kms'")
    assert alarms() == []


@pytest.mark.parametrize("left", ["root_key_mode = 'platform'", "root_key_mode = 'aws-kms', state = 'offboarded'"])
def test_only_a_use_after_the_archive_is_an_alarm_when_the_key_is_not_in_use(
    alarms: Alarms, field: Field, left: str
) -> None:
    with field.administrator() as administrator:
        administrator.execute(f"update okcm.tenant set {left}")
    assert alarms() == [NOW - timedelta(days=1000)]
