"""Fleet health, counters, filters and the page of a tenant, on a real database."""

from datetime import UTC, datetime, timedelta

import pytest
from streamlit.testing.v1 import AppTest

from core.errors.platform import DatabaseUnavailable
from core.names import CANARY_TENANT_ID
from core.notifications import Channel
from core.tenants.lifecycle import State
from core.tenants.locks import OUT_OF_REACH, LockReason
from core.tenants.status import ProcessKind
from database.platform.processes import ProcessReporter
from openkcm.contract.audit_events import AuditName
from openkcm.contract.services import ServiceKind
from tests.dashboard.operations.test_page import a_page_context, listed, open_choices
from tests.dashboard.scene import ACME, Scene, press, shortcodes, shown, text
from tests.database.builders import an_announcement, an_audit_event

BETA = "beta-corp-23456"


def page(scene: Scene, **query: str) -> AppTest:
    return shown("operations", a_page_context(scene.field, scene.gateway), **query)


def two_tenants(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.tenant(State.ACTIVE, BETA, "Beta GmbH")


def a_measured_tenant(scene: Scene) -> None:
    """Create a tenant whose certificate authority is new, and report every process."""
    scene.tenant(State.ACTIVE)
    with scene.field.administrator() as administrator:
        administrator.execute("update okcm.certificate_authority set not_after = now() + interval '1 year'")
    scene.measured()


def test_a_measured_fleet_is_operational_with_each_component_by_name(scene: Scene) -> None:
    a_measured_tenant(scene)
    drawn = page(scene)
    said = text(drawn)
    assert shortcodes(drawn) == []
    assert ":green-badge[:material/check: Operational]" in said
    for component in (
        "Database (PostgreSQL): Responds",
        "Temporal: Responds",
        "Workers: 1 worker reports",
        "Key server (OpenBao or Vault): Responds to 2 processes",
        "Crypto service: 1 process ready",
        "Audit shippers: 1 shipper reports",
        "Root key monitoring: Active in each region",
        "Certificate authorities: None ends within 30 days",
    ):
        assert f":green-badge[:material/check: {component}]" in said
    assert ":gray-badge[as of " in said


def test_nothing_is_green_that_no_process_reports(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    said = text(page(scene))
    assert ":red-badge[:material/error: Workers: None reports]" in said
    for unknown in (
        "Temporal: Not measured",
        "Key server (OpenBao or Vault): Not measured",
        "Crypto service: No report",
    ):
        assert f":gray-badge[:material/help: {unknown}]" in said


def test_reports_older_than_eight_seconds_are_silence(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.measured()
    with scene.field.administrator() as administrator:
        administrator.execute("update okcm.process_report set reported_at = now() - interval '9 s'")
    said = text(page(scene))
    assert "Workers: None reports" in said
    assert "No report: host/1 for" in said
    assert "Operational]" not in said


@pytest.mark.parametrize(
    ("key_server", "faults", "wanted", "advice"),
    [
        (
            "vault_unavailable",
            (),
            "Key server (OpenBao or Vault): Does not respond",
            "worker host/1: vault_unavailable",
        ),
        ("vault_sealed", (), "Key server (OpenBao or Vault): Does not respond", "Check that it runs and is unsealed."),
        ("ok", ("temporal_unavailable",), "Temporal: Does not respond", "Check that Temporal runs, and its address."),
    ],
)
def test_a_stopped_server_is_named_with_who_misses_it(
    scene: Scene, key_server: str, faults: tuple[str, ...], wanted: str, advice: str
) -> None:
    a_measured_tenant(scene)
    scene.measured(key_server=key_server, faults=faults)
    said = text(page(scene))
    assert f":red-badge[:material/error: {wanted}]" in said
    assert advice in said
    assert "Stopped]" in said
    scene.measured()
    assert "Operational]" in text(page(scene)), "it recovers with the next report"


def test_a_stopped_worker_is_named(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.measured()
    ProcessReporter(scene.worker, ProcessKind.WORKER, "host/1", datetime.now(UTC)).withdraw()
    said = text(page(scene))
    assert ":red-badge[:material/error: Workers: None reports]" in said
    assert "Changes wait; services continue. Start a worker." in said
    assert "Root key monitoring: 0 of 1 part monitored" in said


def test_without_the_database_the_open_page_says_so_and_recovers(scene: Scene) -> None:
    a_measured_tenant(scene)
    outage = [DatabaseUnavailable()]

    def left() -> bool:
        if outage:
            raise outage[0]
        return False

    at = shown("operations", a_page_context(scene.field, scene.gateway, left=left))
    said = text(at)
    assert ":red-badge[:material/error: Database (PostgreSQL): Does not respond]" in said
    assert "Check that PostgreSQL runs" in said
    assert ":material/check:" not in said.split("Fleet health", 1)[1].split("as of", 1)[0]
    outage.clear()
    assert "Operational]" in text(at.run())


def test_waiting_notifications_and_the_reconciliation_are_components(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.tenant(State.REQUESTED, CANARY_TENANT_ID, "OpenKCM")
    scene.measured()
    assert "Audit reconciliation" not in text(page(scene))
    with scene.worker.tenant_tx(ACME) as tx:
        tx.outbox.add(an_announcement(ACME, "first", body="for the customer only"))
        tx.outbox.claim(Channel.CALLBACK, timedelta(seconds=30))
        tx.outbox.record_failure("first", "the callback does not respond", timedelta(0), timedelta(0))
    with scene.worker.tenant_tx(CANARY_TENANT_ID) as tx:
        tx.audit.append(an_audit_event("day", name=AuditName.AUDIT_RECONCILED, outcome="failure"))
    said = text(page(scene))
    assert ":orange-badge[:material/warning: Notifications: 1 no longer attempted]" in said
    assert ":orange-badge[:material/warning: Audit reconciliation: Differences" in said
    assert "for the customer only" not in said


def test_each_counter_filters_the_table(scene: Scene) -> None:
    two_tenants(scene)
    scene.tenant(State.LOCKED, "gamma-34567", "Gamma")
    scene.held_key(health=next(iter(sorted(OUT_OF_REACH))))
    scene.service("ledger", ServiceKind.POSTGRESQL, BETA)
    with scene.field.administrator() as administrator:
        administrator.execute(
            "insert into okcm.usage_hour (tenant_id, hour, service, operation, refusal, count, bytes, microseconds,"
            " latency, last_minute) values (%s, date_trunc('hour', now(), 'UTC'), 'ledger', 'decrypt', 'tenant_locked',"
            " 3, 0, 0, array_fill(0::bigint, array[40]), date_trunc('minute', now()))",
            [BETA],
        )
    at = page(scene)
    labels = [button.label for button in at.button if (button.key or "").startswith("operations-count")]
    assert "Root key out of reach: 1" in labels
    assert "Requests rejected in 5 minutes: 1" in labels
    assert "Locked by a user: 1" in labels
    assert ":gray-badge[:material/check: Active: 2] :orange-badge[:material/lock: Locked: 1]" in text(at)
    assert not any(label.startswith("Isolation check failed") for label in labels)
    assert "0 tenants: Provisioning failed or delayed; Isolation check failed; Locked" in text(at)
    assert len(labels) == len(set(labels))
    for counter, tenant in (("root-key", ACME), ("requests", BETA), ("locked-manual", "gamma-34567")):
        at.button(key=f"operations-count-{counter}").click().run()
        at.run()
        assert listed(at) == [tenant], counter
        assert at.query_params == {"problem": counter}
    row = next(table for table in at.dataframe if "Tenant" in table.value.columns).value.iloc[0]
    assert (row["Locks"], row["State"]) == ("by a user", ["locked"])
    assert "ledger" not in text(at)


def test_filters_are_in_the_address(scene: Scene) -> None:
    two_tenants(scene)
    assert listed(page(scene, find="beta")) == [BETA]
    assert listed(page(scene, state="active", region="eu-west-1")) == [ACME, BETA]
    assert listed(page(scene, problem="root-key")) == []
    at = page(scene, state="active", problem="requests")
    assert "State, region and problem: active, Requests rejected in 5 minutes" in [one.label for one in at.expander]
    open_choices(at)
    assert at.selectbox(key="state").value is State.ACTIVE
    at.session_state["operations-choices"] = False
    at.run()
    at.selectbox(key="problem").set_value(None).run()
    assert listed(at) == [ACME, BETA]
    at = page(scene, state="unknown", region="mars", problem="Root key failing", find="beta")
    assert listed(at) == [BETA]
    assert [(one.value, one.title) for one in at.warning if "address" in one.title] == [
        (
            "`state` is unknown: `unknown`. `region` is unknown: `mars`. `problem` is unknown: `Root key failing`.",
            "Part of the address was ignored",
        )
    ]
    open_choices(at)
    at.selectbox(key="state").select(State.ACTIVE).run()
    assert not [one for one in at.warning if "address" in one.title]
    at = page(scene)
    at.text_input(key="find").set_value("beta").run()
    open_choices(at)
    at.selectbox(key="state").select(State.ACTIVE).run()
    assert at.query_params == {"find": "beta", "state": "active"}
    at.text_input(key="find").set_value("").run()
    assert at.query_params == {"state": "active"}


def test_filter_writes_no_address_that_the_request_came_with(scene: Scene, sent_queries: list[dict[str, str]]) -> None:
    """A request that arrives late has the address from before, with values of fields that are gone."""
    two_tenants(scene)
    at = page(scene)
    at.query_params["find"] = "beta"
    at.text_input(key="find").set_value("beta").run()
    assert (listed(at), at.query_params, sent_queries) == ([BETA], {"find": "beta"}, [])


def test_a_selected_tenant_is_opened_at_its_address(scene: Scene) -> None:
    two_tenants(scene)
    at = page(scene)
    assert "operations-open" not in {one.key for one in at.button}
    at.text_input(key="find").set_value(BETA).run()
    press(at, "operations-open")
    assert at.query_params == {"id": BETA}
    assert at.title[0].value == BETA


def test_a_list_returns_with_its_filters_and_page(scene: Scene) -> None:
    """Back from a tenant: the address is again that of the list, as the browser keeps it."""
    two_tenants(scene)
    at = page(scene)
    at.text_input(key="find").set_value("beta").run()
    at.session_state["operations-trail"] = ["", "a"]
    press(at, "operations-open")
    assert at.query_params == {"id": BETA}
    del at.query_params["id"]
    at.query_params["find"] = "beta"
    at.run()
    assert at.text_input(key="find").value == "beta"
    assert at.session_state["operations-trail"] == ["", "a"]
    at.query_params["find"] = "acme"
    at.run()
    assert (listed(at), at.session_state["operations-trail"]) == ([ACME], [""])


def test_a_tenants_page_shows_locks_status_and_operations_and_no_data_of_the_customer(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.measured()
    scene.service("ledger", ServiceKind.POSTGRESQL, uses=100)
    with scene.worker.tenant_tx(ACME) as tx:
        tx.tenants.hold(LockReason.MANUAL)
    at = page(scene, id=ACME)
    said = text(at)
    assert "Locked: by a user" in said
    assert "An administrator of the customer unlocks the tenant." in said
    assert ":red-badge[:material/error: Stopped]" in said
    assert "Requests: " in said
    assert "rejected in" not in said
    assert "ledger" not in said
    [operations] = [table for table in at.dataframe if "Operation" in table.value.columns]
    [operation] = operations.value.to_dict("records")
    assert (operation["Operation"], operation["State"], operation["Steps"]) == ("provision-1", "done", "6 of 6")
    links = {link.label: link.url for link in at.link_button}
    base = "http://127.0.0.1:18233/namespaces/default/workflows"
    assert links["All workflows in Temporal UI"] == f"{base}?query=TenantId%3D%22{ACME}%22"
    assert links["Isolation checks in Temporal UI"].startswith(f"{base}/tenant%2F{ACME}")
    assert "Tenants" not in press(at, "operations-back").split("Fleet health", 1)[0]
