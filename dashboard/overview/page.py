"""The page Overview: live metrics, what needs attention, recent events, the key map; provisioning while it runs."""

from dataclasses import dataclass, replace
from datetime import UTC
from math import isfinite

import streamlit as st

from compliance.coverage.assessment import FullyCovered, Unknown
from compliance.coverage.reader import read_coverage
from core.errors.platform import DatabaseUnavailable
from core.tenants.approvals import Approval
from core.tenants.lifecycle import State
from core.tenants.locks import HEALTHY
from core.tenants.roles import Permission
from core.tenants.status import CoverageFacts, Facts, verdict
from dashboard.components import key_map
from dashboard.components.attention import AttentionItem
from dashboard.components.formatting import at, count, plain, span
from dashboard.components.fragments import ICONS, admitted, draw_metric, draw_refusal, draw_unknown
from dashboard.components.tenant_status import UNDER_WAY
from dashboard.keys import timeline_section
from dashboard.overview import view as overview
from dashboard.overview.progress import Progress, progress, stopped
from dashboard.page_context import PageContext
from dashboard.root_keys import dialog as root_key_dialog
from dashboard.services import connect_dialog
from dashboard.services import page as services_page
from dashboard.services import view as services_view
from dashboard.status import badges
from dashboard.status.section import draw_header
from database.platform.status import measure
from database.provisioning import StepRow
from database.services.repository import ServiceRow
from database.tenants import TenantRow
from database.usage import HourSum

_PROGRESS_SECONDS = 1.0
_REFRESH_SECONDS = 5.0
_EVENTS = 6


@dataclass(frozen=True, slots=True)
class _Rows:
    """The data that the page reads once; the rest refreshes."""

    tenant: TenantRow
    steps: list[StepRow]
    key_map: key_map.KeyMap
    services: list[ServiceRow]


@dataclass(frozen=True, slots=True)
class _Live:
    """What refreshes while the page is open."""

    facts: Facts
    coverage: CoverageFacts
    waiting: list[Approval]
    course: list[HourSum]
    tenant: TenantRow
    services: tuple[AttentionItem, ...]


def draw(context: PageContext) -> None:
    if not admitted(context):
        return
    rows = _read(context)
    if rows is None:
        draw_unknown()
        return
    tenant = rows.tenant
    draw_header(context, tenant, overview.title(tenant))
    st.caption(overview.facts_line(tenant, rows.services, context.now()))
    if tenant.state in UNDER_WAY:
        _follow(context)
        return
    if tenant.state is State.FAILED:
        _draw_failed(context, rows)
        return
    if not rows.services and tenant.state is State.ACTIVE:
        _draw_first_steps(context)
    _draw_live(context)
    _draw_key_map(context, rows)


def _read(context: PageContext) -> _Rows | None:
    with context.database.tenant_tx(context.tenant_id) as tx:
        tenant = tx.tenants.get()
        if tenant is None:
            return None
        services, held = list(tx.services.all()), tx.root_keys.current()
        health = HEALTHY if held is None else held.health
        return _Rows(
            tenant,
            list(tx.steps.latest()),
            key_map.key_map(tenant, tx.keys.all(), tx.services.keys(), services, health),
            services,
        )


def _draw_first_steps(context: PageContext) -> None:
    """Draw what a customer does first, with a button for each step."""
    st.header("First steps", anchor=False)
    with st.grid(3, min_column_width=240):
        if _draws_step("1. Connect a service", "It gets a key and a certificate.", "Connect service", "connect"):
            connect_dialog.open_connect()
            context.navigation.go("services")
        if _draws_step(
            "2. Choose the root key", "Keep the platform's key, or hold it yourself.", "Choose root key", "root-key"
        ):
            root_key_dialog.open_change()
            context.navigation.go("keys")
        if _draws_step(
            "3. Require two people", "Critical actions then need a second person.", "Set approvals", "approvals"
        ):
            context.navigation.go("settings")


def _draws_step(title: str, words: str, button: str, key: str) -> bool:
    with st.container(border=True, height="stretch", gap="xsmall"):
        st.markdown(f"**{title}**")
        st.caption(words)
        return st.button(button, key=f"overview.first.{key}")


@st.fragment(run_every=_REFRESH_SECONDS)
def _draw_live(context: PageContext) -> None:
    try:
        if context.left():
            st.rerun()
        live = _read_live(context)
    except DatabaseUnavailable as down:
        draw_refusal(down, "Metrics not available", "The metrics refresh automatically.")
        return
    if live is None:
        st.rerun()
    _draw_metrics(live, context)
    left, right = st.columns(2, gap="medium")
    with left:
        _draw_attention(context, live)
    with right:
        _draw_events(context)
        _draw_key_management(live)


def _read_live(context: PageContext) -> _Live | None:
    now = context.now().astimezone(UTC)
    with context.database.tenant_tx(context.tenant_id) as tx:
        measured = measure(tx, context.root_key_shards, now)
        if measured is None:
            return None
        found = read_coverage(tx, now)
        course = tx.usage.course(overview.first_hour(now))
        services = services_page.read_facts(tx, now)
    coverage = CoverageFacts(
        sum(isinstance(one.verdict, FullyCovered) for one in found.services),
        len(found.services),
        is_complete=isinstance(found.verdict, FullyCovered),
        unlisted=sum(isinstance(one.verdict, Unknown) for one in found.services),
    )
    items = () if services is None else services_view.attention(services, now)
    return _Live(
        replace(measured.facts, coverage=coverage),
        coverage,
        list(measured.waiting),
        list(course),
        measured.tenant,
        items,
    )


