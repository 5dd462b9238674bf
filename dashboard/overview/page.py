"""The page Overview: tenant status, and each step while it is provisioned."""

from dataclasses import dataclass
from datetime import datetime

import streamlit as st

from core.errors.platform import DatabaseUnavailable
from core.tenants.lifecycle import State
from core.tenants.locks import HEALTHY
from dashboard.components import key_map
from dashboard.components.formatting import count, moment, span
from dashboard.components.fragments import ICONS, admitted, draw_refusal, draw_unknown
from dashboard.components.tenant_status import UNDER_WAY, sentence, standing
from dashboard.isolation import view as isolation
from dashboard.isolation.view import Check
from dashboard.overview import view as overview
from dashboard.overview.progress import Progress, progress, ready, stopped
from dashboard.page_context import PageContext
from dashboard.root_keys import view as root_key
from dashboard.status_banner.section import draw_standing
from database.provisioning import RouteRow, StepRow
from database.root_keys import CustomerRootKeyRow
from database.services.repository import ServiceRow
from database.tenants import TenantRow

_REFRESH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Rows:
    """The data of the page, read in one transaction."""

    tenant: TenantRow
    steps: list[StepRow]
    services: list[ServiceRow]
    key_map: key_map.KeyMap
    check: Check | None
    examined_at: datetime | None
    daily_at: datetime | None
    route: RouteRow | None
    key: CustomerRootKeyRow | None


def draw(context: PageContext) -> None:
    if not admitted(context):
        return
    rows = _read(context)
    if rows is None:
        draw_unknown()
        return
    tenant = rows.tenant
    st.title(overview.title(tenant), anchor=False)
    st.caption(f"Tenant `{tenant.tenant_id}`, enabled {moment(tenant.requested_at, context.now())}")
    draw_standing(context, tenant)
    _draw_figures(context, rows)
    if tenant.state in UNDER_WAY:
        _follow(context)
    elif tenant.state is State.FAILED:
        _draw_failed(context, rows)
    left, right = st.columns(2, gap="medium")
    with left:
        _draw_key_management(context, rows)
        _draw_ready(context, rows)
    with right:
        _draw_key_map(context, rows)
    _draw_isolation(context, rows)


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
            services,
            key_map.key_map(tenant, tx.keys.all(), tx.services.keys(), services, health),
            isolation.check(tx.boundaries.latest_run()),
            None if (newest := tx.boundaries.examination()) is None else newest.examined_at,
            None if (daily := tx.boundaries.daily()) is None else daily.line.examined_at,
            tx.routes.get(),
            held,
        )


def _draw_figures(context: PageContext, rows: _Rows) -> None:
    number, addition = overview.services_using(rows.tenant, rows.services, context.now())
    active = rows.tenant.state is State.ACTIVE
    with st.grid(3, min_column_width=240):
        for label, value, detail in (
            ("Tenant Status", standing(rows.tenant.state).name, standing(rows.tenant.state).meaning if active else ""),
            ("Region", rows.tenant.region, "Your tenant key is stored in this region."),
            ("Services Using Encryption", number, sentence(addition)),
        ):
            with st.container(border=True, height="stretch", gap="xsmall"):
                st.metric(label, value)
                if detail:
                    st.caption(detail)


@st.fragment(run_every=_REFRESH_SECONDS)
def _follow(context: PageContext) -> None:
    """Refresh the steps while provisioning runs; afterwards redraw the whole page."""
    if context.left():
        st.rerun()
    try:
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


def _draw_key_management(context: PageContext, rows: _Rows) -> None:
    with st.container(border=True):
        st.header("Key management", anchor=False)
        how = root_key.health(rows.tenant, rows.key, context.grace_seconds, context.now())
        for line in overview.key_management(rows.tenant, rows.check, rows.route, context.now(), how):
            with st.container(gap=None):
                st.markdown(f"{ICONS[line.tone]} **{line.label}:** {line.value}")
                st.caption(line.detail)


def _draw_ready(context: PageContext, rows: _Rows) -> None:
    if not (words := ready(rows.tenant, context.provisioning_slo_seconds)):
        return
    with st.container(border=True):
        st.header("Readiness", anchor=False)
        st.markdown(f":material/timer: {words}")
        st.caption(f"Ready since {moment(rows.tenant.ready_at, context.now())}.")
        if rows.steps:
            with st.expander("Provisioning steps", icon=":material/checklist:"):
                _draw_lines(progress(rows.tenant, rows.steps, context.provisioning_slo_seconds, context.now()))


def _draw_key_map(context: PageContext, rows: _Rows) -> None:
    with st.container(border=True):
        st.header("Key map", anchor=False)
        if rows.tenant.state is State.OFFBOARDED:
            st.caption("The keys of this tenant were destroyed when it was offboarded.")
            return
        if service := key_map.draw(rows.key_map, key="overview.key-map"):
            context.navigation.go("keys", service=service)


def _draw_isolation(context: PageContext, rows: _Rows) -> None:
    with st.container(border=True):
        st.header("Tenant isolation", anchor=False)
        check = rows.check
        if check is None:
            st.caption(
                "No isolation check has run yet. Before a tenant becomes active, attacks from another tenant are "
                "attempted, and each result appears here."
            )
            return
        icon = ":material/verified_user:" if check.passed else ":material/error:"
        st.markdown(
            f"{icon} {check.held:,} of {count(check.attacks, 'isolation check')} passed. "
            f"Last run {moment(check.at, context.now())}."
        )
        if rows.examined_at is None:
            st.caption("Shown: checks before activation. The full assessment runs within 24 hours.")
        elif rows.examined_at != check.at:
            st.caption(f"Last full assessment {moment(rows.examined_at, context.now())}.")
        if rows.daily_at is not None and rows.daily_at > check.at:
            st.caption(f"Daily checks, a part of them, last passed {moment(rows.daily_at, context.now())}.")
        if pending := isolation.pending(check):
            st.markdown("  \n".join(f":material/visibility_off: {words}" for words in pending))
        marks = {True: ":material/check:", False: ":material/error:"}
        st.markdown(
            "  \n".join(
                f"{marks[control.passed]} **{control.clause}** {control.meaning}: {isolation.summary(control)}"
                for control in check.controls
            )
        )
        with st.expander("Checks and evidence", icon=":material/fact_check:"):
            st.caption(
                "Each check has a positive control: the same call on the caller's own resources, which must succeed."
            )
            st.markdown(
                "\n".join(
                    f"- **{control.clause}** {isolation.attack(result)}: {result.outcome}. `{result.evidence}`"
                    for control in check.controls
                    for result in control.results
                )
            )
