"""A step that forgets to say what it did is found by the key server's own log, by name."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from activities import destruction, keys, rotation, services
from activities.journal import record
from database.reconciling import our_records
from tenancy import ids
from tenancy.audit import AuditName
from tenancy.books import close
from tenancy.double_entry import Kind
from tenancy.provisioning import Step
from tenancy.rotation import Scope
from tests.activities.conftest import Provisioning, run_steps
from tests.activities.connecting import operator
from tests.activities.leaving import Leaving, leaving
from tests.activities.rotating import Rotating, bao, opener, rotating
from tests.vault import server as openbao
from vault.audit_log import read_log

__all__ = ["bao", "leaving", "opener", "operator", "rotating"]  # fixtures that pytest finds here by their names

Differences = Callable[[Provisioning], list[tuple[Kind, str]]]


@pytest.fixture
def differences(key_server: openbao.Server) -> Differences:
    """Return what tells how the two sides of a tenant differ; MUST be asked for before the tenant is made."""
    begun = datetime.now(UTC)

    def told(tenant: Provisioning) -> list[tuple[Kind, str]]:
        log = read_log([key_server.folder / "logs" / "audit.log"], begun)
        log.begin = begun - timedelta(minutes=1)  # a test lasts seconds, and what it records is to be judged
        records = our_records(tenant.database, tenant.tenant_id, None)
        closed = close(log, {tenant.tenant_id: records}, log.begin, datetime.now(UTC))
        return [(one.kind, one.what) for one in closed.tenants[tenant.tenant_id]]

    return told


def forgetting(name: AuditName) -> Callable[..., None]:
    """Return a `record` that says everything but this."""

    def forgetful(tx: Any, step: Any, said: AuditName, *more: Any, **details: str) -> None:
        if said is not name:
            record(tx, step, said, *more, **details)

    return forgetful


def test_an_honest_rotation_is_clean(differences: Differences, rotating: Rotating) -> None:
    rotating.rotate(rotating.wants(compromised=True))
    assert differences(rotating.tenant) == []


@pytest.mark.parametrize(
    ("name", "what"),
    [
        (AuditName.TENANT_KEY_ROTATED, "was rotated, version 2"),
        (AuditName.TENANT_KEY_RETIRED, "had its older versions retired, version 2"),
        (AuditName.TENANT_KEY_TRIMMED, "had its older versions deleted, version 2"),
    ],
    ids=["rotated", "retired", "trimmed"],
)
def test_a_rotation_that_forgets_a_record_is_told(
    differences: Differences, rotating: Rotating, monkeypatch: pytest.MonkeyPatch, name: AuditName, what: str
) -> None:
    monkeypatch.setattr(rotation, "record", forgetting(name))
    rotating.rotate(rotating.wants(services=Scope.ALL, compromised=True))
    found = differences(rotating.tenant)
    assert (Kind.UNRECORDED_CHANGE, f"{ids.l2_key(rotating.tenant_id)} {what}") in found
    # The proof that the new version works belongs to an operation that has other records.
    assert len(found) == 1


def test_a_certificate_that_nobody_wrote_down_is_told(
    differences: Differences, rotating: Rotating, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "record", forgetting(AuditName.SERVICE_CERTIFICATE_ISSUED))
    rotating.connection.ask()
    rotating.connection.connect()
    ((kind, what),) = differences(rotating.tenant)
    assert (kind, what) == (Kind.UNRECORDED_CHANGE, f"something was signed with {ids.ca_key(rotating.tenant_id)}")


def test_a_key_made_without_a_word_is_told(
    differences: Differences, tenant: Provisioning, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "record", forgetting(AuditName.PAYLOAD_KEY_CREATED))
    run_steps(tenant, [Step.OPEN_RECORDS, Step.CREATE_KEYS])
    assert differences(tenant) == [(Kind.UNRECORDED_CHANGE, f"{ids.payload_key(tenant.tenant_id)} was made")]


def test_keys_destroyed_without_a_word_are_told(
    differences: Differences, leaving: Leaving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destruction, "record", forgetting(AuditName.KEY_DESTROYED))
    leaving.leave(now=True)
    leaving.through()
    key = ids.l2_key(leaving.tenant_id)
    told = {what for _, what in differences(leaving.tenant)}
    assert told >= {f"{key} was made deletable", f"{key} was deleted"}
