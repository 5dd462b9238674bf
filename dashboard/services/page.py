"""The page Services: connected services by kind, and their actions."""

from datetime import timedelta

import streamlit as st

from core.tenants.roles import Permission
from dashboard.certificates import section as authorities_section
from dashboard.components.formatting import KIND_NAMES
from dashboard.components.fragments import admitted, draw_unknown
from dashboard.page_context import PageContext
from dashboard.services import coverage_section
from dashboard.services import dialogs as service_dialogs
from dashboard.services import enrolment_dialog as join_dialog
from dashboard.services import protected_fields_dialog as protection_dialog
from dashboard.services import setup_guides as guides
from dashboard.services import view as services
from dashboard.services.view import Card, Facts, Group, found
from dashboard.status.section import draw_header
from database.tenants import TenantRow
from openkcm.contract.services import ServiceKind

_DAY = timedelta(hours=24)


def draw(context: PageContext) -> None:
    if not admitted(context):
        return
    rows = _read(context)
    if rows is None:
        draw_unknown()
        return
    draw_header(context, rows.tenant, "Services")
    st.caption(
        "Databases and services that encrypt with keys of your tenant. Each has a dedicated key and certificate."
    )
    _draw_connect(context, rows)
    coverage_section.draw_part(context)
    st.header("Connected services", anchor=False)
    wanted = st.text_input("Find a service", key="services.find") if len(rows.services) > services.MANY else ""
    waiting = found(rows.discovered, rows.services, context.now())
    join_dialog.draw_discovered(context, waiting, closed=bool(services.why_not(rows.tenant)))
    for group in services.groups(rows, context.now(), wanted):
        _draw_group(context, rows.tenant, group)
    authorities_section.draw_part(context, rows.tenant)
    _draw_guide()
    service_dialogs.draw_open(context, rows.tenant)
    join_dialog.draw_open(context)
    protection_dialog.draw_open(context)
    authorities_section.draw_open(context)


def _read(context: PageContext) -> Facts | None:
    now = context.now()
    with context.database.tenant_tx(context.tenant_id) as tx:
        tenant = tx.tenants.get()
        if tenant is None:
            return None
        return Facts(
            tenant,
            list(tx.services.all()),
            list(tx.usage.totals(now - _DAY, now + timedelta(minutes=1))),
            list(tx.objects.counts()),
            list(tx.agents.all()),
            list(tx.enrolments.discovered()),
            services.per_day(tx.agents.uses(now.date() - _DAY, now.date())),
        )


def _draw_connect(context: PageContext, rows: Facts) -> None:
    if not context.may(Permission.MANAGE_SERVICES):
        st.caption("Read-only for your role. An administrator of your organization can connect services.")
    elif reason := services.why_not(rows.tenant):
        st.caption(reason)
    else:
        with st.container(horizontal=True):
            st.button(
                "Connect service",
                icon=":material/add_link:",
                type="primary",
                key="services.connect",
                on_click=service_dialogs.open_connect,
            )
            st.button(
                "Enrol an agent",
                icon=":material/key:",
                key="services.join",
                on_click=join_dialog.open_join,
            )


def _draw_group(context: PageContext, tenant: TenantRow, group: Group) -> None:
    st.subheader(group.title, anchor=False)
    if not group.cards:
        return
    with st.grid(2, min_column_width=340):
        for card in group.cards:
            _draw_card(context, tenant, card)
    if group.more:
        st.caption(f"{group.more:,} more. Enter a part of the name to filter.")


def _draw_card(context: PageContext, tenant: TenantRow, card: Card) -> None:
    with st.container(border=True, height="stretch", gap="xsmall"):
        st.markdown(f":material/{card.icon}: **{card.service}:** {card.operations}")
        lines = filter(None, (card.state, card.certificate, card.seen, card.agent, card.protects))
        st.markdown("\n".join(f"- {words}" for words in lines))
        protection_dialog.draw_button(card.service)
        if not card.connected or not context.may(Permission.MANAGE_SERVICES):
            return
        with st.container(horizontal=True):
            if not services.why_no_renewal(tenant):
                st.button(
                    "Renew certificate",
                    icon=":material/autorenew:",
                    key=f"services.renew.{card.service}",
                    on_click=service_dialogs.open_renew,
                    args=(card.service,),
                )
            st.button(
                "Disconnect",
                icon=":material/link_off:",
                key=f"services.disconnect.{card.service}",
                on_click=service_dialogs.open_disconnect,
                args=(card.service,),
            )


def _draw_guide() -> None:
    st.header("Integration guide", anchor=False)
    st.markdown("Follow these steps to enable encryption for a service.")
    st.markdown(
        "1. Connect the service above. It gets a dedicated key, which never leaves OpenKCM, and a "
        "certificate.\n2. Put the files into the folder on the service's machine, readable by the service "
        "alone.\n3. Configure the service by its kind:"
    )
    for kind in ServiceKind:
        with st.expander(KIND_NAMES[kind], key=f"services.guide.{kind}"):
            st.markdown("\n".join(f"- {step}" for step in guides.steps(kind)))
