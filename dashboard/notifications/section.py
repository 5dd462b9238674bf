"""Notification targets and the delivery log on the page Settings, with the dialogs that change a target."""

from collections.abc import Callable, Mapping, Sequence

import streamlit as st

from core.notifications import NotificationKind
from core.notifications.targets import GROUPS, MAX_TARGETS, NotificationTarget, TargetKind, selected
from core.tenants.lifecycle import State
from core.tenants.roles import Permission
from dashboard.components.fragments import ICONS, draw_refusal, guarded_fragment, polling_fragment
from dashboard.components.tenant_status import Severity
from dashboard.notifications import actions as notification_actions
from dashboard.notifications import view as notifications
from dashboard.page_context import PageContext
from database.notifications import Delivery
from openkcm.errors import OpenKcmError

_DIALOG, _DONE, _RETRIED = "notifications.dialog", "notifications.done", "notifications.retried"
_LOGGED = 50
_BOXES = {Severity.GOOD: st.success, Severity.WORKING: st.info, Severity.WARNING: st.warning, Severity.BAD: st.error}


def draw_part(context: PageContext) -> None:
    """Draw the section for administrators and auditors; only administrators can change it."""
    if not context.may(Permission.VIEW_AUDIT):
        return
    with context.database.tenant_tx(context.tenant_id) as tx:
        tenant, targets, addresses = tx.tenants.get(), tx.targets.all(), tx.targets.addresses()
    if tenant is None or tenant.state is State.OFFBOARDED:
        return
    st.header("Notifications", anchor="notifications")
    st.caption(notifications.INTRODUCTION)
    if targets:
        st.dataframe(
            notifications.target_rows(targets, addresses, context.now()),
            key="notifications.targets",
            hide_index=True,
            alt=notifications.alt(targets),
        )
    else:
        st.caption(notifications.EMPTY)
    if context.may(Permission.MANAGE_NOTIFICATIONS):
        _draw_management(context, targets)
    else:
        st.caption("Read-only for your role. An administrator of your organization can change it.")
    _draw_log(context)
    _draw_open(context)


def _draw_management(context: PageContext, targets: Sequence[NotificationTarget]) -> None:
    full = len(targets) >= MAX_TARGETS
    if st.button(
        "Add target",
        icon=":material/add:",
        key="notifications.add",
        disabled=full,
        help=f"A tenant has at most {MAX_TARGETS} targets." if full else None,
    ):
        _open("add", None)
    if not targets:
        return
    by_id = {one.target_id: one for one in targets}
    chosen = st.selectbox(
        "Target",
        list(by_id),
        format_func=lambda one: by_id[one].label,
        key="notification-target",
        bind="query-params",
        help="The buttons act on this target.",
    )
    target = by_id.get(chosen or "", targets[0])
    with st.container(horizontal=True):
        if st.button("Send test", icon=":material/send:", key="notifications.test", disabled=target.paused):
            _send_test(context, target.target_id)
        if st.button("Edit events", icon=":material/tune:", key="notifications.events"):
            _open("events", target)
        label, icon = ("Resume", "play_arrow") if target.paused else ("Pause", "pause")
        if st.button(label, icon=f":material/{icon}:", key="notifications.pause"):
            _change(lambda: notification_actions.pause(context, target.target_id, paused=not target.paused))
        if target.kind is TargetKind.WEBHOOK and st.button(
            "Rotate secret", icon=":material/autorenew:", key="notifications.rotate"
        ):
            _open("rotate", target)
        if st.button("Remove", icon=":material/delete:", key="notifications.remove"):
            _open("remove", target)


def _send_test(context: PageContext, target_id: str) -> None:
    """Send a test and draw the result of its first attempt."""
    try:
        with st.spinner("Sending test notification"):
            found = notification_actions.send_test(context, target_id)
    except OpenKcmError as failed:
        draw_refusal(failed, "Test not sent", "The delivery log shows the current state.")
        return
    _draw_result(found)


def _draw_result(found: Delivery | None) -> None:
    if found is not None:
        tone, words = notifications.result(found)
        _BOXES[tone](words, title=f"{notifications.EVENT_WORDS[found.kind]} notification", icon=ICONS[tone])


def _change(change: Callable[[], None]) -> None:
    try:
        change()
    except OpenKcmError as failed:
        draw_refusal(failed, "Target not changed")
        return
    st.rerun()


@polling_fragment
def _draw_log(context: PageContext) -> None:
    """Draw the newest deliveries; refreshes automatically."""
    with context.database.tenant_tx(context.tenant_id) as tx:
        deliveries, targets = tx.outbox.deliveries(_LOGGED), tx.targets.all()
    st.subheader("Delivery log", anchor="deliveries")
    if not deliveries:
        st.caption("No notifications yet. The newest 50 appear here, with their results.")
        return
    rows = notifications.delivery_rows(deliveries, targets, context.now())
    st.dataframe(
        notifications.delivery_table(rows),
        key="notifications.log",
        hide_index=True,
        alt=f"The newest {len(rows)} notifications",
    )
    unsent = {row.message_id: row for row in rows if row.can_retry}
    # The box follows the message that was retried last, because the part is drawn again every two seconds.
    _draw_result(next((one for one in deliveries if one.message_id == st.session_state.get(_RETRIED)), None))
    if not unsent or not context.may(Permission.MANAGE_NOTIFICATIONS):
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.selectbox(
            "Undelivered notification",
            list(unsent),
            format_func=lambda one: f"{unsent[one].event} to {unsent[one].target}, {unsent[one].time}",
            key="notifications.unsent",
        )
        again = st.button("Retry now", icon=":material/replay:", key="notifications.retry")
    if again and chosen is not None:
        _retry(context, unsent[chosen].can_retry or "", chosen)


