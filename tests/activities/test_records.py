"""Steps 1 and 5: intent before effect; route, state and message together, and each only once."""

import hashlib
import ssl

import pytest

from database.interfaces import AuthorityRow, RouteRow
from tenancy.errors import DatabaseRefused
from tenancy.events import AnnouncementKind, Channel
from tenancy.ids import CANARY_TENANT_ID, l2_key
from tenancy.lifecycle import State
from tenancy.provisioning import Step, steps_of
from tests.activities.conftest import REGION, Provisioning


def state_of(tenant: Provisioning) -> State:
    with tenant.database.tenant_tx(tenant.tenant_id) as tx:
        row = tx.tenants.get()
    assert row is not None
    return row.state


def messages_of(tenant: Provisioning) -> list[tuple[AnnouncementKind, Channel]]:
    with tenant.database.tenant_tx(tenant.tenant_id) as tx:
        return [(message.kind, message.channel) for message, _ in tx.outbox.all()]


def route_of(tenant: Provisioning) -> RouteRow | None:
    with tenant.database.tenant_tx(tenant.tenant_id) as tx:
        return tx.routes.get()


def authority_of(tenant: Provisioning) -> AuthorityRow:
    with tenant.database.tenant_tx(tenant.tenant_id) as tx:
        row = tx.certificates.authority()
    assert row is not None
    return row


EVERY_CHANNEL = set(Channel)


def test_intent_is_on_record_before_anything_is_made(tenant):
    tenant.run(Step.OPEN_RECORDS)
    intended = tenant.audited()[-1]
    assert (intended["name"], intended["outcome"]) == ("tenant.provision_intended", "intended")
    for name in intended["details"]["keys"].split(", "):
        assert tenant.tenant_id in name
        assert tenant.parts.vault.read(f"transit/keys/{name}") is None


def test_opening_the_records_twice_opens_them_once(tenant):
    tenant.run(Step.OPEN_RECORDS)
    tenant.run(Step.OPEN_RECORDS)
    assert state_of(tenant) is State.PROVISIONING
    with tenant.database.tenant_tx(tenant.tenant_id) as tx:
        assert [row.step for row in tx.steps.latest()] == list(steps_of(tenant.tenant_id))
    tenant.assert_audited_once()


def test_the_canary_plans_no_attack_on_itself(canary):
    with canary.database.tenant_tx(CANARY_TENANT_ID) as tx:
        assert Step.CHECK_BOUNDARIES not in [row.step for row in tx.steps.latest()]


@pytest.mark.usefixtures("canary")
def test_the_route_is_selected_by_the_issuer_of_the_tenants_certificates(tenant):
    tenant.run_until(Step.ACTIVATE)
    route, authority = route_of(tenant), authority_of(tenant)
    assert route is not None
    assert route.l2_key == l2_key(tenant.tenant_id)
    assert route.issuer_fingerprint == hashlib.sha256(ssl.PEM_cert_to_DER_cert(authority.certificate_pem)).hexdigest()


@pytest.mark.usefixtures("canary")
def test_nothing_leads_to_a_tenant_before_it_was_attacked(tenant):
    tenant.run_until(Step.CHECK_BOUNDARIES)
    assert route_of(tenant) is None
    assert state_of(tenant) is State.PROVISIONING


@pytest.mark.usefixtures("canary")
def test_activating_twice_opens_the_tenant_once_and_queues_one_message_a_channel(tenant):
    tenant.run_until(Step.ACTIVATE)
    with tenant.database.tenant_tx(tenant.tenant_id) as tx:
        first = tx.tenants.get()
    tenant.run(Step.ACTIVATE)
    with tenant.database.tenant_tx(tenant.tenant_id) as tx:
        assert tx.tenants.get() == first
    assert state_of(tenant) is State.ACTIVE
    assert sorted(messages_of(tenant)) == sorted((AnnouncementKind.READY, channel) for channel in EVERY_CHANNEL)
    tenant.assert_audited_once()


def test_nobody_is_told_about_the_canary(canary):
    assert state_of(canary) is State.ACTIVE
    canary.run("break-promise")
    assert messages_of(canary) == []


