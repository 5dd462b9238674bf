"""Response time of each page with much data: 10,000 tenants, a million audit records, 50 services, a year of usage."""

import os
import random
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from matplotlib.figure import Figure
from playwright.sync_api import Page

from core.tenants.lifecycle import State
from database.platform.status import read_facts
from openkcm.contract.services import ServiceKind
from tests.benchmarks import report
from tests.benchmarks.dashboard import bare_page
from tests.benchmarks.dashboard.browser import (
    PREPARING_VISITS,
    Chromium,
    Interaction,
    Place,
    Visitor,
    at_rest,
    changes,
    row_changes,
    select_row,
    wait_for,
    wait_for_animations,
    wait_for_heading,
    wait_for_table,
    wait_for_text,
)
from tests.benchmarks.dashboard.rows import (
    MORE_SERVICES,
    QUICK,
    SERVICES,
    Amounts,
    fill_audit,
    fill_tenants,
    fill_usage,
)
from tests.benchmarks.report import Check, Result, spread
from tests.dashboard.scene import Scene
from tests.database.schema import postgres_versions
from tests.e2e.dashboard.harness.served import serve

TENANT = "acme-corp-12345"
_PAINT_SECONDS, _INTERACTION_SECONDS = 1.5, 0.5
_SEED = 20261125
_USAGE_PERIOD, _REPORT_PERIOD = (
    "() => [...document.querySelectorAll('[data-testid=stCaptionContainer]')].map(one => one.textContent)"
    f".find(text => text.includes('{part}')) ?? ''"
    for part in ("UTC. As of", "Days are UTC days")
)
_PROTOCOL = (
    "{tenants:,} tenants in every state, {events:,} audit records with a valid chain in one tenant, and {days} days of "
    "usage of its {services} services (days, hours and minutes as long as the product keeps them) are written in bulk "
    "into PostgreSQL. The dashboard runs on it without other processes. Three in a thousand isolation assessments are "
    "late, and one in a thousand failed. Debian's Chromium, headless and on the same cores, signs in with the "
    "development sign-on. First paint: from the request for the address, in an open window, until the page's main "
    "content is visible, {runs} times for each page in a profile on disk that visited it {visits} times, and {runs} "
    "times in a new profile for the two pages that follow the sign-in; all other pages are opened only after one of "
    "these. Interaction: from the click or key, when the browser receives it, until its result is visible, {runs} "
    "times, each on a page just opened in the profile on disk. Streamlit alone: a page with a heading and a choice, by "
    "Streamlit's own server, measured after each of these. Status: what an open page reads every two seconds, {reads} "
    "times in the role of the dashboard, and the processor time of the dashboard's process with {tabs} open tabs over "
    "{seconds} s. The load is that of the machine over the minute before and after the measurement."
)
_DIALOG = "[role=dialog]"
_READS, _TABS, _TAB_SECONDS = 200, 10, 20
_RETURNING, _NEW = "returning", "new"
_BARE_RUNS = 2


def run(*, quick: bool) -> tuple[Result, Figure]:
    amounts, runs = (QUICK, 2) if quick else (Amounts(), 8)
    with (
        postgres_versions.migrated("embedded") as field,
        tempfile.TemporaryDirectory() as folder,
        serve(field, Path(folder)) as served,
    ):
        _fill(served.scene, amounts)
        load = [os.getloadavg()[0]]
        status = _status_seconds(served.scene)
        with Chromium() as browser:
            auditor = browser.sign_in(served.url, f"/tenant/{TENANT}", "Ada Admin")
            operator = browser.sign_in(served.url, "/operations", "Olga Operator")
            with bare_page.serve(Path(folder)) as address:
                bare = browser.visit(address)
                paints = {kind: _paints(auditor, operator, bare, runs, kind) for kind in (_RETURNING, _NEW)}
                times = _interactions(auditor, operator, bare, runs, amounts.tenants)
            with auditor.tabs("keys", _TABS):
                began = _processor_seconds(served.pid)
                time.sleep(_TAB_SECONDS)
                tabs = (_processor_seconds(served.pid) - began) / _TAB_SECONDS / _TABS
        load.append(os.getloadavg()[0])
    return _result(amounts, runs, Measured(paints, times, status, tabs, load), quick=quick)


