"""The texts of the page Services from rows, without a database."""

from dataclasses import replace
from datetime import timedelta

import pytest

from core.services import CryptoOperation, ServiceState
from core.tenants.lifecycle import State
from dashboard.services import setup_guides as guides
from dashboard.services.view import Facts, groups, per_day, why_no_renewal, why_not
from database.services.agents import HeartbeatRow
from database.services.managed_objects import ObjectCountRow
from database.services.repository import ServiceRow
from database.tenants import TenantRow
from openkcm.contract.services import AgentProblem, ServiceKind
from tests.dashboard.held import HOUR, NOW, TENANT, a_service, some_use
from tests.database.builders import a_protection_use


def an_agent(seconds_ago: int = 20, problem: str | None = None, **changed: object) -> HeartbeatRow:
    heard = NOW - timedelta(seconds=seconds_ago)
    return replace(HeartbeatRow("a", "host-1", "0.1.0", NOW + 48 * HOUR, problem, heard), **changed)


def agent_of(*agents: HeartbeatRow) -> str:
    found = Facts(TENANT, [a_service("a")], [], [], list(agents))
    return groups(found, NOW)[0].cards[0].agent


def facts(*services: ServiceRow, usage=(), objects=(), tenant: TenantRow = TENANT) -> Facts:
    return Facts(tenant, list(services), list(usage), list(objects))


def test_all_kinds_are_shown_before_a_service_is_connected() -> None:
    assert [group.title for group in groups(facts(), NOW)] == [
        "MongoDB Clusters: 0 connected (ready)",
        "PostgreSQL Instances: 0 connected (ready)",
        "Microservices: 0 connected (ready)",
    ]
    locked = replace(TENANT, state=State.LOCKED)
    assert groups(facts(tenant=locked), NOW)[0].title == "MongoDB Clusters: 0 connected"


def test_services_are_shown_as_encrypting_only_with_recent_use() -> None:
    two = a_service("a"), a_service("b")
    both = [some_use(name) for name in "ab"]
    refused = [some_use("a", 5, 5), some_use("b", operation=CryptoOperation.LOCATE)]
    assert groups(facts(*two, usage=both), NOW)[0].title.endswith(": 2 connected, encrypting data ✓")
    assert "1 encrypting data in the last 24 hours" in groups(facts(*two, usage=both[:1]), NOW)[0].title
    assert groups(facts(*two, usage=refused), NOW)[0].title.endswith("not used in the last 24 hours")


def test_a_card_shows_operations_certificate_and_protected_data() -> None:
    usage = [some_use("a", 1255, 5), some_use("a", operation=CryptoOperation.GET)]
    [card] = groups(
        facts(a_service("a"), usage=usage, objects=[ObjectCountRow("a", 2, 3), ObjectCountRow("a", 5, 9)]), NOW
    )[0].cards
    assert card.operations == "1,260 operations/day, 5 rejected"
    assert card.certificate == "Certificate valid until 27 Nov 2026, 12:00 UTC (in 2 days)"
    assert "records encrypted by OpenKCM" in card.protects
    assert "keys fetched over KMIP" in card.protects
    assert "data encrypted with its 3 KMIP objects" in card.protects
    assert card.connected


def test_field_encryption_of_programs_counts_as_operations_and_as_encrypting() -> None:
    yesterday = a_protection_use("a", day=NOW.date() - timedelta(days=1), operations=1200)
    uses = [yesterday, a_protection_use("a", "elsewhere", operations=3), a_protection_use("a", "x#plain")]
    assert per_day(uses) == {"a": 1200}
    found = facts(a_service("a"), usage=[some_use("a", operation=CryptoOperation.DATA_KEY)])
    [group, *_] = groups(replace(found, programs=per_day(uses)), NOW)
    assert group.title.endswith(": 1 connected, encrypting data ✓")
    assert group.cards[0].operations == "1,210 operations/day"
    assert group.cards[0].protects.startswith("Protects fields encrypted by its programs and data encrypted")
    assert groups(replace(facts(a_service("a")), programs={"a": 3}), NOW)[0].title.endswith("encrypting data ✓")


