"""Response time of the dashboard with much data: ten thousand tenants, a million audit records, a year of usage."""

import random
import time
from datetime import UTC, datetime, timedelta

import psycopg
from matplotlib.figure import Figure
from playwright.sync_api import Page

from devstack.servers.postgres import PostgresServer
from tests.benchmarks import report
from tests.benchmarks.dashboard.browser import (
    Chromium,
    Interaction,
    Person,
    Place,
    at_rest,
    changes,
    row_changes,
    wait_for_table,
    wait_for_text,
)
from tests.benchmarks.dashboard.rows import QUICK, SERVICES, Amounts, fill_audit, fill_tenants, fill_usage
from tests.benchmarks.harness.marketplace_client import Marketplace
from tests.benchmarks.harness.stack import Stack
from tests.benchmarks.report import Check, Result, spread

TENANT = "acme-corp-12345"
_PAINT_SECONDS, _INTERACTION_SECONDS = 1.5, 0.5
_SEED = 20261125
_PERIOD_SHOWN = (
    "() => [...document.querySelectorAll('[data-testid=stCaptionContainer]')].map(one => one.innerText)"
    ".find(text => text.includes('UTC. As of')) ?? ''"
)
_PROTOCOL = (
    "{tenants:,} tenants in every state, {events:,} audit records with a valid chain in one tenant and {days} days of "
    "usage by the minute of five services are written into a fresh stack in bulk; that tenant is then enabled and its "
    "services connected as usual. Debian's Chromium, headless and on the same cores as the stack, signs in with the "
    "development sign-on. First paint: from the request for the address until the page's main content is visible, "
    "{runs} times for each page in a browser with a filled cache, and {runs} times with an empty cache for the two "
    "pages that follow the sign-in; all other pages are opened only after one of these. "
    "Interaction: from the click until its result is visible, {runs} times, each on a page just opened."
)


def run(*, quick: bool) -> tuple[Result, Figure]:
    amounts, runs = (QUICK, 2) if quick else (Amounts(), 12)
    with Stack() as stack:
        _fill(stack, amounts)
        with Chromium() as browser:
            dashboard = stack.settings.dashboard_url
            auditor = browser.sign_in(dashboard, f"/tenant/{TENANT}", "Ada Admin")
            operator = browser.sign_in(dashboard, "/operations", "Olga Operator")
            paints = {
                kind: {
                    place.name: who.first_paints(place, runs, cached=cached)
                    for who, place in _places(auditor, operator)
                    if cached or not place.path
                }
                for kind, cached in (("returning", True), ("new", False))
            }
            times = {
                one.name: who.interactions(one, runs)
                for who, ones in ((auditor, _audit() + _usage()), (operator, _operations(amounts.tenants)))
                for one in ones
            }
    return _result(amounts, runs, paints, times, quick=quick)


def _fill(stack: Stack, amounts: Amounts) -> None:
    chance, now, began = random.Random(_SEED), datetime.now(UTC), time.monotonic()  # noqa: S311 - sample data only
    server = PostgresServer(stack.settings.state_dir, stack.settings.postgres_port)
    with psycopg.connect(server.admin_conninfo, autocommit=True) as administrator:
        # Before the tenant exists, because its own records must have later times.
        fill_audit(administrator, TENANT, amounts.events, now - timedelta(minutes=1), chance)
        fill_tenants(administrator, amounts.tenants, now, chance)
        marketplace = Marketplace(stack.settings)
        marketplace.enable(TENANT)
        marketplace.ready_seconds(TENANT, patience=60)
        fill_usage(administrator, TENANT, amounts.usage_days, now)
        administrator.execute("analyze")
    for service, kind in SERVICES:
        folder = str(stack.folder / service)
        stack.openkcm("service", "connect", TENANT, "--kind", kind, "--name", service, "--out", folder)
    print(f"  filled after {time.monotonic() - began:.0f} s", flush=True)


def _places(customer: Person, operator: Person) -> list[tuple[Person, Place]]:
    return [
        (customer, Place("Overview", "", wait_for_text("Encryption Dashboard"))),
        (customer, Place("Keys", "keys", wait_for_text("Service keys (L3)"))),
        (customer, Place("Services", "services", wait_for_text("5 of 5 shown"))),
        (customer, Place("Usage", "usage", wait_for_text("By service and operation"))),
        (customer, Place("Audit", "audit", wait_for_table)),
        (operator, Place("Operations", "", wait_for_text("customer-00001"))),
    ]


def _usage() -> list[Interaction]:
    def a_year(page: Page) -> None:
        choice = page.get_by_role("radio", name="12 months", exact=True)
        changes(page, _PERIOD_SHOWN, choice.click)
        at_rest(page)

    return [Interaction("Usage: twelve months", "usage", wait_for_text("By service and operation"), a_year)]


