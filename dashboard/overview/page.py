"""Overview: what the tenant is, how it stands, and, while it is made, each step of it."""

from dataclasses import dataclass
from datetime import datetime

import streamlit as st

from core.errors.platform import DatabaseUnavailable
from core.tenants.lifecycle import State
from dashboard.components import key_hierarchy as chain
from dashboard.components.formatting import count, moment, span
from dashboard.components.fragments import ICONS, admitted, draw_refusal, draw_unknown
from dashboard.components.tenant_status import UNDER_WAY, sentence, standing
from dashboard.overview import isolation
from dashboard.overview import view as overview
from dashboard.overview.isolation import Check
from dashboard.overview.progress import Progress, progress, ready, stopped
from dashboard.page_context import PageContext
from dashboard.root_keys import view as root_key
from dashboard.status_banner.section import draw_standing
from database.provisioning import RouteRow, StepRow
from database.root_keys import CustomerRootKeyRow
from database.services.repository import ServiceRow
from database.tenants import TenantRow

_FOLLOW_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Rows:
    """What the page needs, read in one transaction."""

    tenant: TenantRow
    steps: list[StepRow]
    services: list[ServiceRow]
    chain: chain.KeyHierarchy
    check: Check | None
    examined_at: datetime | None
    route: RouteRow | None
    key: CustomerRootKeyRow | None


def draw(seat: PageContext) -> None:
    if not admitted(seat):
        return
    rows = _read(seat)
    if rows is None:
        draw_unknown()
        return
    tenant = rows.tenant
    st.title(overview.title(tenant), anchor=False)
    st.caption(f"Tenant `{tenant.tenant_id}`, enabled {moment(tenant.requested_at, seat.now())}")
    draw_standing(seat, tenant)
    _draw_figures(seat, rows)
    if tenant.state in UNDER_WAY:
        _follow(seat)
    elif tenant.state is State.FAILED:
        _draw_failed(seat, rows)
    left, right = st.columns(2, gap="medium")
    with left:
        _draw_key_management(seat, rows)
        _draw_ready(seat, rows)
    with right:
        _draw_chain(rows)
    _draw_isolation(seat, rows)


def _read(seat: PageContext) -> _Rows | None:
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tenant = tx.tenants.get()
        if tenant is None:
            return None
        return _Rows(
            tenant,
            list(tx.steps.latest()),
            list(tx.services.all()),
            chain.chain(tenant, tx.keys.all(), tx.services.keys()),
            isolation.check(tx.boundaries.latest_run()),
            None if (newest := tx.boundaries.examination()) is None else newest.examined_at,
            tx.routes.get(),
            tx.root_keys.current(),
        )


def _draw_figures(seat: PageContext, rows: _Rows) -> None:
    number, addition = overview.services_using(rows.tenant, rows.services, seat.now())
    active = rows.tenant.state is State.ACTIVE
    with st.grid(3, min_column_width=240):
        for label, value, detail in (
            ("Tenant Status", standing(rows.tenant.state).name, standing(rows.tenant.state).meaning if active else ""),
            ("Region", rows.tenant.region, "Your keys are held in this region."),
            ("Services Using Encryption", number, sentence(addition)),
        ):
            with st.container(border=True, height="stretch", gap="xsmall"):
                st.metric(label, value)
                if detail:
                    st.caption(detail)


@st.fragment(run_every=_FOLLOW_SECONDS)
def _follow(seat: PageContext) -> None:
    """Follow the steps while they are made; once they are over, the whole page is drawn anew."""
    if seat.left():
        st.rerun()
    try:
        with seat.database.tenant_tx(seat.tenant_id) as tx:
            tenant, steps = tx.tenants.get(), tx.steps.latest()
    except DatabaseUnavailable as down:
        draw_refusal(down, "The progress cannot be shown", "Provisioning goes on; this page tries again by itself.")
        return
    if tenant is None or tenant.state not in UNDER_WAY:
        st.rerun()
    _draw_progress(progress(tenant, steps, seat.promise_seconds, seat.now()), seat.promise_seconds)


