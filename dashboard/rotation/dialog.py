"""The dialogs that rotate keys and destroy old versions. The session stores which one is open.

The request runs in a separate thread: it completes and is recorded even when the user reloads or closes the page. The
dialog shows the progress of the rotation while it waits.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import streamlit as st

from core.tenants.approvals import Action, Approval
from dashboard.approvals import actions as approval_actions
from dashboard.approvals import view as approvals
from dashboard.approvals.reason import draw_request
from dashboard.components.fragments import draw_refusal, guarded_fragment
from dashboard.components.key_actions import KeyAction, action_of
from dashboard.components.outage_words import QUEUED, QUEUED_TITLE
from dashboard.page_context import PageContext
from dashboard.rotation import actions as rotation_actions
from dashboard.rotation import view as rotation
from database.rotation import RotationRequest
from openkcm.errors import OpenKcmError
from workflows.client.updates import OperationQueued, OperationTimeout

_OPEN, _DONE, _REASON = "rotation.open", "rotation.done", "rotation.reason"
_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class _Retiring:
    """A request to destroy a version of a service's key; the version is selected in the dialog."""

    service: str


@dataclass(frozen=True, slots=True)
class _End:
    """The result: shown when it is done, and when it continues."""

    title: str
    words: str
    waits: bool = False


def draw_button(key: str, label: str, icon: str, wanted: RotationRequest, why_not: str) -> None:
    """Draw a button that opens a rotation dialog; `why_not` is why it is not available."""
    if st.button(label, icon=f":material/{icon}:", key=key, disabled=bool(why_not), help=why_not or None):
        _open(wanted)


def draw_retire_button(service: str, version: int, why_not: str) -> None:
    """Draw the button that opens the dialog to destroy old versions; `version` is the oldest, which it proposes."""
    if st.button(
        f"Retire version {version}…",
        icon=":material/delete_forever:",
        key="rotation.retire",
        disabled=bool(why_not),
        help=why_not or None,
    ):
        _open(_Retiring(service))


def draw_open(context: PageContext) -> None:
    """Draw the dialog, if one is open."""
    dialog: RotationRequest | _Retiring | None = st.session_state.get(_OPEN)
    if isinstance(dialog, _Retiring):
        st.dialog(f"Retire key version: {dialog.service}", dismissible=False)(guarded_fragment(_draw_retiring))(
            context, dialog.service
        )
    elif dialog is not None:
        st.dialog(_title(dialog), dismissible=False)(guarded_fragment(_draw_rotating))(context, dialog)


def _open(dialog: RotationRequest | _Retiring) -> None:
    st.session_state[_OPEN] = dialog
    st.session_state.pop(_DONE, None)
    st.rerun()


def _close() -> None:
    for name in (_OPEN, _DONE):
        st.session_state.pop(name, None)
    st.rerun()


def _title(wanted: RotationRequest) -> str:
    return f"{'Replace compromised keys' if wanted.compromised else 'Rotate'}: {rotation.whose(wanted)}"


def _draw_rotating(context: PageContext, wanted: RotationRequest) -> None:
    _draw(context, lambda: _draw_rotation_question(context, wanted))


def _draw_retiring(context: PageContext, service: str) -> None:
    _draw(context, lambda: _draw_retire_question(context, service))


def _draw(context: PageContext, question: Callable[[], _End | Approval | None]) -> None:
    slot = st.empty()
    after: _End | Approval | None = st.session_state.get(_DONE)
    if after is None:
        with slot.container():
            after = question()
        if after is None:
            return
        st.session_state[_DONE] = after
        slot.empty()
    if isinstance(after, Approval):
        st.info(approvals.asked(after, context.now()), title="Approval requested", icon=":material/group:")
    elif after.waits:
        st.info(after.words, title=after.title, icon=":material/schedule:")
    else:
        st.success(after.words, title=after.title, icon=":material/check:")
    if st.button("Close", key="rotation.close"):
        _close()


