"""The page Keys: root key, tenant key and service keys, and their actions."""

from dataclasses import dataclass
from datetime import timedelta

import streamlit as st

from core.tenants.policy import TenantPolicy
from core.tenants.roles import Permission
from dashboard.components import key_actions
from dashboard.components.fragments import admitted, draw_unknown
from dashboard.keys import cards as rotation_card
from dashboard.keys import view as keys
from dashboard.keys.cards import draw_root_key
from dashboard.keys.view import ServiceKey
from dashboard.page_context import PageContext
from dashboard.root_keys import dialog as root_key_dialog
from dashboard.root_keys import guides as root_choices
from dashboard.rotation import dialog as rotation_dialog
from dashboard.rotation import view as rotation
from dashboard.rotation.dialog import draw_button, draw_retire_button
from dashboard.status_banner.section import draw_standing
from dashboard.tenants import section as tenant_section
from database.keys import KeyVersionRow, VersionUseRow
from database.rotation import RotationRow
from database.services.managed_objects import ObjectCountRow
from database.services.repository import ServiceRow
from database.tenants import TenantRow
from database.usage import UsageTotalRow

_DAY = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class _Rows:
    tenant: TenantRow
    policy: TenantPolicy
    rotation: RotationRow | None
    service_keys: list[KeyVersionRow]
    services: list[ServiceRow]
    objects: list[ObjectCountRow]
    uses: list[VersionUseRow]
    usage: list[UsageTotalRow]


def draw(context: PageContext) -> None:
    if not admitted(context):
        return
    rows = _read(context)
    if rows is None:
        draw_unknown()
        return
    st.title("Keys", anchor=False)
    st.caption(
        "The root key and the tenant key wrap each service key. No key is ever shown, exported or stored in plaintext."
    )
    draw_standing(context, rows.tenant)
    left, right = st.columns(2, gap="medium")
    with left:
        draw_root_key(context, rows.tenant)
    with right:
        rotation_card.draw_tenant_key(context, rows.tenant, rows.rotation)
    tenant_section.draw_part(context, rows.tenant)
    _draw_service_keys(context, rows)
    _draw_choices(rows)
    _draw_actions(context, rows)
    root_key_dialog.draw_open(context, rows.tenant)
    rotation_dialog.draw_open(context)
    tenant_section.draw_open(context, rows.tenant)


def _read(context: PageContext) -> _Rows | None:
    now = context.now()
    with context.database.tenant_tx(context.tenant_id) as tx:
        tenant = tx.tenants.get()
        if tenant is None:
            return None
        return _Rows(
            tenant,
            tx.policy.get(),
            next(iter(tx.rotations.all(1)), None),
            list(tx.services.keys()),
            list(tx.services.all()),
            list(tx.objects.counts()),
            list(tx.objects.versions()),
            list(tx.usage.totals(now - _DAY, now + timedelta(minutes=1))),
        )


def _draw_service_keys(context: PageContext, rows: _Rows) -> None:
    st.header("Service keys (L3)", anchor=False)
    versions = keys.Versions(rows.service_keys, rows.uses, rows.policy)
    made = keys.service_keys(rows.services, versions, rows.objects, rows.usage, context.now())
    if not made:
        st.info(
            "No service keys. Each connected service gets a dedicated key. Connect one on the page Services.",
            icon=":material/info:",
        )
        return
    wanted = st.text_input("Find service", key="keys.find") if len(made) > keys.MANY else ""
    shown, more = keys.found(made, wanted)
    if not shown:
        st.caption("No matching services.")
    with st.grid(2, min_column_width=340):
        for key in shown:
            _draw_service_key(context, rows, key)
    if more:
        st.caption(f"{more:,} more. Enter a part of the name to filter.")


def _draw_service_key(context: PageContext, rows: _Rows, key: ServiceKey) -> None:
    with st.container(border=True, height="stretch", gap="xsmall"):
        st.markdown(f":material/key: **{key.service}** ({key.kind})")
        st.markdown("\n".join(f"- {version}" for version in key.versions))
        st.caption(f"{key.used} {key.objects}")
        if not context.may(Permission.MANAGE_KEYS):
            return
        why_not, own = rotation.why_not(rows.tenant, rows.rotation), rotation.of_service(key.service)
        with st.container(horizontal=True):
            draw_button(f"rotation.one.{key.service}", "Rotate", "autorenew", own, why_not)
            draw_button(
                f"rotation.compromised.{key.service}",
                "Replace compromised key…",
                "gpp_maybe",
                rotation.compromised(own),
                why_not,
            )
            draw_retire_button(key.service, why_not)


def _draw_choices(rows: _Rows) -> None:
    st.header("Root key providers", anchor=False)
    st.caption(
        "A change of the root key re-wraps the service keys; your data is not re-encrypted. Decryption then "
        "requires the new root key: there is no fallback to a key of the platform."
    )
    with st.grid(3, min_column_width=300):
        for choice in root_choices.choices(rows.tenant.root_key_mode):
            with st.container(border=True, height="stretch", gap="xsmall"):
                st.subheader(choice.name, anchor=False)
                st.caption(choice.short)
                if choice.in_force:
                    st.badge("Current", icon=":material/check:", color="green")
                for question, answer in choice.facts:
                    st.markdown(f"**{question}**  \n{answer}")


def _draw_actions(context: PageContext, rows: _Rows) -> None:
    st.header("Actions", anchor=False)
    permissions = frozenset(permission for permission in Permission if context.may(permission))
    for offer in key_actions.offers(rows.tenant.state, permissions, rows.tenant.locks):
        with st.expander(offer.action.title, key=f"keys.action.{offer.action.name}"):
            st.markdown(f"**What happens**  \n{offer.action.happens}")
            st.markdown(f"**Can it be undone?**  \n{offer.action.undone}")
            st.caption(offer.words)