def _draw_progress(made: Progress, promise_seconds: float) -> None:
    with st.container(border=True):
        st.header("Provisioning", anchor=False)
        st.progress(
            made.done / made.total,
            text=f"{made.done} of {count(made.total, 'step')} done after {span(made.elapsed)}; "
            f"promised within {span(promise_seconds)}",
        )
        if made.late:
            st.warning(
                "Provisioning goes on by itself and nothing is lost. Your platform's operator was told.",
                title="This takes longer than promised",
                icon=":material/schedule:",
            )
        _draw_lines(made)


def _draw_lines(made: Progress) -> None:
    st.markdown("  \n".join(f":material/{line.icon}: {line.title} · {line.note}" for line in made.lines))


def _draw_failed(seat: PageContext, rows: _Rows) -> None:
    with st.container(border=True):
        st.header("Provisioning stopped", anchor=False)
        if where := stopped(rows.steps):
            st.markdown(where)
        _draw_lines(progress(rows.tenant, rows.steps, seat.promise_seconds, seat.now()))


def _draw_key_management(seat: PageContext, rows: _Rows) -> None:
    with st.container(border=True):
        st.header("Key Management", anchor=False)
        how = root_key.health(rows.tenant, rows.key, seat.grace_seconds, seat.now())
        for line in overview.key_management(rows.tenant, rows.check, rows.route, seat.now(), how):
            with st.container(gap=None):
                st.markdown(f"{ICONS[line.tone]} **{line.label}:** {line.value}")
                st.caption(line.detail)


def _draw_ready(seat: PageContext, rows: _Rows) -> None:
    if not (words := ready(rows.tenant, seat.promise_seconds)):
        return
    with st.container(border=True):
        st.header("Readiness", anchor=False)
        st.markdown(f":material/timer: {words}")
        st.caption(f"Ready since {moment(rows.tenant.ready_at, seat.now())}.")
        if rows.steps:
            with st.expander("The steps of provisioning", icon=":material/checklist:"):
                _draw_lines(progress(rows.tenant, rows.steps, seat.promise_seconds, seat.now()))


def _draw_chain(rows: _Rows) -> None:
    with st.container(border=True):
        st.header("Key chain", anchor=False)
        if rows.tenant.state is State.OFFBOARDED:
            st.caption("The keys of this tenant were destroyed when it was offboarded.")
            return
        st.mermaid_chart(chain.drawing(rows.chain), alt="Root key L1 wraps tenant key L2, which wraps the service keys")
        with st.expander("The same in words", icon=":material/notes:"):
            st.markdown("\n".join(f"- {words}" for words in chain.in_words(rows.chain)))


def _draw_isolation(seat: PageContext, rows: _Rows) -> None:
    with st.container(border=True):
        st.header("Tenant isolation", anchor=False)
        check = rows.check
        if check is None:
            st.caption(
                "Nothing was checked yet. Before a tenant becomes active, its boundaries are attacked from a second "
                "tenant and the result of each attack appears here."
            )
            return
        icon = ":material/verified_user:" if check.passed else ":material/error:"
        st.markdown(
            f"{icon} {check.held:,} of {count(check.attacks, 'attack')} across the tenant boundary refused. "
            f"Last checked {moment(check.at, seat.now())}."
        )
        if rows.examined_at is None:
            st.caption("Those were the attacks before it opened. All of them are made within a day of that.")
        elif rows.examined_at != check.at:
            st.caption(f"Last examined in full {moment(rows.examined_at, seat.now())}.")
        if unseen := isolation.reasons(check):
            st.markdown("  \n".join(f":material/visibility_off: Not checked: {why}" for why in unseen))
        marks = {True: ":material/check:", False: ":material/error:"}
        st.markdown(
            "  \n".join(
                f"{marks[wall.stands]} **{wall.clause}** {wall.meaning}: {isolation.told(wall)}" for wall in check.walls
            )
        )
        with st.expander("Every attack and its evidence", icon=":material/fact_check:"):
            st.caption("Each attack has a control: the same call on the attacker's own things, which must work.")
            st.markdown(
                "\n".join(
                    f"- **{wall.clause}** {isolation.attack(result)}: {result.outcome}. `{result.evidence}`"
                    for wall in check.walls
                    for result in wall.results
                )
            )