def _draw_rotation_question(context: PageContext, wanted: RotationRequest) -> _End | Approval | None:
    two = wanted.compromised and approval_actions.policy_of(context).wants_two_for(Action.COMPROMISE)
    with context.database.tenant_tx(context.tenant_id) as tx:
        keys, l2 = tx.services.keys(), rotation.l2_of(context.tenant_id, tx.keys.all())
    name = KeyAction.ROTATE_TENANT_KEY if wanted.tenant_key else KeyAction.ROTATE_SERVICE_KEY
    _draw_consequences(
        KeyAction.COMPROMISE if wanted.compromised else name, rotation.happens(wanted, keys, l2, context.now())
    )
    button = "Request approval" if two else "Replace keys" if wanted.compromised else "Rotate"
    reason = draw_request(context, _REASON) if two else ""
    if not _is_confirmed(context, button, typed=wanted.compromised):
        return None
    done = _End("Rotation completed", f"{rotation.whose(wanted).capitalize()}: see the page Keys for the result.")
    return _act(
        context,
        (lambda: rotation_actions.ask_to_compromise(context, wanted, reason))
        if two
        else lambda: rotation_actions.rotate(context, wanted),
        done,
        "Rotation not completed",
        "All keys still work. You can retry.",
    )


def _draw_retire_question(context: PageContext, service: str) -> _End | Approval | None:
    two = approval_actions.policy_of(context).wants_two_for(Action.RETIRE_KEY_VERSION)
    with context.database.tenant_tx(context.tenant_id) as tx:
        there = rotation.old(tx.services.keys(), tx.objects.versions(), service, context.now())
    # By number, so that the selection stays when the text of a version changes.
    named = {one.version: one for one in there}
    version: int | None = st.selectbox(
        "Version", list(named), format_func=lambda number: named[number].words, key="rotation.version"
    )
    _draw_consequences(KeyAction.RETIRE_VERSION, ())
    why_not = "This key has no old version." if version is None else named[version].why_not
    if why_not:
        st.warning(why_not, title="Version cannot be destroyed", icon=":material/lock:")
    button = "Request approval" if two else "Destroy version"
    reason = draw_request(context, _REASON) if two else ""
    if not _is_confirmed(context, button, typed=True, disabled=bool(why_not)) or version is None:
        return None
    return _act(
        context,
        (lambda: rotation_actions.ask_to_retire(context, service, version, reason))
        if two
        else lambda: rotation_actions.retire(context, service, version),
        _End("Version destroyed", f"Version {version} of the key of {service} can no longer decrypt."),
        "Version not destroyed",
        "Check the versions on the page Keys before you retry.",
    )


def _draw_consequences(name: KeyAction, lines: tuple[str, ...]) -> None:
    action = action_of(name)
    st.markdown(f"**What happens**  \n{action.happens}")
    if lines:
        with st.container(height=240 if len(lines) > 8 else "content", border=False):
            st.markdown("\n".join(f"- {line}" for line in lines))
    st.markdown(f"**Can it be undone?**  \n{action.undone}")


def _is_confirmed(context: PageContext, button: str, *, typed: bool, disabled: bool = False) -> bool:
    """Draw the confirmation and return whether the user has confirmed, with the required input."""
    word = context.tenant_id
    if typed:
        word = st.text_input(f"Type {context.tenant_id} to confirm", key="rotation.confirm", disabled=disabled).strip()
    with st.container(horizontal=True):
        asked = st.button(button, type="primary", key="rotation.do", disabled=disabled)
        if st.button("Cancel", key="rotation.cancel"):
            _close()
    if asked and word != context.tenant_id:
        st.warning(f"Nothing was done. Enter {context.tenant_id} to confirm, then select {button} again.")
        return False
    return asked


def _act(
    context: PageContext, act: Callable[[], Approval | None], done: _End, refused: str, still: str
) -> _End | Approval | None:
    """Run the action and show its progress; return the result, None when it was rejected."""
    pool = ThreadPoolExecutor(1, "rotation")
    asked = pool.submit(act)
    pool.shutdown(wait=False)
    try:
        _follow(context, asked)
        return asked.result() or done
    except OperationQueued:
        return _End(QUEUED_TITLE, " ".join(QUEUED), waits=True)
    except OperationTimeout:
        return _End("Rotation continues", "The page Keys shows its progress. You can close this window.", waits=True)
    except OpenKcmError as failed:
        draw_refusal(failed, refused, still)
        return None


def _follow(context: PageContext, asked: "Future[Approval | None]") -> None:
    slot = st.empty()
    with st.spinner("In progress…"):
        while not asked.done():
            with context.database.tenant_tx(context.tenant_id) as tx:
                newest = next(iter(tx.rotations.all(1)), None)
            if running := rotation.progress(newest):
                slot.progress(running.share, text=running.words)
            try:
                asked.exception(_POLL_SECONDS)
            except TimeoutError:
                continue
    slot.empty()
