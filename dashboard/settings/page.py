"""Settings: what waits for a second person, how old keys may become, and what takes two people."""

from datetime import datetime

import streamlit as st

from core.tenants.approvals import Action, Approval
from core.tenants.lifecycle import State
from core.tenants.policy import TenantPolicy
from core.tenants.roles import Permission
from dashboard.approvals import actions as approval_actions
from dashboard.approvals import section as approvals_part
from dashboard.approvals import view as approvals
from dashboard.components.fragments import admitted, draw_refusal, draw_unknown
from dashboard.components.tenant_status import UNDER_WAY
from dashboard.offboarding import section as leaving_part
from dashboard.page_context import PageContext
from dashboard.settings import view as settings
from dashboard.status_banner.section import draw_standing
from database.tenants import TenantRow
from openkcm.errors import OpenKcmError

_SAID = "settings.said"
_CLOSED = UNDER_WAY | {State.FAILED, State.LEAVING, State.OFFBOARDED}


def draw(seat: PageContext) -> None:
    if not admitted(seat):
        return
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tenant, policy = tx.tenants.get(), tx.policy.get()
    if tenant is None:
        draw_unknown()
        return
    st.title("Settings", anchor=False)
    st.caption("What your organization asks of its keys, and of the people who manage them.")
    draw_standing(seat, tenant)
    approvals_part.draw_part(seat)
    _draw_policy(seat, tenant, policy)
    leaving_part.draw_part(seat, tenant)
    approvals_part.draw_open(seat)
    leaving_part.draw_leaving(seat, tenant)


def _draw_policy(seat: PageContext, tenant: TenantRow, policy: TenantPolicy) -> None:
    locked = not seat.may(Permission.MANAGE_KEYS) or tenant.state in _CLOSED
    st.header("How old keys may become", anchor="ages")
    days = {age.field: _draw_age(policy, age, disabled=locked) for age in settings.AGES}
    st.header("What takes two people", anchor="two-people")
    st.caption(settings.WARNING)
    two = frozenset(choice.action for choice in settings.CHOICES if _draw_choice(policy, choice, disabled=locked))
    if locked:
        open_to = "key administrators of your organization change them"
        if tenant.state in _CLOSED:
            open_to = f"nobody changes them while the tenant is {tenant.state}"
        st.caption(f"You can look at the settings; {open_to}.")
        return
    wanted = policy.model_copy(update={**days, "four_eyes": two})
    _draw_save(seat, policy, wanted)


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


def _draw_save(seat: PageContext, policy: TenantPolicy, wanted: TenantPolicy) -> None:
    changes = approvals.differences(policy, wanted)
    two = policy.wants_two_for(Action.CHANGE_POLICY)
    if changes:
        st.markdown("**What would change**")
        st.markdown("\n".join(f"- {line}" for line in changes))
        if two:
            st.info(approvals.needs_two(seat.approval_hours), title="This takes two people", icon=":material/group:")
    button = "Ask for approval" if two else "Change the policy"
    if st.button(button, type="primary", icon=":material/save:", key="settings.save", disabled=not changes):
        _save(seat, wanted, two=two)
    if said := st.session_state.pop(_SAID, None):
        _say(said, seat.now())


def _save(seat: PageContext, wanted: TenantPolicy, *, two: bool) -> None:
    try:
        with st.spinner("Asking" if two else "Changing the policy"):
            said: Approval | str = "The policy is changed"
            if two:
                said = approval_actions.ask_for(seat, Action.CHANGE_POLICY, wanted.as_argument())
            else:
                approval_actions.change_policy(seat, wanted)
    except OpenKcmError as failed:
        draw_refusal(failed, "The policy was not changed", "What you chose is still here.")
        return
    # What was chosen is in force now, or waits: the page begins anew with what is on record.
    for name in [name for name in st.session_state if str(name).startswith("settings.")]:
        st.session_state.pop(name)
    st.session_state[_SAID] = said
    st.rerun()


def _say(said: Approval | str, now: datetime) -> None:
    if isinstance(said, str):
        st.success(
            "It is in force from now on, and on record with what was before.", title=said, icon=":material/check:"
        )
    else:
        st.info(approvals.asked(said, now), title="Somebody else has to approve", icon=":material/group:")