@pytest.mark.usefixtures("canary")
def test_a_tenant_whose_message_cannot_be_queued_does_not_become_active(tenant, field):
    tenant.run_until(Step.CHECK_BOUNDARIES)
    before = tenant.audited()
    with field.administrator() as administrator:
        administrator.execute("revoke insert on okcm.outbox from okcm_worker")
        administrator.execute(
            "revoke insert (tenant_id, message_id, channel, kind, subject, body) on okcm.outbox from okcm_worker"
        )
    with pytest.raises(DatabaseRefused):
        tenant.run(Step.ACTIVATE)
    assert state_of(tenant) is State.PROVISIONING
    assert route_of(tenant) is None
    assert not tenant.is_done(Step.ACTIVATE)
    assert tenant.audited() == before

    with field.administrator() as administrator:
        administrator.execute("grant insert on okcm.outbox to okcm_worker")
    tenant.run(Step.ACTIVATE)
    assert state_of(tenant) is State.ACTIVE
    assert len(messages_of(tenant)) == len(EVERY_CHANNEL)


def test_a_failure_closes_the_route_and_tells_the_customer_once(tenant):
    tenant.run_until(Step.CREATE_AUTHORITY)
    issuer = authority_of(tenant).fingerprint
    with tenant.database.tenant_tx(tenant.tenant_id) as tx:
        tx.routes.publish(RouteRow(l2_key(tenant.tenant_id), issuer, REGION))
    for _ in range(2):
        tenant.run("record-failure", code="boundary_breached", reason="check-boundaries")
    assert state_of(tenant) is State.FAILED
    assert route_of(tenant) is None
    assert sorted(messages_of(tenant)) == sorted((AnnouncementKind.FAILED, channel) for channel in EVERY_CHANNEL)
    failed = [record for record in tenant.audited() if record["name"] == "tenant.failed"]
    assert [record["details"]["code"] for record in failed] == ["boundary_breached"]
    assert [record["name"] for record in tenant.audited()][-2:] == ["route.withdrawn", "tenant.failed"]


def test_another_try_is_on_record_as_one(tenant):
    tenant.run(Step.OPEN_RECORDS)
    tenant.run("record-failure", code="boundary_breached", reason="check-boundaries")
    assert "tenant.provision_retried" not in [record["name"] for record in tenant.audited()]
    tenant.run(Step.OPEN_RECORDS)
    assert [record["name"] for record in tenant.audited()].count("tenant.provision_retried") == 1
    tenant.assert_audited_once()


def test_a_broken_promise_is_recorded_and_told_once(tenant):
    tenant.run(Step.OPEN_RECORDS)
    tenant.run("break-promise")
    tenant.run("break-promise")
    with tenant.database.tenant_tx(tenant.tenant_id) as tx:
        row = tx.tenants.get()
    assert row is not None
    assert row.promise_broken_at is not None
    assert row.state is State.PROVISIONING
    assert sorted(messages_of(tenant)) == sorted((AnnouncementKind.LATE, channel) for channel in EVERY_CHANNEL)
    tenant.assert_audited_once()


@pytest.mark.usefixtures("canary")
def test_a_tenant_that_became_ready_meanwhile_is_not_told_that_it_is_late(tenant):
    tenant.run_until(Step.ACTIVATE)
    tenant.run("break-promise")
    assert AnnouncementKind.LATE not in [kind for kind, _ in messages_of(tenant)]
    assert "tenant.promise_broken" in [record["name"] for record in tenant.audited()]


def test_a_tenant_that_failed_meanwhile_is_told_that_and_not_that_it_is_being_prepared(tenant):
    tenant.run(Step.OPEN_RECORDS)
    tenant.run("record-failure", code="boundary_breached", reason="check-boundaries")
    tenant.run("break-promise")
    assert {kind for kind, _ in messages_of(tenant)} == {AnnouncementKind.FAILED}
    assert "tenant.promise_broken" in [record["name"] for record in tenant.audited()]


def test_a_step_that_ran_to_its_end_twice_keeps_its_first_finish(tenant):
    tenant.run(Step.OPEN_RECORDS)
    with tenant.database.tenant_tx(tenant.tenant_id) as tx:
        first = tx.steps.latest()[0]
    tenant.run(Step.OPEN_RECORDS)
    with tenant.database.tenant_tx(tenant.tenant_id) as tx:
        assert tx.steps.latest()[0] == first
