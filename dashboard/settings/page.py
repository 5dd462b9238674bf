"""The page Settings: rotation schedule, actions that require approval, KMIP keys, audit records, and offboarding."""

from collections.abc import Mapping

import streamlit as st

from core.tenants.approvals import Action, Approval
from core.tenants.lifecycle import State
from core.tenants.policy import TenantPolicy
from core.tenants.roles import Permission
from dashboard.approvals import actions as approval_actions
from dashboard.approvals import view as approvals
from dashboard.approvals.reason import draw_request
from dashboard.components.fragments import admitted, draw_refusal, draw_unknown
from dashboard.components.tenant_status import UNDER_WAY
from dashboard.notifications import section as notifications_section
from dashboard.offboarding import section as offboarding_section
from dashboard.page_context import PageContext
from dashboard.settings import view as settings
from dashboard.status.section import draw_header
from database.tenants import TenantRow
from openkcm.errors import OpenKcmError

_RESULT, _FILLED = "settings.said", "settings.filled"
_CLOSED = UNDER_WAY | {State.FAILED, State.LEAVING, State.OFFBOARDED}


def draw(context: PageContext) -> None:
    """Draw the page: the policy with one button for all its sections, then each section that has its own."""
    if not admitted(context):
        return
    with context.database.tenant_tx(context.tenant_id) as tx:
        tenant, policy = tx.tenants.get(), tx.policy.get()
    if tenant is None:
        draw_unknown()
        return
    draw_header(context, tenant, "Settings")
    st.caption("Policy of your organization for its keys and key administrators.")
    _draw_policy(context, tenant, policy)
    notifications_section.draw_part(context)
    offboarding_section.draw_part(context, tenant)
    offboarding_section.draw_leaving(context, tenant)


def _draw_policy(context: PageContext, tenant: TenantRow, policy: TenantPolicy) -> None:
    locked = not context.may(Permission.MANAGE_KEYS) or tenant.state in _CLOSED
    _fill(policy)
    _draw_schedule(disabled=locked)
    _draw_two_people(disabled=locked)
    _draw_revoked_keys(disabled=locked)
    _draw_audit_records(disabled=locked)
    if locked:
        reason = "Key administrators of your organization can change it."
        if tenant.state in _CLOSED:
            reason = f"It cannot be changed while the tenant is {tenant.state}."
        st.caption(f"Read-only. {reason}")
        return
    _draw_save(context, policy, settings.wanted(policy, _form(policy)))


def _fill(policy: TenantPolicy) -> None:
    """Set each field that has no value, or whose stored value changed while the user had not edited it.

    A field with a key keeps its value in the browser, also when the `value` of its call changes. Only a value in the
    session state reaches the browser, so each field gets its value there.
    """
    former: TenantPolicy = st.session_state.get(_FILLED, policy)
    before = settings.fields(former)
    for key, value in settings.fields(policy).items():
        if key not in st.session_state or (former != policy and st.session_state[key] == before[key]):
            st.session_state[key] = value
    st.session_state[_FILLED] = policy


def _form(policy: TenantPolicy) -> Mapping[str, int | bool]:
    """Return the current value of each field."""
    return {key: st.session_state.get(key, stored) for key, stored in settings.fields(policy).items()}


def _empty() -> None:
    """Discard what the user has entered: the next run fills the fields from the stored policy."""
    for name in [name for name in st.session_state if str(name).startswith("settings.")]:
        st.session_state.pop(name)


def _draw_schedule(*, disabled: bool) -> None:
    st.header("Rotation schedule", anchor="ages")
    for age in settings.AGES:
        least, most = age.bounds
        st.number_input(age.label, min_value=least, max_value=most, key=settings.age_key(age), disabled=disabled)
        st.caption(settings.rule(age))


def _draw_two_people(*, disabled: bool) -> None:
    st.header("Actions requiring approval", anchor="two-people")
    st.caption(settings.WARNING)
    for choice in settings.CHOICES:
        if choice.action is not Action.CHANGE_POLICY:
            _draw_choice(choice, disabled=disabled)
    # Drawn last, because the others decide whether it is a choice.
    last = next(choice for choice in settings.CHOICES if choice.action is Action.CHANGE_POLICY)
    others = [choice.action for choice in settings.CHOICES if choice.action is not Action.CHANGE_POLICY]
    if any(st.session_state[settings.choice_key(action)] for action in others):
        st.checkbox(last.title, value=True, key=f"{settings.choice_key(last.action)}.implied", disabled=True)
        st.caption(last.why)
    else:
        _draw_choice(last, disabled=disabled)


def _draw_choice(choice: settings.Choice, *, disabled: bool) -> None:
    st.checkbox(choice.title, key=settings.choice_key(choice.action), disabled=disabled)
    st.caption(choice.why)


def _draw_revoked_keys(*, disabled: bool) -> None:
    st.header("Revoked KMIP keys", anchor="revoked-keys")
    st.checkbox(settings.REVOKED_KEYS_LABEL, key=settings.REVOKED_KEY, disabled=disabled)
    st.caption(settings.REVOKED_KEYS)


def _draw_audit_records(*, disabled: bool) -> None:
    st.header("Audit records", anchor="audit-records")
    st.checkbox(settings.RESOURCES_LABEL, key=settings.RESOURCES_KEY, disabled=disabled)
    st.caption(settings.RESOURCES)


def _draw_save(context: PageContext, policy: TenantPolicy, wanted: TenantPolicy) -> None:
    """Draw the unsaved changes with their buttons."""
    changes = approvals.differences(policy, wanted)
    two = policy.wants_two_for(Action.CHANGE_POLICY)
    reason = ""
    if changes:
        st.markdown(settings.unsaved(changes))
        if two:
            reason = draw_request(context, "settings.reason")
    with st.container(horizontal=True):
        asked = st.button(
            "Request approval" if two else "Save",
            type="primary",
            icon=":material/save:",
            key="settings.save",
            disabled=not changes,
        )
        st.button("Discard", icon=":material/undo:", key="settings.discard", disabled=not changes, on_click=_empty)
    if asked:
        _save(context, wanted, reason, two=two)
    if result := st.session_state.pop(_RESULT, None):
        _draw_result(context, result)


def _save(context: PageContext, wanted: TenantPolicy, reason: str, *, two: bool) -> None:
    try:
        with st.spinner("Requesting approval" if two else "Saving"):
            result: Approval | str = "Policy changed"
            if two:
                result = approval_actions.ask_for(context, Action.CHANGE_POLICY, wanted.as_argument(), reason)
            else:
                approval_actions.change_policy(context, wanted)
    except OpenKcmError as failed:
        draw_refusal(failed, "Policy not changed", "Your input is still here.")
        return
    _empty()
    st.session_state[_RESULT] = result
    st.rerun()


def _draw_result(context: PageContext, result: Approval | str) -> None:
    if isinstance(result, str):
        st.success(
            "In effect now. The change and the previous policy were recorded.", title=result, icon=":material/check:"
        )
    else:
        st.info(approvals.asked(result, context.now()), title="Approval requested", icon=":material/group:")
        context.navigation.draw_link("approvals", "Approvals", icon=":material/group:")