@pytest.mark.parametrize(
    ("state", "word", "connected"),
    [
        (ServiceState.CONNECTED, "Connected since", True),
        (ServiceState.CONNECTING, "Connecting", False),
        (ServiceState.DISCONNECTED, "key kept", False),
    ],
)
def test_every_state_has_a_text(state: ServiceState, word: str, *, connected: bool) -> None:
    [card] = groups(facts(a_service("a", state, disconnected_at=NOW)), NOW)[0].cards
    assert word in card.state
    assert card.connected is connected


def test_unknown_facts_are_not_claimed() -> None:
    unseen = a_service("a", last_seen_at=None, certificate_not_after=None)
    [card] = groups(facts(unseen), NOW)[0].cards
    assert card.seen == "Never seen"
    assert card.certificate == "No valid certificate"
    assert card.protects.startswith("No use of its key")
    [expired] = groups(facts(a_service("a", certificate_not_after=NOW - HOUR)), NOW)[0].cards
    assert expired.certificate.startswith("Certificate expired")
    assert expired.certificate.endswith("renew it, or connect the service again")


def test_a_late_certificate_shows_its_expiry_and_what_to_do() -> None:
    late = a_service("a", certificate_not_before=NOW - 62 * HOUR, certificate_not_after=NOW + 10 * HOUR)
    [card] = groups(facts(late), NOW)[0].cards
    assert card.certificate.startswith("Certificate not renewed; expires 25 Nov 2026, 22:00 UTC (in 10 hours)")
    assert "renew it here" in card.certificate
    leaving = replace(TENANT, state=State.LEAVING)
    [card] = groups(facts(late, tenant=leaving), NOW)[0].cards
    assert card.certificate.endswith("Certificates cannot be renewed while the tenant is offboarding.")
    [card] = groups(facts(a_service("a", certificate_not_before=NOW - 50 * HOUR)), NOW)[0].cards
    assert card.certificate.startswith("Certificate valid until")


def test_many_services_are_searched_and_shown_up_to_a_page() -> None:
    many = [a_service(f"service-{number}") for number in range(30)]
    group = groups(facts(*many), NOW)[0]
    assert (len(group.cards), group.more) == (24, 6)
    assert [card.service for card in groups(facts(*many), NOW, " SERVICE-29 ")[0].cards] == ["service-29"]


def test_a_blocked_action_has_a_reason() -> None:
    suspended, locked = replace(TENANT, state=State.SUSPENDED), replace(TENANT, state=State.LOCKED)
    assert [why_no_renewal(tenant) for tenant in (TENANT, suspended, locked)] == ["", "", ""]
    assert why_not(TENANT) == ""
    assert "suspended" in why_not(suspended)
    assert "locked" in why_not(locked)
    assert "offboarding" in why_no_renewal(replace(TENANT, state=State.LEAVING))


def test_a_command_quotes_its_folder() -> None:
    assert "'/etc/it'\\''s'" in guides.request_command("/etc/it's")
    assert guides.unpack_command("o.zip", "/o") == "umask 077 && unzip -o o.zip -d '/'"
    assert guides.folder_of("") == "/etc/openkcm/my-service"
    assert all(guides.steps(kind) for kind in ServiceKind)


def test_a_card_shows_agent_version_and_certificate_expiry() -> None:
    assert agent_of() == ""
    assert agent_of(an_agent()) == (
        "Agent connected (version `0.1.0`), last contact 25 Nov 2026, 11:59 UTC (20 seconds ago),"
        " certificate valid until 27 Nov 2026, 12:00 UTC (in 2 days)"
    )
    assert agent_of(an_agent(service="another")) == ""


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
