"""The dialog that confirms the retry of a failed provisioning, and its result."""

from types import MappingProxyType

import streamlit as st

from dashboard.components.formatting import said
from dashboard.components.fragments import ICONS
from dashboard.components.tenant_status import Severity
from dashboard.operations.actions import retry
from dashboard.page_context import PageContext
from openkcm.errors import OpenKcmError
from workflows.client.updates import OperationTimeout

# Session state.
_CONFIRMING = "operations-confirming"
_RESULT = "operations-result"
_BOXES = MappingProxyType({Severity.GOOD: st.success, Severity.WORKING: st.info, Severity.BAD: st.error})


def ask(tenant_id: str) -> None:
    """Open the dialog at the end of this run."""
    st.session_state[_CONFIRMING] = tenant_id


def draw(context: PageContext) -> None:
    """Draw the dialog, if it was asked for."""
    confirming = st.session_state.get(_CONFIRMING)
    if confirming is not None:
        _confirm(context, confirming)


def _forget() -> None:
    st.session_state.pop(_CONFIRMING, None)


@st.dialog("Retry provisioning?", icon=":material/replay:", on_dismiss=_forget)
def _confirm(context: PageContext, tenant_id: str) -> None:
    st.markdown(
        f"**{tenant_id}** is provisioned again from its first step. Existing resources are kept, verified and "
        "used: no key is created twice and none is destroyed. The tenant is activated only after its isolation "
        "checks have passed."
    )
    st.caption(
        "The retry cannot be cancelled. If the cause persists, it fails again without further effect. Your "
        "request is recorded in the tenant's audit stream, which its customer can read."
    )
    with st.container(horizontal=True):
        if st.button("Retry", type="primary", key="operations-retry-confirmed"):
            st.session_state[_RESULT] = _retry(context, tenant_id)
            _forget()
            st.rerun()
        if st.button("Cancel", key="operations-retry-left"):
            _forget()
            st.rerun()


def _retry(context: PageContext, tenant_id: str) -> tuple[Severity, str]:
    """Return how the request ended, and the text for the user."""
    try:
        retry(context, tenant_id)
    except OperationTimeout as pending:
        return Severity.WORKING, f"The retry of {tenant_id} is not complete. {said(pending)}"
    except OpenKcmError as refused:
        return Severity.BAD, f"{tenant_id} was not retried; nothing was changed. {said(refused)}"
    return Severity.GOOD, f"Provisioning of {tenant_id} started again. Its steps show the progress."


def draw_result() -> None:
    """Draw once how the last retry ended."""
    result: tuple[Severity, str] | None = st.session_state.pop(_RESULT, None)
    if result is not None:
        severity, words = result
        _BOXES[severity](words, icon=ICONS[severity])
