"""The notices above a tenant's pages. They refresh automatically, so that a lost root key is visible at once."""

import streamlit as st

from dashboard.approvals import view as approvals
from dashboard.components.fragments import draw_notices, polling_fragment
from dashboard.offboarding import section as offboarding_section
from dashboard.page_context import PageContext
from dashboard.rotation import view as rotation
from dashboard.status_banner.view import notices
from database.tenants import TenantRow


def draw_standing(context: PageContext, drawn: TenantRow) -> None:
    """Draw the notices, and on every page the dialog that restores an offboarding tenant."""
    _draw_notices(context, drawn)
    offboarding_section.draw_restoring(context)


@polling_fragment
def _draw_notices(context: PageContext, drawn: TenantRow) -> None:
    """Draw the notices; redraw the whole page when the tenant has changed since it was `drawn`."""
    with context.database.tenant_tx(context.tenant_id) as tx:
        tenant, key, waiting = tx.tenants.get(), tx.root_keys.current(), tx.approvals.pending()
        left, newest = tx.leaving.get(), next(iter(tx.rotations.all(1)), None)
    if tenant is None:
        return
    if (tenant.state, tenant.locks) != (drawn.state, drawn.locks):
        st.rerun()
    shown = notices(tenant, key, context.grace_seconds, context.now(), left)
    shown += rotation.notice(newest, tenant, context.now())
    draw_notices(shown)
    if asked := approvals.notice(waiting, context.person, context.now()):
        draw_notices(asked)
        context.navigation.draw_link("approvals", "Review requests", icon=":material/group:")
    offboarding_section.draw_restore_button(context, left)
