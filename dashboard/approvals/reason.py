"""The field for the reason of a request for approval, or of a decision."""

import streamlit as st

from core.tenants.approvals import LONGEST_REASON
from dashboard.approvals import view as approvals
from dashboard.page_context import PageContext

REASON = "Reason"


def draw_request(context: PageContext, key: str) -> str:
    """Draw what a request for approval means and the field for its reason; return the reason."""
    st.info(approvals.needs_two(context.approval_ttl_hours), title="Approval required", icon=":material/group:")
    return draw_field(key, "The second person sees it. It is recorded.")


def draw_field(key: str, explanation: str, label: str = REASON) -> str:
    """Draw the field for a reason; return what was entered."""
    return st.text_input(label, key=key, max_chars=LONGEST_REASON, placeholder=explanation)
