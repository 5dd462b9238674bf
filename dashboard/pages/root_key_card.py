"""The root key on the page Keys: who holds it, how it does, and how far a change of it is, followed by itself."""

from dataclasses import dataclass

import streamlit as st

from core.errors.tenants import TenantUnknown
from core.tenants.roles import Permission
from dashboard.pages import root_key_dialog
from dashboard.pages.notices import ICONS
from dashboard.pages.parts import following
from dashboard.seat import Seat
from dashboard.views import keys, root_key
from dashboard.views.root_key import Health
from dashboard.views.words import code
from database.keys import KeyVersionRow
from database.root_keys import HeldKeyRow, RootKeyChangeRow, RootKeyVersionsRow
from database.tenants import TenantRow


@dataclass(frozen=True, slots=True)
class _Rows:
    tenant: TenantRow
    key: HeldKeyRow | None
    changes: list[RootKeyChangeRow]
    versions: RootKeyVersionsRow | None
    service_keys: list[KeyVersionRow]


@following
def draw_root_key(seat: Seat, drawn: TenantRow) -> None:
    """Draw the card; the whole page is drawn anew when the root key is held by another than when it was `drawn`."""
    rows = _read(seat)
    if rows.tenant.root_key_mode != drawn.root_key_mode:
        st.rerun()
    root = keys.root(rows.tenant, rows.key, rows.service_keys)
    with st.container(border=True, height="stretch"):
        st.header("Root key (L1)", anchor="root-key")
        st.markdown(f":material/key: **{root.mode}**")
        st.markdown(code(root.name))
        st.caption(root.state)
        if version := root_key.versions(rows.versions):
            st.caption(version)
        if how := root_key.health(rows.tenant, rows.key, seat.grace_seconds, seat.now()):
            _draw_health(how)
        newest = rows.changes[0] if rows.changes else None
        if going := root_key.progress(newest):
            st.progress(going.share, text=going.words)
            st.caption("Until all of them are switched together, the former root key is in force.")
        st.caption(root_key.last_change(rows.changes, seat.now()))
        _draw_offer(seat, rows.tenant, root_key.why_no_change(rows.tenant, newest))


def _read(seat: Seat) -> _Rows:
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tenant = tx.tenants.get()
        if tenant is None:
            raise TenantUnknown
        return _Rows(
            tenant,
            tx.root_keys.current(),
            list(tx.root_keys.changes(5)),
            tx.root_keys.versions(),
            list(tx.services.keys()),
        )


def _draw_health(how: Health) -> None:
    st.markdown(f"{ICONS[how.tone]} **Health:** {how.title}")
    for words in (how.since, how.meanwhile, how.advice):
        if words:
            st.caption(words)


def _draw_offer(seat: Seat, tenant: TenantRow, why_not: str) -> None:
    if not seat.may(Permission.MANAGE_KEYS):
        st.caption("Your role lets you look at keys. A key administrator of your organization changes the root key.")
        return
    if why_not:
        st.caption(why_not)
        return
    if note := root_key.only_credentials(tenant):
        st.caption(note)
    if st.button("Change the root key", icon=":material/swap_horiz:", key="keys.root-key"):
        root_key_dialog.open_change()
        st.rerun()
