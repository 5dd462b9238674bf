"""The root key on the page Keys: who holds it, how it does, and how far a change of it is, followed by itself.

The tenant key on the page Keys: its versions, when it is due, how a rotation goes and how the last one ended.
"""

from dataclasses import dataclass

import streamlit as st

from core.errors.tenants import TenantUnknown
from core.tenants.roles import Permission
from dashboard.components.formatting import code
from dashboard.components.fragments import ICONS, draw_notices, polling_fragment
from dashboard.keys import view as keys
from dashboard.page_context import PageContext
from dashboard.root_keys import dialog as root_key_dialog
from dashboard.root_keys import view as root_key
from dashboard.root_keys.view import Health
from dashboard.rotation import dialog as rotation_dialog
from dashboard.rotation import view as rotation
from database.keys import KeyVersionRow
from database.root_keys import CustomerRootKeyRow, RootKeyChangeRow, RootKeyVersionsRow
from database.rotation import RotationRow
from database.tenants import TenantRow


@dataclass(frozen=True, slots=True)
class _Rows:
    tenant: TenantRow
    key: CustomerRootKeyRow | None
    changes: list[RootKeyChangeRow]
    versions: RootKeyVersionsRow | None
    service_keys: list[KeyVersionRow]


@polling_fragment
def draw_root_key(seat: PageContext, drawn: TenantRow) -> None:
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


def _read(seat: PageContext) -> _Rows:
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


def _draw_offer(seat: PageContext, tenant: TenantRow, why_not: str) -> None:
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


@polling_fragment
def draw_tenant_key(seat: PageContext, tenant: TenantRow, drawn: RotationRow | None) -> None:
    """Draw the card; the whole page is drawn anew when a rotation began or ended since it was `drawn`.

    What it shows is on record, so a page that is loaded again shows a running rotation where it is.
    """
    now = seat.now()
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        rotations, policy = list(tx.rotations.all(1)), tx.policy.get()
        key = rotation.l2_of(seat.tenant_id, tx.keys.all())
    newest = rotations[0] if rotations else None
    if mark(newest) != mark(drawn):
        st.rerun()
    with st.container(border=True, height="stretch"):
        st.header("Tenant key (L2)", anchor="tenant-key")
        if key is None:
            st.caption("Your tenant key is made while the tenant is provisioned and appears here.")
            return
        st.markdown(f":material/key: `{key.name}`")
        st.caption("Yours alone. It never leaves the key server.")
        st.markdown("  \n".join(rotation.tenant_key(key, policy, now)))
        if going := rotation.progress(newest):
            st.progress(going.share, text=going.words)
            st.caption("It goes on by itself, also when you close this page. Every key works meanwhile.")
        elif how := rotation.ended(rotations, now):
            draw_notices([how])
        else:
            st.caption("It was never rotated.")
        if seat.may(Permission.MANAGE_KEYS):
            _draw_buttons(rotation.why_not(tenant, newest))
        else:
            st.caption("Your role lets you look at keys. A key administrator of your organization rotates them.")


def mark(newest: RotationRow | None) -> tuple[int, str] | None:
    """Return by what it is told that another rotation began or ended."""
    return None if newest is None else (newest.number, newest.state)


def _draw_buttons(why_not: str) -> None:
    with st.container(horizontal=True):
        for key, label, icon, wanted in (
            ("everything", "Rotate all keys", "autorenew", rotation.EVERYTHING),
            ("tenant-key", "Rotate the tenant key", "key", rotation.TENANT_KEY),
        ):
            rotation_dialog.draw_button(f"rotation.{key}", label, icon, wanted, why_not)
        rotation_dialog.draw_button(
            "rotation.compromised",
            "They may be compromised",
            "gpp_maybe",
            rotation.compromised(rotation.EVERYTHING),
            why_not,
        )
    if why_not:
        st.caption(why_not)
