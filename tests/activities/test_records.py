"""Steps 1 and 5: intention before effect; route, state and message in one transaction, and each only once."""

import hashlib
import ssl

import pytest

from core.errors.platform import DatabaseRefused
from core.names import l2_key
from core.notifications import Channel
from core.tenants.lifecycle import State
from core.tenants.provisioning import Step, steps_of
from database.provisioning import RouteRow
from tests.activities.provisioning import REGION, Provisioning


def route_of(tenant: Provisioning) -> RouteRow | None:
    return tenant.read(lambda tx: tx.routes.get())


def messages(tenant: Provisioning) -> list[tuple[str, str]]:
    return sorted(tenant.read(lambda tx: [(one.kind, one.channel) for one, _ in tx.outbox.all()]))


def on_every_channel(kind: str) -> list[tuple[str, str]]:
    return sorted((kind, channel) for channel in (Channel.CALLBACK, Channel.EMAIL))


def test_intention_is_recorded_before_any_key_is_created(tenant):
    tenant.run(Step.OPEN_RECORDS)
    intended = tenant.records()[-1]
    assert (intended["name"], intended["outcome"]) == ("tenant.provision_intended", "intended")
    for name in intended["details"]["keys"].split(", "):
        assert tenant.tenant_id in name
        assert tenant.parts.vault.read(f"transit/keys/{name}") is None


def test_creating_the_records_twice_has_one_effect(tenant):
    tenant.run(Step.OPEN_RECORDS)
    steps = tenant.read(lambda tx: tx.steps.latest())
    assert [row.step for row in steps] == list(steps_of(tenant.tenant_id))
    tenant.run(Step.OPEN_RECORDS)
    assert tenant.tenant_row.state is State.PROVISIONING
    assert tenant.read(lambda tx: tx.steps.latest()) == steps
    tenant.assert_audited_once()


def test_canary_plans_no_attack_on_itself_and_sends_no_notification(canary):
    assert Step.CHECK_BOUNDARIES not in [row.step for row in canary.read(lambda tx: tx.steps.latest())]
    assert canary.tenant_row.state is State.ACTIVE
    canary.run("record-slo-breach")
    assert canary.announced() == []


@pytest.mark.usefixtures("canary")
def test_activation_publishes_one_route_and_one_message_per_channel(tenant):
    tenant.run_until(Step.CHECK_BOUNDARIES)
    assert route_of(tenant) is None
    assert tenant.tenant_row.state is State.PROVISIONING
    tenant.run(Step.ACTIVATE)
    first, route = tenant.tenant_row, route_of(tenant)
    tenant.run(Step.ACTIVATE)
    assert tenant.tenant_row == first
    assert first.state is State.ACTIVE
    assert messages(tenant) == on_every_channel("ready")
    assert route is not None
    assert route.l2_key == l2_key(tenant.tenant_id)
    issuer = tenant.get(lambda tx: tx.certificates.authority()).certificate_pem
    assert route.issuer_fingerprint == hashlib.sha256(ssl.PEM_cert_to_DER_cert(issuer)).hexdigest()
    tenant.assert_audited_once()
    # A breach of the SLO is recorded now, and no notification calls a ready tenant late.
    tenant.run("record-slo-breach")
    assert messages(tenant) == on_every_channel("ready")
    assert tenant.records("tenant.provisioning_slo_breached")


@pytest.mark.usefixtures("canary")
def test_tenant_whose_message_cannot_be_queued_does_not_become_active(tenant, field):
    tenant.run_until(Step.CHECK_BOUNDARIES)
    before = tenant.records()
    with field.administrator() as administrator:
        administrator.execute("revoke insert on okcm.outbox from okcm_worker")
        administrator.execute(
            "revoke insert (tenant_id, message_id, channel, kind, subject, body) on okcm.outbox from okcm_worker"
        )
    with pytest.raises(DatabaseRefused):
        tenant.run(Step.ACTIVATE)
    assert tenant.tenant_row.state is State.PROVISIONING
    assert route_of(tenant) is None
    assert not tenant.is_done(Step.ACTIVATE)
    assert tenant.records() == before

    with field.administrator() as administrator:
        administrator.execute("grant insert on okcm.outbox to okcm_worker")
    tenant.run(Step.ACTIVATE)
    assert tenant.tenant_row.state is State.ACTIVE
    assert messages(tenant) == on_every_channel("ready")


def test_failure_withdraws_the_route_and_is_notified_once(tenant):
    tenant.run_until(Step.CREATE_AUTHORITY)
    issuer = tenant.get(lambda tx: tx.certificates.authority()).fingerprint
    tenant.read(lambda tx: tx.routes.publish(RouteRow(l2_key(tenant.tenant_id), issuer, REGION)))
    for _ in range(2):
        tenant.run("record-failure", code="isolation_breached", reason="check-isolation")
    assert tenant.tenant_row.state is State.FAILED
    assert route_of(tenant) is None
    assert [record["details"]["code"] for record in tenant.records("tenant.failed")] == ["isolation_breached"]
    assert [record["name"] for record in tenant.records()][-2:] == ["route.withdrawn", "tenant.failed"]
    # No notification calls a failed tenant late.
    tenant.run("record-slo-breach")
    assert messages(tenant) == on_every_channel("failed")
    assert tenant.records("tenant.provisioning_slo_breached")
    assert not tenant.records("tenant.provision_retried")
    tenant.attempt += 1
    tenant.run(Step.OPEN_RECORDS)
    assert len(tenant.records("tenant.provision_retried")) == 1
    tenant.assert_audited_once()


def test_slo_breach_is_recorded_and_notified_once(tenant):
    tenant.run(Step.OPEN_RECORDS)
    tenant.run("record-slo-breach")
    tenant.run("record-slo-breach")
    assert tenant.tenant_row.promise_broken_at is not None
    assert tenant.tenant_row.state is State.PROVISIONING
    assert messages(tenant) == on_every_channel("delayed")
    tenant.assert_audited_once()
