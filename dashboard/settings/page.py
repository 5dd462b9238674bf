"""The page Settings: pending approvals, rotation schedule, actions that require approval, and revoked KMIP keys."""

from datetime import datetime

import streamlit as st

from core.tenants.approvals import Action, Approval
from core.tenants.lifecycle import State
from core.tenants.policy import TenantPolicy
from core.tenants.roles import Permission
from dashboard.approvals import actions as approval_actions
from dashboard.approvals import section as approvals_section
from dashboard.approvals import view as approvals
from dashboard.components.fragments import admitted, draw_refusal, draw_unknown
from dashboard.components.tenant_status import UNDER_WAY
from dashboard.offboarding import section as offboarding_section
from dashboard.page_context import PageContext
from dashboard.settings import view as settings
from dashboard.status_banner.section import draw_standing
from database.tenants import TenantRow
from openkcm.errors import OpenKcmError

_RESULT = "settings.said"
_CLOSED = UNDER_WAY | {State.FAILED, State.LEAVING, State.OFFBOARDED}


def draw(context: PageContext) -> None:
    if not admitted(context):
        return
    with context.database.tenant_tx(context.tenant_id) as tx:
        tenant, policy = tx.tenants.get(), tx.policy.get()
    if tenant is None:
        draw_unknown()
        return
    st.title("Settings", anchor=False)
    st.caption("Policy of your organization for its keys and key administrators.")
    draw_standing(context, tenant)
    approvals_section.draw_part(context)
    _draw_policy(context, tenant, policy)
    offboarding_section.draw_part(context, tenant)
    approvals_section.draw_open(context)
    offboarding_section.draw_leaving(context, tenant)


def _draw_policy(context: PageContext, tenant: TenantRow, policy: TenantPolicy) -> None:
    locked = not context.may(Permission.MANAGE_KEYS) or tenant.state in _CLOSED
    st.header("Rotation schedule", anchor="ages")
    days = {age.field: _draw_age(policy, age, disabled=locked) for age in settings.AGES}
    st.header("Actions requiring approval", anchor="two-people")
    st.caption(settings.WARNING)
    two = frozenset(choice.action for choice in settings.CHOICES if _draw_choice(policy, choice, disabled=locked))
    st.header("Revoked KMIP keys", anchor="revoked-keys")
    readable = st.checkbox(
        settings.REVOKED_KEYS_LABEL,
        value=policy.revoked_keys_readable,
        key="settings.revoked_keys_readable",
        disabled=locked,
    )
    st.caption(settings.REVOKED_KEYS)
    st.header("Audit records", anchor="audit-records")
    resources = st.checkbox(
        settings.RESOURCES_LABEL, value=policy.resources_recorded, key="settings.resources_recorded", disabled=locked
    )
    st.caption(settings.RESOURCES)
    if locked:
        reason = "Key administrators of your organization can change it."
        if tenant.state in _CLOSED:
            reason = f"It cannot be changed while the tenant is {tenant.state}."
        st.caption(f"Read-only. {reason}")
        return
    wanted = policy.model_copy(
        update={**days, "four_eyes": two, "revoked_keys_readable": readable, "resources_recorded": resources}
    )
    _draw_save(context, policy, wanted)


def _draw_age(policy: TenantPolicy, age: settings.Age, *, disabled: bool) -> int:
    least, most = age.bounds
    chosen = st.number_input(
        age.label,
        min_value=least,
        max_value=most,
        value=settings.value_of(policy, age),
        key=f"settings.{age.field}",
        disabled=disabled,
    )
    st.caption(settings.rule(age))
    return int(chosen)


def _draw_choice(policy: TenantPolicy, choice: settings.Choice, *, disabled: bool) -> bool:
    implied = choice.action is Action.CHANGE_POLICY and bool(policy.four_eyes - {Action.CHANGE_POLICY})
    chosen = st.checkbox(
        choice.title,
        value=policy.wants_two_for(choice.action) if implied else choice.action in policy.four_eyes,
        key=f"settings.two.{choice.action}",
        disabled=disabled or implied,
    )
    st.caption(choice.why)
    return chosen and not (implied and choice.action not in policy.four_eyes)


def _draw_save(context: PageContext, policy: TenantPolicy, wanted: TenantPolicy) -> None:
    changes = approvals.differences(policy, wanted)
    two = policy.wants_two_for(Action.CHANGE_POLICY)
    if changes:
        st.markdown("**Changes**")
        st.markdown("\n".join(f"- {line}" for line in changes))
        if two:
            st.info(approvals.needs_two(context.approval_ttl_hours), title="Approval required", icon=":material/group:")
    button = "Request approval" if two else "Change policy"
    if st.button(button, type="primary", icon=":material/save:", key="settings.save", disabled=not changes):
        _save(context, wanted, two=two)
    if result := st.session_state.pop(_RESULT, None):
        _draw_result(result, context.now())


def _save(context: PageContext, wanted: TenantPolicy, *, two: bool) -> None:
    try:
        with st.spinner("Requesting approval" if two else "Changing policy"):
            result: Approval | str = "Policy changed"
            if two:
                result = approval_actions.ask_for(context, Action.CHANGE_POLICY, wanted.as_argument())
            else:
                approval_actions.change_policy(context, wanted)
    except OpenKcmError as failed:
        draw_refusal(failed, "Policy not changed", "Your input is still here.")
        return
    # The change is in effect or pending: redraw the page from stored data.
    for name in [name for name in st.session_state if str(name).startswith("settings.")]:
        st.session_state.pop(name)
    st.session_state[_RESULT] = result
    st.rerun()


def _draw_result(result: Approval | str, now: datetime) -> None:
    if isinstance(result, str):
        st.success(
            "In effect now. The change and the previous policy were recorded.", title=result, icon=":material/check:"
        )
    else:
        st.info(approvals.asked(result, now), title="Approval requested", icon=":material/group:")
