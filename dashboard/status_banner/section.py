"""The notices above a tenant's pages; they follow the tenant by themselves, so that a lost root key is seen at once."""

import streamlit as st

from dashboard.approvals import view as approvals
from dashboard.components.fragments import draw_notices, polling_fragment
from dashboard.offboarding import section as leaving_part
from dashboard.page_context import PageContext
from dashboard.rotation import view as rotation
from dashboard.status_banner.view import notices
from database.tenants import TenantRow


def draw_standing(seat: PageContext, drawn: TenantRow) -> None:
    """Say what does not stand as it should, and offer on every page to restore a tenant that is leaving."""
    _draw_notices(seat, drawn)
    leaving_part.draw_restoring(seat)


@polling_fragment
def _draw_notices(seat: PageContext, drawn: TenantRow) -> None:
    """Draw the notices; the whole page is drawn anew when the tenant is not as it was `drawn`."""
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tenant, key, waiting = tx.tenants.get(), tx.root_keys.current(), tx.approvals.pending()
        left, newest = tx.leaving.get(), next(iter(tx.rotations.all(1)), None)
    if tenant is None:
        return
    if (tenant.state, tenant.locks) != (drawn.state, drawn.locks):
        st.rerun()
    said = notices(tenant, key, seat.grace_seconds, seat.now(), left)
    said += rotation.notice(newest, tenant, seat.now())
    draw_notices((*said, *approvals.notice(waiting, seat.person, seat.now())))
    leaving_part.draw_restore_button(seat, left)
