"""The page Services: one table of all services, and the details and actions of the selected one."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import Any

import streamlit as st

from compliance.coverage.assessment import Coverage
from compliance.coverage.reader import read_coverage
from core.tenants.roles import Permission
from dashboard.certificates import section as authorities_section
from dashboard.components.formatting import KIND_NAMES, excerpt
from dashboard.components.fragments import admitted, draw_tabs, draw_unknown
from dashboard.components.selection import select, selected
from dashboard.page_context import PageContext
from dashboard.services import connect_dialog, coverage_section
from dashboard.services import dialogs as service_dialogs
from dashboard.services import enrolment_dialog as join_dialog
from dashboard.services import protected_fields_dialog as protection_dialog
from dashboard.services import view as services
from dashboard.services.view import Details, Facts, Filter, Status, Table
from dashboard.status.section import draw_header
from database.connection.transaction import TenantTransaction
from openkcm.contract.services import ServiceKind

_DAY = timedelta(hours=24)
_SELECTED = "service"
"""The query parameter with the name of the selected service."""
_HEIGHT = 316

_COLUMNS = {
    "service": st.column_config.TextColumn("Service", width=150, pinned=True),
    "kind": st.column_config.TextColumn("Kind", width=130),
    "status": st.column_config.TextColumn("Status", width=230),
    "seen": st.column_config.DatetimeColumn("Last seen (UTC)", format="D MMM, HH:mm", timezone="UTC", width=120),
    "requests": st.column_config.NumberColumn("Requests 24 h", format="localized", width=110),
    "refused": st.column_config.NumberColumn("Refused 24 h", format="localized", width=105),
    "until": st.column_config.DatetimeColumn(
        "Certificate until (UTC)", format="D MMM, HH:mm", timezone="UTC", width=155
    ),
    "agent": st.column_config.TextColumn("Agent", width=105),
    "coverage": st.column_config.TextColumn("Coverage", width=170),
    "protects": st.column_config.TextColumn("Protects", width=260),
}


def draw(context: PageContext) -> None:
    if not admitted(context):
        return
    with context.database.tenant_tx(context.tenant_id) as tx:
        facts = read_facts(tx, context.now())
        found = None if facts is None else read_coverage(tx, context.now().astimezone(UTC))
    if facts is None or found is None:
        draw_unknown()
        return
    draw_header(context, facts.tenant, "Services")
    st.caption(
        "Databases and services that encrypt with keys of your tenant. Each has a dedicated key and certificate."
    )
    st.markdown(services.summary(facts, context.now()))
    _draw_connect(context, facts)
    _draw_table(context, facts, found)
    if service := selected(_SELECTED):
        _draw_selected(context, facts, found, service)
    draw_tabs(
        {
            "Encryption coverage": partial(coverage_section.draw_part, found),
            "Operations per day": partial(coverage_section.draw_days, found),
            "Certificate authority": partial(authorities_section.draw_part, context, facts.tenant),
        },
        key="services.parts",
    )
    connect_dialog.draw_open(context, facts.tenant)
    service_dialogs.draw_open(context)
    join_dialog.draw_open(context)
    protection_dialog.draw_open(context)
    authorities_section.draw_open(context)


def read_facts(tx: TenantTransaction, now: datetime) -> Facts | None:
    """Return the facts about a tenant's services, also for `attention`; None for an unknown tenant."""
    tenant = tx.tenants.get()
    if tenant is None:
        return None
    return Facts(
        tenant,
        tx.services.all(),
        tx.usage.totals(now - _DAY),
        tx.objects.counts(),
        tx.agents.all(),
        tx.enrolments.discovered(),
        services.per_day(tx.agents.uses(now.date() - _DAY, now.date())),
        tx.services.held(),
    )


def _draw_connect(context: PageContext, facts: Facts) -> None:
    if not context.may(Permission.MANAGE_SERVICES):
        st.caption("Read-only for your role. An administrator of your organization can connect services.")
    elif reason := services.why_not(facts.tenant):
        st.caption(reason)
    else:
        with st.container(horizontal=True):
            st.button(
                "Connect service",
                icon=":material/add_link:",
                type="primary",
                key="services.connect",
                on_click=connect_dialog.open_connect,
            )
            st.button(
                "Enrol an agent",
                icon=":material/key:",
                key="services.join",
                on_click=join_dialog.open_join,
            )