def _retry(context: PageContext, target_id: str, message_id: str) -> None:
    try:
        with st.spinner("Sending notification"):
            notification_actions.retry(context, target_id, message_id)
    except OpenKcmError as failed:
        draw_refusal(failed, "Notification not sent")
        return
    st.session_state[_RETRIED] = message_id
    st.rerun()


def _open(dialog: str, target: NotificationTarget | None) -> None:
    st.session_state[_DIALOG] = (dialog, target)
    st.session_state.pop(_DONE, None)
    st.rerun()


def _close() -> None:
    # The signing secret leaves the session with the dialog.
    for name in [name for name in st.session_state if str(name).startswith("notifications.dialog")] + [_DONE]:
        st.session_state.pop(name, None)
    st.rerun()


def _draw_open(context: PageContext) -> None:
    opened: tuple[str, NotificationTarget | None] | None = st.session_state.get(_DIALOG)
    if opened is None:
        return
    dialog, target = opened
    label = "" if target is None else f": {target.label}"
    title, draw = _DIALOGS[dialog]
    st.dialog(f"{title}{label}", dismissible=False)(guarded_fragment(_draw_dialog))(context, draw, target)


Draw = Callable[[PageContext, NotificationTarget | None], str | None]
"""Draws the question of a dialog; returns the text of the result once it is done, which can be a signing secret."""


def _draw_dialog(context: PageContext, draw: Draw, target: NotificationTarget | None) -> None:
    slot = st.empty()
    done: str | None = st.session_state.get(_DONE)
    if done is None:
        with slot.container():
            try:
                done = draw(context, target)
            except OpenKcmError as failed:
                draw_refusal(failed, "Nothing was changed", "Your input is still here.")
        if done is None:
            return
        st.session_state[_DONE] = done
        slot.empty()
    if not done:
        _close()
    st.warning(notifications.SHOWN_ONCE, title="Signing secret", icon=":material/key:")
    st.code(done, language=None, wrap_lines=True)
    if target is not None:
        st.caption(notifications.ROTATED)
    if st.button("Close", key="notifications.dialog.close", help="The secret is not shown again."):
        _close()


def _confirmed(label: str) -> bool:
    with st.container(horizontal=True):
        confirmed = st.button(label, type="primary", key="notifications.dialog.do")
        if st.button("Cancel", key="notifications.dialog.cancel"):
            _close()
    return confirmed


def _draw_events(chosen: frozenset[NotificationKind]) -> list[NotificationKind]:
    found: list[NotificationKind] = []
    for group, kinds in GROUPS.items():
        found += st.multiselect(
            notifications.GROUP_WORDS[group],
            kinds,
            default=[kind for kind in kinds if kind in chosen],
            format_func=lambda kind: notifications.EVENT_WORDS[kind],
            key=f"notifications.dialog.{group}",
            placeholder="No events",
        )
    return found


def _draw_add(context: PageContext, _target: NotificationTarget | None) -> str | None:
    kind = st.radio(
        "Kind",
        list(TargetKind),
        index=list(TargetKind).index(TargetKind.WEBHOOK),
        format_func=lambda one: notifications.KIND_WORDS[one],
        horizontal=True,
        key="notifications.dialog.kind",
    )
    label = st.text_input("Label", max_chars=60, key="notifications.dialog.label", placeholder="Security team")
    webhook = kind is TargetKind.WEBHOOK
    address = st.text_input(
        "URL" if webhook else "E-mail address",
        key="notifications.dialog.address",
        placeholder="https://example.com/openkcm" if webhook else "security@example.com",
        help="It must be reachable from the internet over https." if webhook else None,
    )
    events = _draw_events(selected(frozenset()))
    if not _confirmed("Add target") or kind is None:
        return None
    return notification_actions.add(context, kind, label, address, events) or ""


def _draw_edit(context: PageContext, target: NotificationTarget | None) -> str | None:
    events = _draw_events(selected(target.muted if target else frozenset()))
    if target is None or not _confirmed("Save events"):
        return None
    notification_actions.change_events(context, target.target_id, events)
    return ""


def _draw_rotate(context: PageContext, target: NotificationTarget | None) -> str | None:
    st.markdown(f"**What happens**  \n{notifications.ROTATE}")
    if target is None or not _confirmed("Rotate secret now"):
        return None
    return notification_actions.rotate_secret(context, target.target_id)


def _draw_remove(context: PageContext, target: NotificationTarget | None) -> str | None:
    st.markdown(f"**What happens**  \n{notifications.REMOVE}")
    if target is None or not _confirmed("Remove target"):
        return None
    notification_actions.remove(context, target.target_id)
    return ""


_DIALOGS: Mapping[str, tuple[str, Draw]] = {
    "add": ("Add notification target", _draw_add),
    "events": ("Edit events", _draw_edit),
    "rotate": ("Rotate signing secret", _draw_rotate),
    "remove": ("Remove target", _draw_remove),
}
