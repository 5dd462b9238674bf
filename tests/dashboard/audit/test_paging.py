"""Filters and paging return the same records as a linear search, for any filter and any order of pages."""

import json
from collections.abc import Iterator
from datetime import datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.audit import AuditFilter
from dashboard.audit import stream as paging
from dashboard.audit.stream import Page, PageDirection, ScanBudget
from database.connection.database import Database
from openkcm.contract.audit_events import AuditEvent, AuditName
from tests.database.builders import an_audit_event
from tests.database.fixtures import Field, Server, clone

NAMES = (AuditName.CRYPTO_USED, AuditName.CRYPTO_REFUSED, AuditName.TENANT_FAILED, AuditName.SIGNED_IN)
OUTCOMES = ("success", "refused", "failure")
ACTORS = ("orders", "Ada", "ada lovelace", "worker")
SERVICES = ("orders", "users", "idle")
OPERATIONS = ("encrypt", "decrypt")
SUBJECTS = ("service/orders", "dashboard", "100%", "a_b", "axb")
TENANT = "acme-corp-12345"
NUMBER = 120
BUDGET = ScanBudget(length=7, window=9)


@pytest.fixture(scope="module")
def stream(server: Server, template: str) -> Iterator[Field]:
    """A stream with mixed events by record number, and another tenant with the same events."""
    with clone(server, template) as one:
        worker = one.open("worker", max_size=1)
        for tenant in (TENANT, "beta"):
            for n in range(NUMBER):
                with worker.tenant_tx(tenant) as tx:
                    tx.audit.append(_event(n))
        yield one


def _event(n: int) -> AuditEvent:
    return an_audit_event(
        f"e{n}",
        name=NAMES[n * 7 % 11 % 4],
        outcome=OUTCOMES[n * 5 % 7 % 3],
        actor=ACTORS[n * 3 % 5 % 4],
        subject=SUBJECTS[n % 5],
        actor_kind="service" if n % 2 else "human",
        details={"operation": OPERATIONS[n // 30 % 2]},
    )


@pytest.fixture(scope="module")
def dashboard(stream: Field) -> Database:
    return stream.open("dashboard", max_size=1)


@pytest.fixture(scope="module")
def everything(dashboard: Database) -> list[tuple[int, str, dict[str, str]]]:
    with dashboard.tenant_tx(TENANT) as tx:
        return [(one.seq, one.record, json.loads(one.record)) for one in tx.audit.records()]


FILTERS = st.builds(
    dict,
    names=st.frozensets(st.sampled_from([*map(str, NAMES), "crypto.", "key."]), max_size=2),
    outcomes=st.frozensets(st.sampled_from(OUTCOMES), max_size=2),
    actor=st.sampled_from(["", "", "ada", "ORDERS", "%", "unknown"]),
    subject=st.sampled_from(["", "", "order", "a_b", "%", "_"]),
    services=st.frozensets(st.sampled_from(SERVICES), max_size=1),
    operations=st.frozensets(st.sampled_from((*OPERATIONS, "mac")), max_size=1),
    text=st.sampled_from(["", "", "ADA", "refused", "0%", "\0"]),
    between=st.tuples(st.integers(0, NUMBER), st.integers(0, NUMBER)) | st.none(),
)
TURNS = st.lists(
    st.sampled_from([PageDirection.OLDER, PageDirection.OLDER, PageDirection.NEWER, PageDirection.NEWEST]), max_size=12
)


def naive(asked: dict[str, object], everything: list[tuple[int, str, dict[str, str]]]) -> list[int]:
    """Return the numbers of matching records, newest first, by a linear search."""
    fitting = []
    for seq, text, fields in everything:
        names, outcomes = asked["names"], asked["outcomes"]
        family = fields["name"].split(".")[0] + "."
        if names and fields["name"] not in names and family not in names:
            continue
        if outcomes and fields["outcome"] not in outcomes:
            continue
        if asked["services"] and (fields["actor_kind"] != "service" or fields["actor"] not in asked["services"]):
            continue
        if asked["operations"] and fields["details"]["operation"] not in asked["operations"]:
            continue
        if asked["actor"].lower() not in fields["actor"].lower():
            continue
        if asked["subject"].lower() not in fields["subject"].lower():
            continue
        if asked["text"].lower() not in text.lower():
            continue
        if asked["between"] is not None and not asked["between"][0] <= seq - 1 < asked["between"][1]:
            continue
        fitting.append(seq)
    return fitting[::-1]


def chosen_from(asked: dict[str, object], everything: list[tuple[int, str, dict[str, str]]]) -> AuditFilter:
    def at(index: int) -> datetime | None:
        return datetime.fromisoformat(everything[index][2]["time"]) if index < NUMBER else None

    plain = {key: value for key, value in asked.items() if key != "between"}
    if asked["between"] is None:
        return AuditFilter(**plain)
    since, until = asked["between"]
    beyond = datetime.fromisoformat("2999-01-01T00:00:00Z")
    return AuditFilter(**plain, since=at(since) or beyond, until=at(until))


def finish(database: Database, page: Page, *, expired: bool) -> Page:
    """Continue the search until the page is complete."""
    while page.rest:
        before = len(page.rest)
        page = paging.turn(database, page, PageDirection.FURTHER, lambda: expired)
        assert len(page.rest) < before
    return page


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=FILTERS, turns=TURNS, expired=st.booleans())
def test_filters_and_pages_equal_a_linear_search(
    dashboard: Database,
    everything: list[tuple[int, str, dict[str, str]]],
    asked: dict[str, object],
    turns: list[PageDirection],
    expired: bool,  # noqa: FBT001 - drawn by name
) -> None:
    expected = naive(asked, everything)
    page = paging.newest(dashboard, TENANT, chosen_from(asked, everything), lambda: expired, BUDGET)
    page = finish(dashboard, page, expired=expired)
    assert [one.stored.seq for one in page.found] == expected[: BUDGET.length]
    for how in turns:
        older = [seq for seq in expected if seq < page.span.start]
        newer = [seq for seq in expected if seq >= page.span.stop]
        page = finish(dashboard, paging.turn(dashboard, page, how, lambda: expired), expired=expired)
        shown = [one.stored.seq for one in page.found]
        if how is PageDirection.OLDER:
            assert shown == older[: BUDGET.length]
        elif how is PageDirection.NEWER:
            assert shown == newer[-BUDGET.length :]
        else:
            assert shown == expected[: BUDGET.length]
        assert all(json.loads(one.stored.record)["tenant_id"] == TENANT for one in page.found)


def test_a_search_past_its_deadline_keeps_the_unsearched_numbers(dashboard: Database) -> None:
    page = paging.newest(dashboard, TENANT, AuditFilter(text="nowhere"), lambda: True, BUDGET)
    assert (page.found, page.rest) == ((), range(1, NUMBER - BUDGET.window + 1))
    page = paging.turn(dashboard, page, PageDirection.FURTHER, lambda: False)
    assert (page.found, page.rest, page.older) == ((), range(0), range(1, 1))