def _draw_metrics(live: _Live, context: PageContext) -> None:
    with st.grid(4, min_column_width=170):
        for number, one in enumerate(overview.metrics(live.course, live.coverage, context.now())):
            with draw_metric(one.label, one.value, one.note):
                if len(one.course) > 1:
                    _draw_course(one, f"overview.course.{number}")


def _draw_course(one: overview.Metric, key: str) -> None:
    """Draw the line below a metric; the chart of `st.metric` has no text for a screen reader."""
    st.echarts_chart(
        {
            "animation": False,
            "grid": {"left": 2, "right": 2, "top": 4, "bottom": 4},
            "xAxis": {"type": "category", "show": False},
            "yAxis": {"type": "value", "show": False},
            "tooltip": {"trigger": "axis", "formatter": "{c}"},
            "series": [
                {
                    "type": "line",
                    "name": one.label,
                    "showSymbol": False,
                    "data": [value if isfinite(value) else None for value in one.course],
                }
            ],
        },
        height=56,
        key=key,
        alt=one.summary,
    )


def _draw_attention(context: PageContext, live: _Live) -> None:
    items = overview.attention(live.facts, live.waiting, live.coverage, live.services)
    with st.container(border=True, gap="small"):
        st.subheader("Needs attention", anchor=False)
        if not items:
            st.caption("Nothing needs attention.")
        for one in items:
            _draw_item(context, one)


def _draw_item(context: PageContext, one: AttentionItem) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        name = f"**{plain(one.service)}** " if one.service else ""
        st.markdown(f"{ICONS[one.severity]} {one.subject}: {name}{one.words}", width="stretch")
        label = f"Open {one.opens or one.path}" + (f" for {plain(one.service)}" if one.service else "")
        context.navigation.draw_link(one.path, label, **one.query)


def _draw_key_management(live: _Live) -> None:
    with st.container(border=True, gap="small"):
        st.subheader("Key management", anchor=False)
        for line in overview.key_management(live.tenant, verdict(live.facts)):
            color, icon = badges.COLORS[line.status]
            st.markdown(f":{color}[{icon}] **{line.label}:** {line.value}  \n:small[{line.detail}]")


def _draw_events(context: PageContext) -> None:
    with st.container(border=True, gap="small"):
        st.subheader("Recent events", anchor=False)
        events, _ = timeline_section.read(context)
        if not events:
            st.caption("No rotation, root key change, lock, approval or report yet.")
        st.markdown("\n".join(f"- {at(event.at)}: {event.words}" for event in events[:_EVENTS]))
        if context.may(Permission.VIEW_AUDIT):
            context.navigation.draw_link("audit", "All records", icon=":material/fact_check:")


@st.fragment(run_every=_PROGRESS_SECONDS)
def _follow(context: PageContext) -> None:
    """Refresh the steps while provisioning runs; afterwards redraw the whole page."""
    try:
        if context.left():
            st.rerun()
        with context.database.tenant_tx(context.tenant_id) as tx:
            tenant, steps = tx.tenants.get(), tx.steps.latest()
    except DatabaseUnavailable as down:
        draw_refusal(down, "Progress unavailable", "Provisioning continues; this page refreshes automatically.")
        return
    if tenant is None or tenant.state not in UNDER_WAY:
        st.rerun()
    _draw_progress(
        progress(tenant, steps, context.provisioning_slo_seconds, context.now()), context.provisioning_slo_seconds
    )


def _draw_progress(made: Progress, provisioning_slo_seconds: float) -> None:
    with st.container(border=True):
        st.header("Provisioning", anchor=False)
        st.progress(
            made.done / made.total,
            text=f"{made.done} of {count(made.total, 'step')} done after {span(made.elapsed)}; target: "
            f"{span(provisioning_slo_seconds)}",
        )
        if made.late:
            st.warning(
                "Provisioning continues automatically and nothing is lost. Your platform's operator has been notified.",
                title="Provisioning is delayed",
                icon=":material/schedule:",
            )
        _draw_lines(made)


def _draw_lines(made: Progress) -> None:
    st.markdown("  \n".join(f":material/{line.icon}: {line.title} · {line.note}" for line in made.lines))


def _draw_failed(context: PageContext, rows: _Rows) -> None:
    with st.container(border=True):
        st.header("Provisioning failed", anchor=False)
        if where := stopped(rows.steps):
            st.markdown(where)
        _draw_lines(progress(rows.tenant, rows.steps, context.provisioning_slo_seconds, context.now()))


def _draw_key_map(context: PageContext, rows: _Rows) -> None:
    with st.container(border=True):
        st.subheader("Key map", anchor=False)
        if rows.tenant.state is State.OFFBOARDED:
            st.caption("The keys of this tenant were destroyed when it was offboarded.")
            return
        if service := key_map.draw(rows.key_map, key="overview.key-map"):
            context.navigation.go("keys", service=service)
