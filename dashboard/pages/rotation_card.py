"""The tenant key on the page Keys: its versions, when it is due, how a rotation goes and how the last one ended."""

import streamlit as st

from core.tenants.roles import Permission
from dashboard.pages import rotation_dialog
from dashboard.pages.notices import draw_notices
from dashboard.pages.parts import following
from dashboard.seat import Seat
from dashboard.views import rotation
from database.rotation import RotationRow
from database.tenants import TenantRow


@following
def draw_tenant_key(seat: Seat, tenant: TenantRow, drawn: RotationRow | None) -> None:
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
