"""The operations page on a real database; only the workflow gateway is a fake."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from streamlit.testing.v1 import AppTest

from core.errors.platform import TemporalUnavailable
from core.errors.tenants import SessionEnded, TenantUnknown
from core.names import CANARY_TENANT_ID
from core.notifications import Channel
from core.tenants.lifecycle import State, Transition
from core.tenants.provisioning import Step
from core.tenants.roles import OPERATORS, Person, PersonRole
from dashboard.operations.actions import RetryNotAllowed, retry
from dashboard.page_context import PageContext, ServiceUrls
from database.connection.database import Database
from database.platform.operators import Operations, Problem
from openkcm.contract.audit_events import AuditName
from tests.dashboard.gateways.workflow_gateway import FakeAuthority, FakeGateway
from tests.dashboard.scene import ACME, audit_records, press, shown, text
from tests.database.builders import an_announcement, an_event
from tests.database.fixtures import Field, Server, clone
from tests.database.platform.many import TENANTS, add_many_tenants
from workflows.client.updates import OperationQueued

PROMISE = 180.0
OPERATOR = Person("otto", "Otto", OPERATORS, frozenset({PersonRole.OPERATOR}))
AUDITOR = Person("ada", "Ada", ACME, frozenset({PersonRole.AUDITOR}))


def a_page_context(field: Field, gateway: FakeGateway, person: Person = OPERATOR, **changed: object) -> PageContext:
    dashboard = field.open("dashboard", max_size=2)
    context = PageContext(
        person=person,
        tenant_id=person.tenant_id,
        source="192.0.2.7",
        database=dashboard,
        workflows=gateway,
        addresses=ServiceUrls("http://d", "http://m", "https://c", "c:5696", "http://127.0.0.1:18233"),
        now=lambda: datetime.now(UTC),
        platform=Operations(dashboard, PROMISE),
    )
    return replace(context, **changed)


def failed(worker: Database, tenant_id: str) -> None:
    """Create a tenant whose provisioning failed at step 2."""
    with worker.tenant_tx(tenant_id) as tx:
        tx.tenants.request(an_event(tenant_id, organization="ACME *Corporation*"))
        tx.tenants.move(Transition.PROVISION)
        tx.steps.plan("provision/1", [*Step])
        tx.steps.finish("provision/1", Step.OPEN_RECORDS, datetime.now(UTC))
        tx.steps.fail("provision/1", Step.CREATE_KEYS, "vault_refused")
        tx.tenants.move(Transition.FAIL)


@pytest.fixture
def gateway(worker: Database) -> FakeGateway:
    return FakeGateway(worker, FakeAuthority())


@pytest.fixture(scope="module")
def many(server: Server, template: str) -> Iterator[Field]:
    with clone(server, template) as field:
        add_many_tenants(field)
        yield field


def listed(at: AppTest) -> list[str]:
    tables = [table for table in at.dataframe if "Tenant" in table.value.columns]
    return [tenant for table in tables for tenant in table.value["Tenant"]]


def open_choices(at: AppTest) -> None:
    assert "state" not in [box.key for box in at.selectbox]
    at.session_state["operations-choices"] = True
    at.run()


def test_an_empty_platform_explains_when_tenants_appear(field: Field, gateway: FakeGateway) -> None:
    at = shown("operations", a_page_context(field, gateway))
    assert "No tenants." in text(at)
    assert "No canary tenant yet" in text(at)


def test_ten_thousand_tenants_are_paged_and_filtered(many: Field) -> None:
    context = a_page_context(many, FakeGateway(many.open("worker", max_size=1), FakeAuthority()))
    with many.administrator() as administrator:
        all_tenants = administrator.execute("select tenant_id from okcm.tenant").fetchall()
    naive = sorted(tenant_id for (tenant_id,) in all_tenants if tenant_id != CANARY_TENANT_ID)
    at = shown("operations", context)
    assert f"{TENANTS:,} tenants by state and by problem." in text(at)
    first = listed(at)
    at.button(key="operations-next").click().run()
    assert first + listed(at) == naive[:50]
    assert "26 to 50, by id" in text(at)
    at.button(key="operations-previous").click().run()
    assert listed(at) == first
    at.button(key="operations-next").click().run()
    open_choices(at)
    at.selectbox(key="state").select(State.FAILED).run()
    assert len(listed(at)) == 25
    assert "1 to 25, by id" in text(at), "another filter starts at the first page"
    assert at.button(key="operations-previous").disabled
    at.text_input(key="find").set_value("no such tenant").run()
    assert "No matching tenants" in text(at)
    assert not listed(at)

    at = shown("operations", context)
    open_choices(at)
    at.selectbox(key="region").select("us-east-1").run()
    at.selectbox(key="problem").select(Problem.LATE).run()
    at.text_input(key="find").set_value("organization 97").run()
    with many.administrator() as administrator:
        expected = administrator.execute(
            "select tenant_id from okcm.tenant where region = 'us-east-1' and organization ilike '%organization 97%'"
            " and (state in ('failed', 'requested', 'provisioning') or promise_broken_at is not null)"
            " order by tenant_id limit 25"
        ).fetchall()
    assert listed(at) == [tenant_id for (tenant_id,) in expected]
    assert expected


def test_times_of_each_tenant_are_drawn_when_they_are_opened(many: Field) -> None:
    at = shown("operations", a_page_context(many, FakeGateway(many.open("worker", max_size=1), FakeAuthority())))
    assert "From the stored event to ready" in text(at)
    assert not at.get("echarts_chart")
    at.session_state["operations-times-open"] = True
    [chart] = at.run().get("echarts_chart")
    assert "Time to ready of" in str(chart.proto)


def test_a_stuck_tenant_is_shown_with_its_step_and_workflow_and_none_of_the_customers_keys(
    field: Field, worker: Database, gateway: FakeGateway
) -> None:
    failed(worker, ACME)
    at = shown("operations", a_page_context(field, gateway))
    said = text(at)
    assert "At step 2 of 6, create the L2 tenant key and the payload key, 1 failed attempt. `vault_refused`:" in said
    assert r"ACME \*Corporation\*" in said, "customer input is text, not markdown"
    said = press(at, f"operations-open-stuck-{ACME}")
    assert at.title[0].value == ACME
    links = [link.url for link in at.link_button if link.value.startswith("Open in Temporal UI")]
    assert links == [f"http://127.0.0.1:18233/namespaces/default/workflows/tenant%2F{ACME}"]
    assert "2 · create the L2 tenant key and the payload key: failed, 1 failed attempt" in said
    assert "6 · notify the customer: not started" in said
    assert f"L2-{ACME}" not in said
    press(at, f"operations-retry-{ACME}")
    assert "Your request is recorded" not in press(at, "operations-retry-left")
    press(at, "operations-back")
    assert at.title[0].value == "Operations"
    assert (gateway.asked, audit_records(worker, ACME)) == ([], [])


def test_undelivered_notifications_are_shown_without_their_text(
    field: Field, worker: Database, gateway: FakeGateway
) -> None:
    failed(worker, ACME)
    assert "Undelivered notifications" not in text(shown("operations", a_page_context(field, gateway)))
    for message_id, expires_after in (("first", timedelta(0)), ("second", timedelta(days=1))):
        with worker.tenant_tx(ACME) as tx:
            tx.outbox.add(an_announcement(ACME, message_id, body="for the customer only"))
            attempt = tx.outbox.claim(Channel.CALLBACK, timedelta(seconds=30))
            assert attempt is not None
            tx.outbox.record_failure(message_id, "the callback does not respond", timedelta(0), expires_after)
    said = text(shown("operations", a_page_context(field, gateway)))
    assert "`ready` (callback) was not delivered and is no longer attempted since" in said
    assert "is not delivered: 1 failed attempt, the callback does not respond." in said
    assert "for the customer only" not in said


def retried(at: AppTest) -> AppTest:
    if at.title[0].value != ACME:
        press(at, f"operations-open-stuck-{ACME}")
    assert "Your request is recorded in the tenant's audit stream" in press(at, f"operations-retry-{ACME}")
    return at.button(key="operations-retry-confirmed").click().run()


def test_a_retry_is_requested_once_and_recorded_in_both_streams(
    field: Field, worker: Database, gateway: FakeGateway
) -> None:
    failed(worker, ACME)
    at = retried(shown("operations", a_page_context(field, gateway)))
    assert not at.exception
    assert "started again" in text(at)
    assert gateway.asked == [f"retry {ACME}"]
    for tenant_id in (ACME, OPERATORS):
        [record] = audit_records(worker, tenant_id)
        assert (record["name"], record["actor"], record["outcome"], record["subject"]) == (
            AuditName.RETRY_REQUESTED,
            "otto",
            "intended",
            f"tenant/{ACME}",
        )
        assert (record["actor_kind"], record["source"]) == ("human", "192.0.2.7")
    at.run()
    assert gateway.asked == [f"retry {ACME}"], "a rerun repeats nothing"


def test_with_temporal_down_the_retry_fails_and_can_be_repeated(
    field: Field, worker: Database, gateway: FakeGateway
) -> None:
    failed(worker, ACME)
    gateway.fails = TemporalUnavailable()
    at = retried(shown("operations", a_page_context(field, gateway)))
    said = text(at)
    assert f"{ACME} was not retried; nothing was changed. The workflow service does not answer." in said
    assert [record["outcome"] for record in audit_records(worker, ACME)] == ["intended", "refused"]
    assert audit_records(worker, ACME)[1]["details"] == {"code": "temporal_unavailable"}
    gateway.fails = None
    gateway.asked.clear()
    retried(at)
    assert gateway.asked == [f"retry {ACME}"]


def test_a_queued_retry_is_not_reported_as_rejected(field: Field, worker: Database, gateway: FakeGateway) -> None:
    failed(worker, ACME)
    gateway.fails = OperationQueued()
    said = text(retried(shown("operations", a_page_context(field, gateway))))
    assert f"The retry of {ACME} is not complete. No worker has accepted the request yet." in said
    assert "nothing was changed" not in said
    assert [record["outcome"] for record in audit_records(worker, ACME)] == ["intended", "failure"]


def test_a_tenant_that_has_recovered_is_not_retried(field: Field, worker: Database, gateway: FakeGateway) -> None:
    failed(worker, ACME)
    at = shown("operations", a_page_context(field, gateway))
    press(at, f"operations-open-stuck-{ACME}")
    at.button(key=f"operations-retry-{ACME}").click().run()
    with worker.tenant_tx(ACME) as tx:
        tx.tenants.move(Transition.RETRY)
    assert "A tenant that is provisioning cannot retry" in press(at, "operations-retry-confirmed")
    with worker.tenant_tx(ACME) as tx:
        assert tx.tenants.get().state is State.PROVISIONING


@pytest.mark.parametrize("person", [AUDITOR, replace(AUDITOR, tenant_id=OPERATORS)])
def test_only_operators_see_the_page(field: Field, worker: Database, gateway: FakeGateway, person: Person) -> None:
    failed(worker, ACME)
    at = shown("operations", a_page_context(field, gateway, person))
    assert "This page is for the platform's operators." in text(at)
    assert ACME not in text(at)
    assert not at.button


def test_a_retry_without_role_platform_session_or_tenant_changes_nothing(
    field: Field, worker: Database, gateway: FakeGateway
) -> None:
    failed(worker, ACME)
    eve = Person("eve", "Eve", OPERATORS, frozenset({PersonRole.AUDITOR}))
    for context, tenant_id, error in (
        (a_page_context(field, gateway, eve), ACME, RetryNotAllowed),
        (a_page_context(field, gateway, platform=None), ACME, RetryNotAllowed),
        (a_page_context(field, gateway, present=lambda: False), ACME, SessionEnded),
        (a_page_context(field, gateway), "unknown-tenant", TenantUnknown),
    ):
        with pytest.raises(error):
            retry(context, tenant_id)
    assert (gateway.asked, audit_records(worker, ACME), audit_records(worker, "unknown-tenant")) == ([], [], [])
    assert [(record["name"], record["outcome"], record["actor"]) for record in audit_records(worker, OPERATORS)] == [
        (AuditName.ACTION_REFUSED, "refused", "eve"),
        (AuditName.ACTION_REFUSED, "refused", "otto"),
    ]


def test_the_canary_is_shown_separately(field: Field, worker: Database, gateway: FakeGateway) -> None:
    failed(worker, CANARY_TENANT_ID)
    failed(worker, ACME)
    at = shown("operations", a_page_context(field, gateway))
    assert listed(at) == [ACME]
    assert "Not ready. The isolation of new tenants cannot be checked" in text(at)
    at.button(key=f"operations-retry-{CANARY_TENANT_ID}").click().run()
    at.button(key="operations-retry-confirmed").click().run()
    assert gateway.asked == [f"retry {CANARY_TENANT_ID}"]