def _operations(tenants: int) -> list[Interaction]:
    sought = f"customer-{tenants * 7 // 8:05}"

    def further(page: Page) -> None:
        page.get_by_role("button", name="Next").click()
        page.get_by_text("26 to 50, by id").wait_for()

    def find(page: Page) -> None:
        field = page.get_by_label("Find")
        field.fill(sought)
        field.press("Enter")
        page.get_by_text("1 to 1, by id").wait_for()

    first = wait_for_text("1 to 25, by id")
    return [
        Interaction("Operations: next tenants", "", first, further),
        Interaction("Operations: find a tenant", "", first, find),
    ]


def _audit() -> list[Interaction]:
    def outcomes(page: Page) -> None:
        page.get_by_text("More filters", exact=True).click()
        page.get_by_role("combobox", name="Outcome").click()

    def only_refused(page: Page) -> None:
        row_changes(page, lambda: page.get_by_role("option", name="Refused").click())

    def search(page: Page) -> None:
        field = page.get_by_role("textbox", name="Search")
        field.fill("alan@acme")
        row_changes(page, lambda: field.press("Enter"))

    def search_without_match(page: Page) -> None:
        field = page.get_by_role("textbox", name="Search")
        field.fill("no record contains this")
        field.press("Enter")
        wait_for_text("No matching records")(page)

    def older(page: Page) -> None:
        row_changes(page, lambda: page.get_by_role("button", name="Older").click())

    def open_record(page: Page) -> None:
        box = page.get_by_test_id("stDataFrame").last.bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + 15, box["y"] + 55)
        page.get_by_role("dialog").get_by_text("Hashed text").wait_for()

    def one_service(page: Page) -> None:
        row_changes(page, lambda: page.get_by_role("option", name="ledger").click())

    def services(page: Page) -> None:
        page.get_by_role("combobox", name="Service").click()

    return [
        Interaction("Audit: only rejections", "audit", wait_for_table, only_refused, outcomes),
        Interaction("Audit: only one service", "audit", wait_for_table, one_service, services),
        Interaction("Audit: search for a person", "audit", wait_for_table, search),
        Interaction("Audit: search without a match", "audit", wait_for_table, search_without_match),
        Interaction("Audit: older records", "audit", wait_for_table, older),
        Interaction("Audit: open a record", "audit", wait_for_table, open_record),
    ]


def _result(
    amounts: Amounts,
    runs: int,
    paints: dict[str, dict[str, list[float]]],
    times: dict[str, list[float]],
    *,
    quick: bool,
) -> tuple[Result, Figure]:
    def worst(samples: dict[str, list[float]]) -> float:
        return max(spread(seconds)["p50"] for seconds in samples.values())

    checks = [
        Check("median first paint of the slowest page", round(worst(paints["returning"]), 3), _PAINT_SECONDS, "s"),
        Check("the same in a browser with an empty cache", round(worst(paints["new"]), 3), _PAINT_SECONDS, "s"),
        Check("median of the slowest interaction", round(worst(times), 3), _INTERACTION_SECONDS, "s"),
    ]
    summary = {
        **{f"{name}, first paint (s)": spread(seconds) for name, seconds in paints["returning"].items()},
        **{f"{name}, nothing cached (s)": spread(seconds) for name, seconds in paints["new"].items()},
        **{f"{name} (s)": spread(seconds) for name, seconds in times.items()},
    }
    result = Result(
        name="dashboard",
        title=f"The dashboard at {amounts.tenants:,} tenants and {amounts.events:,} audit records",
        quick=quick,
        protocol=_PROTOCOL.format(tenants=amounts.tenants, events=amounts.events, days=amounts.usage_days, runs=runs),
        checks=checks,
        summary=summary,
        samples={"first_paint": paints, "interaction": times},
    )
    return result, _plot(paints, times)


def _plot(paints: dict[str, dict[str, list[float]]], times: dict[str, list[float]]) -> Figure:
    figure, left = report.canvas(width=12, height=5.5)
    left.remove()
    left, right = figure.subplots(1, 2)
    for axes, groups, limit, title in (
        (left, paints, _PAINT_SECONDS, "first paint"),
        (right, {"": times}, _INTERACTION_SECONDS, "interaction"),
    ):
        names = list(next(iter(groups.values())))
        for offset, (kind, colour) in enumerate(zip(groups, (report.BLUE, report.ORANGE), strict=False)):
            for name, samples in groups[kind].items():
                height = names.index(name) + 0.25 * offset
                axes.scatter(samples, [height] * len(samples), color=colour, alpha=0.5, s=18)
                axes.scatter([spread(samples)["p50"]], [height], color=colour, marker="|", s=300, lw=3)
            if kind:
                axes.scatter([], [], color=colour, label=f"{kind} browser")
        axes.axvline(limit, color=report.RED, ls="--", label=f"limit for the median, {limit:g} s")
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set(title=title, xlabel="seconds", xlim=(0, None))
        axes.legend(loc="lower left", fontsize=8)
    return figure