def _draw_table(context: PageContext, facts: Facts, found: Coverage) -> None:
    if not facts.services and not facts.discovered:
        return
    chosen = _draw_filter()
    covered = {one.service: one for one in found.services}
    table = services.table(facts, covered, context.now(), chosen)
    if not table.rows:
        st.caption(f"None of {table.total:,} services matches the filter.")
        return
    names = [row.service for row in table.rows]
    # The selection is a position: another list is another widget, so that it never means another service.
    key = f"services.table.{sha256(' '.join(names).encode()).hexdigest()[:16]}"
    service = selected(_SELECTED)
    st.dataframe(
        [asdict(row) for row in table.rows],
        key=key,
        column_order=list(_COLUMNS),
        column_config=_COLUMNS,
        hide_index=True,
        height=min(_HEIGHT, 36 * (len(names) + 1)),
        placeholder="",
        on_select=_note_selection(key, names),
        selection_mode="single-row",
        selection_default={"selection": {"rows": [names.index(service)]}} if service in names else None,
        alt="Services with status, last contact, requests, certificate, agent and coverage; select one for its actions",
    )
    st.caption(_caption(table))


def _draw_filter() -> Filter:
    with st.container(horizontal=True):
        wanted = st.text_input("Find a service", key="find", bind="query-params", icon=":material/search:", width=260)
        kinds = st.multiselect(
            "Kind", list(ServiceKind), format_func=lambda one: KIND_NAMES[one], key="kind", bind="query-params"
        )
        statuses = st.multiselect(
            "Status",
            list(Status),
            format_func=lambda one: services.STATUS_NAMES[one],
            key="status",
            bind="query-params",
        )
    return Filter(wanted or "", tuple(ServiceKind(one) for one in kinds), tuple(Status(one) for one in statuses))


def _note_selection(key: str, names: list[str]) -> Any:
    def note() -> None:
        rows = st.session_state[key].selection.rows
        select(_SELECTED, names[rows[0]] if rows else "")

    return note


def _caption(table: Table) -> str:
    shown = "Select a service for its details and actions; with the keyboard: Shift+Space."
    more = f" {table.more:,} more match: filter by a part of the name." if table.more else ""
    return f"{len(table.rows):,} of {table.total:,} shown. {shown}{more}"


def _draw_selected(context: PageContext, facts: Facts, found: Coverage, service: str) -> None:
    covered = next((one for one in found.services if one.service == service), None)
    shown = services.details(facts, service, context.now())
    if shown is None:
        st.caption(f"There is no service named {excerpt(service)}.")
        return
    with st.container(border=True, key="services.selected"):
        st.subheader(shown.service, anchor=False)
        _draw_actions(context, facts, shown)
        st.markdown("\n".join(f"- {words}" for words in shown.lines))
        if covered is not None:
            coverage_section.draw_service(covered, found.today)


def _draw_actions(context: PageContext, facts: Facts, shown: Details) -> None:
    name, manages = shown.service, context.may(Permission.MANAGE_SERVICES)
    with st.container(horizontal=True):
        if manages and shown.connected:
            if not services.why_no_renewal(facts.tenant):
                st.button(
                    "Renew certificate",
                    icon=":material/autorenew:",
                    key="services.renew",
                    on_click=service_dialogs.open_renew,
                    args=(name,),
                )
            st.button(
                "Disconnect…",
                icon=":material/link_off:",
                key="services.disconnect",
                on_click=service_dialogs.open_disconnect,
                args=(name,),
            )
        elif manages and not services.why_not(facts.tenant):
            st.button(
                "Connect with an agent…",
                icon=":material/add_link:",
                key="services.join.selected",
                on_click=join_dialog.open_join,
                args=(name, shown.kind),
            )
        if shown.known:
            st.button(
                "Fields…",
                icon=":material/shield_lock:",
                key="services.fields",
                on_click=protection_dialog.open_fields,
                args=(name,),
            )
        st.button(
            "Guide",
            icon=":material/menu_book:",
            key="services.guide",
            on_click=connect_dialog.open_guide,
            args=(name, shown.kind),
        )
        context.navigation.draw_link("audit", "Audit records", icon=":material/history:", service=name)
        context.navigation.draw_link("usage", "Usage", icon=":material/bar_chart:")
