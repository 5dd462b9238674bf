"""The notices above a tenant's pages; they follow the tenant by themselves, so that a lost root key is seen at once."""

import streamlit as st

from dashboard.pages.notices import draw_notices
from dashboard.pages.parts import following
from dashboard.seat import Seat
from dashboard.views import approvals
from dashboard.views.notices import notices
from database.interfaces import TenantRow


@following
def draw_standing(seat: Seat, drawn: TenantRow) -> None:
    """Say what does not stand as it should; the whole page is drawn anew when the tenant is not as it was `drawn`."""
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tenant, key, waiting = tx.tenants.get(), tx.root_keys.current(), tx.approvals.pending()
    if tenant is None:
        return
    if (tenant.state, tenant.locks) != (drawn.state, drawn.locks):
        st.rerun()
    said = notices(tenant, key, seat.grace_seconds, seat.now())
    draw_notices((*said, *approvals.notice(waiting, seat.person, seat.now())))