def _paints(auditor: Visitor, operator: Visitor, bare: Visitor, runs: int, kind: str) -> dict[str, list[float]]:
    """Return the seconds of each page, and of the bare page after each of them."""
    cached, found, alone = kind == _RETURNING, dict[str, list[float]](), list[float]()
    paints = Visitor.first_paints if cached else Visitor.first_paints_in_new_profile
    for who, place in _places(auditor, operator):
        if cached or not place.path:
            found[place.name] = _shown(f"{place.name}, {kind}", paints(who, place, runs))
            alone += paints(bare, bare_page.PLACE, _BARE_RUNS)
    return found | {bare_page.PLACE.name: _shown(f"{bare_page.PLACE.name}, {kind}", alone)}


def _interactions(
    auditor: Visitor, operator: Visitor, bare: Visitor, runs: int, tenants: int
) -> dict[str, list[float]]:
    """Return the seconds of each interaction, and of the bare page's after each of them."""
    found, alone = dict[str, list[float]](), list[float]()
    for who, ones in ((auditor, [*_pages(), *_audit(), *_audit_records()]), (operator, _operations(tenants))):
        for one in ones:
            found[one.name] = _shown(one.name, who.interactions(one, runs))
            alone += bare.interactions(bare_page.INTERACTION, 1)
    return found | {bare_page.INTERACTION.name: _shown(bare_page.INTERACTION.name, alone)}


def _fill(scene: Scene, amounts: Amounts) -> None:
    chance, now, began = random.Random(_SEED), datetime.now(UTC), time.monotonic()  # noqa: S311 - sample data only
    with scene.field.administrator() as administrator:
        # Before the tenant exists, because its own records must have later times.
        fill_audit(administrator, TENANT, amounts.events, now - timedelta(minutes=1), chance)
        fill_tenants(administrator, amounts.tenants, now, chance)
        scene.tenant(State.ACTIVE, TENANT)
        for name, kind in (*SERVICES, *MORE_SERVICES):
            scene.service(name, ServiceKind(kind), TENANT)
        fill_usage(administrator, TENANT, amounts.usage_days, now)
        administrator.execute("vacuum analyze")
    scene.measured()
    print(f"  filled after {time.monotonic() - began:.0f} s", flush=True)


def _shown(name: str, seconds: list[float]) -> list[float]:
    print(f"  {name}: {spread(seconds)['p50']} s", flush=True)
    return seconds


def _status_seconds(scene: Scene) -> list[float]:
    """Return the seconds that each of the reads of the status of a tenant took."""
    seconds = []
    for _ in range(_READS):
        began = time.perf_counter()
        read_facts(scene.dashboard, TENANT, 1, datetime.now(UTC))
        seconds.append(time.perf_counter() - began)
    return seconds


def _processor_seconds(pid: int) -> float:
    """Return the processor time that a process has used."""
    used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(used[11]) + int(used[12])) / os.sysconf("SC_CLK_TCK")


def _places(customer: Visitor, operator: Visitor) -> list[tuple[Visitor, Place]]:
    return [
        *((customer, Place(name, path, shown)) for name, (path, shown) in _CUSTOMER.items()),
        (operator, Place("Operations", "", wait_for_table)),
    ]


_CUSTOMER = {
    "Overview": ("", wait_for_heading("Key map")),
    "Keys": ("keys", wait_for_heading("Who can open what")),
    "Services": ("services", wait_for_text("50 of 50 shown")),
    "Approvals": ("approvals", wait_for_heading("Recent decisions")),
    "Usage": ("usage", wait_for_heading("By service and operation")),
    "Compliance": ("compliance", wait_for_heading("Readiness")),
    "Audit": ("audit", wait_for_table),
    "Settings": ("settings", wait_for_heading("Delivery log")),
}


