"""The rows and texts of the page Services, without a database."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.services import CryptoOperation, ServiceState
from core.tenants.lifecycle import State
from dashboard.components.tenant_status import Severity
from dashboard.services import setup_guides as guides
from dashboard.services import view
from dashboard.services.view import Facts, Filter, Status, TableRow, attention, per_day, summary, why_not
from database.services.agents import HeartbeatRow
from database.services.enrolment import DiscoveryRow
from database.services.managed_objects import ObjectCountRow
from database.services.repository import HeldCertificateRow, ServiceRow
from database.tenants import TenantRow
from openkcm.contract.services import AgentProblem, ServiceKind
from tests.dashboard.held import DAY, HOUR, NOW, TENANT, a_service, some_use
from tests.database.builders import a_protection_use

LOCKED, SUSPENDED = TENANT._replace(state=State.LOCKED), TENANT._replace(state=State.SUSPENDED)


def a_shop(name: str = "shop", **changed: object) -> ServiceRow:
    return a_service(name, kind=ServiceKind.MICROSERVICE, **changed)


def an_agent(seconds_ago: int = 20, problem: str | None = None, **changed: object) -> HeartbeatRow:
    heard = NOW - timedelta(seconds=seconds_ago)
    return HeartbeatRow("a", "host-1", "0.1.0", NOW + 48 * HOUR, problem, heard)._replace(**changed)


def facts(*services: ServiceRow, tenant: TenantRow = TENANT, **known: object) -> Facts:
    return Facts(tenant, list(services), **({"usage": (), "objects": ()} | known))


def rows(found: Facts, chosen: Filter = view.NO_FILTER) -> Sequence[TableRow]:
    return view.table(found, {}, NOW, chosen).rows


def details_of(found: Facts, service: str = "a") -> str:
    shown = view.details(found, service, NOW)
    assert shown is not None
    return "\n".join(shown.lines)


@pytest.mark.parametrize("state", [state for state in State if state not in {State.ACTIVE, State.SUSPENDED}])
def test_services_of_a_blocked_tenant_are_shown_as_blocked(state: State) -> None:
    found = facts(a_shop(), a_service("a"), tenant=TENANT._replace(state=state))
    assert {row.status for row in rows(found)} == {f"Blocked: tenant {state}"}


def test_the_summary_counts_services_and_says_nothing_that_was_not_measured() -> None:
    assert summary(facts(), NOW) == "No service is connected."
    assert summary(facts(a_shop()), NOW) == "1 service connected."
    assert summary(facts(a_shop(), a_service("a")), NOW) == "2 services connected. 1 needs attention."


def test_a_row_shows_requests_certificate_agent_and_protected_data() -> None:
    usage = [some_use("a", 1255, 5), some_use("a", operation=CryptoOperation.GET), some_use("b", 7)]
    objects = [ObjectCountRow("a", 2, 3), ObjectCountRow("a", 5, 9)]
    [row] = rows(facts(a_service("a"), usage=usage, objects=objects, agents=[an_agent()]))
    assert (row.kind, row.status, row.agent) == ("MongoDB cluster", "Connected", "Connected")
    assert (row.requests, row.refused, row.until) == (1265, 5, NOW + 48 * HOUR)
    assert row.protects == (
        "Protects records encrypted by OpenKCM, data encrypted with keys fetched over KMIP and data encrypted with "
        "its 3 KMIP objects"
    )


def test_field_encryption_of_programs_counts_as_requests() -> None:
    yesterday = a_protection_use("a", day=NOW.date() - timedelta(days=1), operations=1200)
    uses = [yesterday, a_protection_use("a", "elsewhere", operations=3), a_protection_use("a", "x#plain")]
    assert per_day(uses) == {"a": 1200}
    [row] = rows(facts(a_service("a"), usage=[some_use("a")], programs=per_day(uses)))
    assert row.requests == 1210
    assert row.protects.startswith("Protects fields encrypted by its programs and records")


@pytest.mark.parametrize("kind", [ServiceKind.MONGODB, ServiceKind.POSTGRESQL])
def test_a_database_without_a_connected_agent_stops_when_the_certificate_it_has_expires(kind: ServiceKind) -> None:
    ends = NOW + 29 * HOUR  # the platform has renewed, so the newest certificate is valid longer
    found = facts(a_service("a", kind=kind), held={"a": HeldCertificateRow(ends, by_hand=False)})
    [row] = rows(found)
    assert (row.status, row.until, row.agent) == ("No agent: stops 26 Nov 17:00 UTC", ends, "None")
    assert "the service stops 26 Nov 2026, 17:00 UTC (in 1 day)" in details_of(found)
    assert "Run the agent: see Guide." in details_of(found)
    [item] = attention(found, NOW)
    assert (item.subject, item.service, item.words) == (
        "Certificate",
        "a",
        "has no agent: it stops on 26 Nov, 17:00 UTC",
    )
    assert (item.path, dict(item.query), item.severity) == ("services", {"service": "a"}, Severity.WARNING)


def test_a_service_with_a_connected_agent_or_the_client_library_does_not_stop() -> None:
    held = {"a": HeldCertificateRow(NOW + HOUR, by_hand=False), "shop": HeldCertificateRow(NOW + HOUR, by_hand=False)}
    found = facts(a_service("a"), a_shop(), agents=[an_agent()], held=held)
    assert {row.status for row in rows(found)} == {"Connected"}
    assert attention(found, NOW) == ()
    assert [row.agent for row in rows(found)] == ["Connected", "Not needed"]


def test_the_end_of_a_silent_agents_certificate_is_the_date_on_which_the_service_stops() -> None:
    silent = an_agent(900, certificate_not_after=NOW + 3 * HOUR)
    [row] = rows(facts(a_service("a"), agents=[silent], held={"a": HeldCertificateRow(NOW + HOUR, by_hand=False)}))
    assert (row.status, row.agent) == ("No agent: stops 25 Nov 15:00 UTC", "Not connected")


@pytest.mark.parametrize(
    ("service", "held"),
    [
        (a_service("a", certificate_not_after=NOW), None),
        (a_shop("a", certificate_not_after=NOW - HOUR), None),
        (a_service("a"), HeldCertificateRow(NOW - HOUR, by_hand=False)),
        (a_shop("a"), HeldCertificateRow(NOW, by_hand=True)),
    ],
)
def test_a_service_whose_certificate_has_expired_is_stopped(service: ServiceRow, held: HeldCertificateRow) -> None:
    for tenant in (TENANT, LOCKED):
        found = facts(service, held={"a": held} if held else {}, tenant=tenant)
        assert rows(found)[0].status == "Stopped: certificate expired"
    [item] = attention(found, NOW)
    assert (item.severity, item.words.startswith("has stopped: its certificate expired on 25 Nov")) == (
        Severity.BAD,
        True,
    )


@given(st.sampled_from(ServiceKind), st.integers(-100, 100), st.integers(-100, 100), st.integers(0, 300))
def test_a_good_row_never_stops_without_a_warning(kind: ServiceKind, newest: int, oldest: int, silence: int) -> None:
    agents = [an_agent(silence, certificate_not_after=NOW + newest * HOUR)] if silence else []
    held = {"a": HeldCertificateRow(NOW + oldest * HOUR, by_hand=False)}
    ends = NOW + max(newest, oldest) * HOUR
    found = facts(a_service("a", kind=kind, certificate_not_after=ends), agents=agents, held=held)
    [row] = rows(found)
    is_connected = bool(silence) and silence <= 120
    if row.status == "Connected":
        assert ends > NOW
        assert kind is ServiceKind.MICROSERVICE or is_connected
    else:
        assert [item.service for item in attention(found, NOW)] == ["a"]


def test_more_services_than_a_reader_compares_are_one_item_that_opens_them() -> None:
    names = [f"db-{n}" for n in range(4)]
    held = {name: HeldCertificateRow(NOW + (n + 1) * HOUR, by_hand=False) for n, name in enumerate(names)}
    stopped = a_shop("shop", certificate_not_after=NOW - HOUR)
    found = facts(*map(a_service, names), stopped, held=held)
    first, several = attention(found, NOW)
    assert first.service == "shop"
    assert several.words == "4 services have no agent: the first stops on 25 Nov, 13:00 UTC"
    assert (several.service, several.opens, dict(several.query)) == ("", "services: no agent", {"status": "No agent"})
    assert summary(found, NOW).endswith("5 need attention.")


def test_what_stops_first_is_listed_first() -> None:
    held = {name: HeldCertificateRow(NOW + hours * HOUR, by_hand=False) for name, hours in (("a", 9), ("b", 2))}
    found = facts(a_service("a"), a_service("b"), a_shop(), held=held)
    assert [item.service for item in attention(found, NOW)] == ["b", "a"]


def test_a_late_renewal_and_an_appliance_expire_soon_with_what_to_do() -> None:
    late = a_shop("a", certificate_not_before=NOW - 62 * HOUR, certificate_not_after=NOW + 10 * HOUR)
    assert rows(facts(late))[0].status == "Expires soon: 25 Nov 22:00 UTC"
    assert "Renew it here to see the error." in details_of(facts(late))
    by_hand = facts(late, held={"a": HeldCertificateRow(NOW + 10 * HOUR, by_hand=True)})
    assert "install it on the appliance" in details_of(by_hand)
    leaving = facts(late, tenant=TENANT._replace(state=State.LEAVING))
    assert "Certificates cannot be renewed while the tenant is offboarding." in details_of(leaving)
    fresh = a_shop("a", certificate_not_before=NOW - 50 * HOUR)
    assert rows(facts(fresh, held={"a": HeldCertificateRow(NOW + DAY, by_hand=True)}))[0].status == "Connected"


@pytest.mark.parametrize(
    ("state", "status", "word"),
    [
        (ServiceState.CONNECTED, "Connected", "connected since"),
        (ServiceState.CONNECTING, "Connecting", "being created"),
        (ServiceState.DISCONNECTED, "Disconnected", "key kept"),
    ],
)
def test_every_state_has_a_text(state: ServiceState, status: str, word: str) -> None:
    found = facts(a_shop("a", state=state, disconnected_at=NOW))
    assert rows(found)[0].status == status
    assert word in details_of(found)
    shown = view.details(found, "a", NOW)
    assert shown is not None
    assert shown.connected is (state is ServiceState.CONNECTED)


def test_unknown_facts_are_not_claimed() -> None:
    found = facts(a_shop("a", last_seen_at=None, certificate_not_after=None))
    [row] = rows(found)
    assert (row.status, row.seen, row.until, row.protects) == ("Stopped: no valid certificate", None, None, "")
    said = details_of(found)
    for words in ("No valid certificate", "Never seen", "No use of its key in the last 24 hours"):
        assert words in said
    assert view.details(found, "other", NOW) is None


def test_a_discovered_service_is_a_row_until_it_is_connected() -> None:
    waiting = [DiscoveryRow(name, ServiceKind.MONGODB, NOW - HOUR) for name in ("a", "carts")]
    found = facts(a_service("a"), discovered=waiting, agents=[an_agent()])
    assert [(row.service, row.status) for row in rows(found)] == [
        ("a", "Connected"),
        ("carts", "Discovered: not connected"),
    ]
    assert "not encrypted with OpenKCM" in details_of(found, "carts")
    again = facts(a_service("a", ServiceState.DISCONNECTED), discovered=waiting)
    assert [row.status for row in rows(again)] == ["Discovered: not connected"] * 2


def test_rows_are_filtered_by_name_kind_and_status_and_limited() -> None:
    many = [a_service(f"service-{number:04}") for number in range(600)]
    found = facts(*many, a_shop())
    table = view.table(found, {}, NOW)
    assert (len(table.rows), table.total, table.more) == (500, 601, 101)
    assert [row.service for row in rows(found, Filter(" SERVICE-0599 "))] == ["service-0599"]
    assert [row.service for row in rows(found, Filter(kinds=(ServiceKind.MICROSERVICE,)))] == ["shop"]
    assert [row.service for row in rows(found, Filter(statuses=(Status.CONNECTED,)))] == ["shop"]
    assert len(rows(found, Filter("service-00", statuses=(Status.STOPS,)))) == 100
    assert set(view.STATUS_NAMES) == set(Status)


def test_a_blocked_action_has_a_reason() -> None:
    assert [view.why_no_renewal(tenant) for tenant in (TENANT, SUSPENDED, LOCKED)] == ["", "", ""]
    assert why_not(TENANT) == ""
    assert "suspended" in why_not(SUSPENDED)
    assert "locked" in why_not(LOCKED)
    assert "offboarding" in view.why_no_renewal(TENANT._replace(state=State.LEAVING))


def test_a_command_quotes_its_folder() -> None:
    assert "'/etc/it'\\''s'" in guides.request_command("/etc/it's")
    assert guides.unpack_command("o.zip", "/o") == "umask 077 && unzip -o o.zip -d '/'"
    assert guides.folder_of("") == "/etc/openkcm/my-service"


@pytest.mark.parametrize("kind", list(ServiceKind))
def test_the_guide_of_a_database_begins_with_the_agent_and_claims_no_other_renewal(kind: ServiceKind) -> None:
    tabs = guides.guides(kind, "/etc/openkcm/a", "https://kcm.example:8443")
    labels = [tab.label for tab in tabs]
    is_database = kind is not ServiceKind.MICROSERVICE
    assert labels.index(guides.AGENT) == (0 if is_database else len(labels) - 1)
    assert ("not fetch" in view.renewal(kind) or "Neither" in view.renewal(kind)) is is_database
    commands = [step.command for tab in tabs for step in tab.steps if step.command]
    assert commands
    assert all("/etc/openkcm/a" in command for command in commands)
    assert not any("…" in command for command in commands)


def agent_of(*agents: HeartbeatRow) -> str:
    return view.agent_status(agents, NOW)


def test_details_show_agent_version_and_certificate_expiry() -> None:
    assert agent_of() == ""
    assert agent_of(an_agent()) == (
        "Agent connected (version `0.1.0`), last contact 25 Nov 2026, 11:59 UTC (20 seconds ago),"
        " certificate valid until 27 Nov 2026, 12:00 UTC (in 2 days)"
    )
    assert "No agent" in details_of(facts(a_service("a"), agents=[an_agent(service="another")]))


def test_an_agent_that_missed_more_than_three_heartbeats_is_not_connected() -> None:
    assert agent_of(an_agent(120)).startswith("Agent connected")
    silent = agent_of(an_agent(121))
    assert silent.startswith("Agent not connected: last contact 25 Nov 2026, 11:57 UTC")
    assert "its last certificate expires 27 Nov 2026" in silent


def test_several_connected_agents_share_a_line_with_the_most_severe_problem_first() -> None:
    said = agent_of(
        an_agent(5, "clock_wrong"),
        an_agent(6, "not_renewed", instance="host-2", agent_version="0.2.0", certificate_not_after=NOW + HOUR),
        an_agent(7, "some_day_new", instance="host-3"),
        an_agent(900, "reload_failed", instance="host-4"),
    )
    assert said.startswith("3 agents connected (version `0.1.0` and `0.2.0`)")
    assert "certificate valid until 25 Nov 2026, 13:00 UTC" in said
    assert said.endswith("Problem: certificate not renewed and system clock wrong")


def test_every_agent_problem_has_a_text() -> None:
    for problem in AgentProblem:
        assert "Problem: " in agent_of(an_agent(problem=problem.value))