def _pages() -> list[Interaction]:
    """Return the typical interactions of the pages of a tenant, without the page Audit."""

    def open_lock(page: Page) -> None:
        page.get_by_role("button", name="Lock all keys").click()
        wait_for(_DIALOG, "What happens")(page)

    def select_key(page: Page) -> None:
        select_row(page, "button", "Versions and history")

    def open_versions(page: Page) -> None:
        page.get_by_role("button", name="Versions and history").click()
        wait_for(_DIALOG, "Versions and history")(page)

    def find_service(page: Page) -> None:
        field = page.get_by_role("textbox", name="Find a service")
        field.fill("service-42")
        field.press("Enter")
        wait_for_text("1 of 50 shown")(page)

    def select_service(page: Page) -> None:
        select_row(page, "button", "Disconnect")

    def open_connect(page: Page) -> None:
        page.get_by_role("button", name="Connect service").click()
        wait_for(f"{_DIALOG} input[aria-label=Name]")(page)

    def a_year(page: Page) -> None:
        choice = page.get_by_test_id("stRadio").get_by_text("12 months", exact=True)
        changes(page, _USAGE_PERIOD, choice.click)
        at_rest(page)

    def report_of_a_quarter(page: Page) -> None:
        choice = page.get_by_test_id("stRadio").get_by_text("Last quarter", exact=True)
        changes(page, _REPORT_PERIOD, choice.click)

    def tick(page: Page) -> None:
        page.get_by_test_id("stCheckbox").first.click()
        wait_for_text("unsaved change")(page)

    acts = (
        ("Overview", "open the kill switch", open_lock, None),
        ("Keys", "select a service", select_key, None),
        ("Keys", "open versions and history", open_versions, select_key),
        ("Services", "find a service", find_service, None),
        ("Services", "select a service", select_service, None),
        ("Services", "open the connect dialog", open_connect, None),
        ("Approvals", "open the kill switch", open_lock, None),
        ("Usage", "twelve months", a_year, None),
        ("Compliance", "another period", report_of_a_quarter, None),
        ("Settings", "tick an action", tick, None),
    )
    return [Interaction(f"{name}: {what}", *_CUSTOMER[name], act, before) for name, what, act, before in acts]


def _operations(tenants: int) -> list[Interaction]:
    sought = f"customer-{tenants * 7 // 8:05}"

    def further(page: Page) -> None:
        page.get_by_role("button", name="Next").click()
        wait_for_text("26 to 50, by id")(page)

    def find(page: Page) -> None:
        field = page.get_by_label("Find")
        field.fill(sought)
        field.press("Enter")
        wait_for_text("1 to 1, by id")(page)

    first = wait_for_text("1 to 25, by id")
    return [
        Interaction("Operations: next tenants", "", first, further),
        Interaction("Operations: find a tenant", "", first, find),
    ]


def _audit() -> list[Interaction]:
    """Return the interactions with the filters of the page Audit."""

    def outcomes(page: Page) -> None:
        page.get_by_text("Time range and more filters", exact=True).click()
        wait_for("input[role=combobox][aria-label=Outcome]")(page)
        wait_for_animations(page)  # A list that opens during the animation closes again.
        page.get_by_role("combobox", name="Outcome").click()

    def only_refused(page: Page) -> None:
        row_changes(page, lambda: page.get_by_role("option", name="Refused").click())

    def services(page: Page) -> None:
        page.get_by_role("combobox", name="Service").click()

    def one_service(page: Page) -> None:
        row_changes(page, lambda: page.get_by_role("option", name="ledger", exact=True).click())

    def search(page: Page) -> None:
        field = page.get_by_role("textbox", name="Search records")
        field.fill("alan@acme")
        row_changes(page, lambda: field.press("Enter"))

    def search_without_match(page: Page) -> None:
        field = page.get_by_role("textbox", name="Search records")
        field.fill("no record contains this")
        field.press("Enter")
        wait_for_text("No matching records")(page)

    acts = (
        ("only rejections", only_refused, outcomes),
        ("only one service", one_service, services),
        ("search for a person", search, None),
        ("search without a match", search_without_match, None),
    )
    return [Interaction(f"Audit: {what}", "audit", wait_for_table, act, before) for what, act, before in acts]


def _audit_records() -> list[Interaction]:
    """Return the interactions with the bars and the list of the page Audit."""

    def older(page: Page) -> None:
        row_changes(page, lambda: page.get_by_role("button", name="Older").click())

    def open_record(page: Page) -> None:
        select_row(page, _DIALOG, "Hashed text")

    def point_at_bar(page: Page) -> None:
        chart = page.locator(".st-key-audit-bars-0").bounding_box()
        assert chart is not None
        # In the middle of the week, just above the axis: each hour has records.
        page.mouse.move(chart["x"] + chart["width"] / 2, chart["y"] + chart["height"] - 45)

    def click_bar(page: Page) -> None:
        def click() -> None:
            page.mouse.down()
            page.mouse.up()

        row_changes(page, click)

    return [
        Interaction("Audit: older records", "audit", wait_for_table, older),
        Interaction("Audit: select a bar", "audit", wait_for_table, click_bar, point_at_bar),
        Interaction("Audit: open a record", "audit", wait_for_table, open_record),
    ]


@dataclass(frozen=True)
class Measured:
    """Seconds by page and by interaction, of each read of the status, and of the processor per second and tab."""

    paints: dict[str, dict[str, list[float]]]
    times: dict[str, list[float]]
    status: list[float]
    tab: float
    load: list[float]


def _result(amounts: Amounts, runs: int, found: Measured, *, quick: bool) -> tuple[Result, Figure]:
    def slowest(samples: dict[str, list[float]]) -> float:
        return max(spread(seconds)["p50"] for seconds in samples.values())

    def multiple(samples: dict[str, list[float]], alone: str) -> float:
        return round(slowest(samples) / spread(samples[alone])["p50"], 2)

    def worst(samples: dict[str, list[float]]) -> float:
        return round(max(max(seconds) for seconds in samples.values()), 3)

    paints, times = found.paints, found.times
    checks = [
        Check("median first paint of the slowest page", round(slowest(paints[_RETURNING]), 3), _PAINT_SECONDS, "s"),
        Check("the same in a new browser profile", round(slowest(paints[_NEW]), 3), _PAINT_SECONDS, "s"),
        Check("median of the slowest interaction", round(slowest(times), 3), _INTERACTION_SECONDS, "s"),
    ]
    summary = {
        "worst first paint of all runs (s)": worst(paints[_RETURNING]),
        "worst interaction of all runs (s)": worst(times),
        "slowest first paint, as a multiple of Streamlit alone": multiple(paints[_RETURNING], bare_page.PLACE.name),
        "the same in a new profile": multiple(paints[_NEW], bare_page.PLACE.name),
        "slowest interaction, as a multiple of Streamlit alone": multiple(times, bare_page.INTERACTION.name),
        "load of the machine before and after (1 min)": " and ".join(f"{one:.1f}" for one in found.load),
        "status of an open page, each 2 s (s)": spread(found.status),
        "reads of the status with 100 open tabs (cores)": round(spread(found.status)["p50"] * 50, 3),
        "dashboard process with 100 open tabs (cores)": round(found.tab * 100, 2),
        **{f"{name}, first paint (s)": spread(seconds) for name, seconds in paints[_RETURNING].items()},
        **{f"{name}, new profile (s)": spread(seconds) for name, seconds in paints[_NEW].items()},
        **{f"{name} (s)": spread(seconds) for name, seconds in times.items()},
    }
    result = Result(
        name="dashboard",
        title=f"The dashboard at {amounts.tenants:,} tenants and {amounts.events:,} audit records",
        quick=quick,
        protocol=_PROTOCOL.format(
            tenants=amounts.tenants,
            events=amounts.events,
            days=amounts.usage_days,
            services=len(SERVICES) + len(MORE_SERVICES),
            runs=runs,
            visits=PREPARING_VISITS,
            reads=_READS,
            tabs=_TABS,
            seconds=_TAB_SECONDS,
        ),
        checks=checks,
        summary=summary,
        samples={"first_paint": paints, "interaction": times, "status": [round(one, 5) for one in found.status]},
    )
    return result, _plot(paints, times)


def _plot(paints: dict[str, dict[str, list[float]]], times: dict[str, list[float]]) -> Figure:
    figure, left = report.canvas(width=13, height=7)
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
