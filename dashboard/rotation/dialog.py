"""The dialogs that rotate keys and destroy old versions of them. What is asked lies in the session until it is closed.

The request is made beside the script that draws: it is made to its end, and is put on record, also when somebody
reloads the page or closes it meanwhile; and the dialog shows how far the rotation is while it waits.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import streamlit as st

from core.tenants.approvals import Action, Approval
from dashboard.approvals import actions as approval_actions
from dashboard.approvals import view as approvals
from dashboard.components.fragments import draw_refusal, guarded_fragment
from dashboard.components.key_actions import KeyAction, action_of
from dashboard.page_context import PageContext
from dashboard.rotation import actions as rotation_actions
from dashboard.rotation import view as rotation
from database.rotation import RotationRequest
from openkcm.errors import OpenKcmError
from workflows.client.workflow_client import OperationTimeout

_OPEN, _DONE = "rotation.open", "rotation.done"
_LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class _Retiring:
    """Somebody wants to destroy a version of a service's key; which one is chosen in the dialog."""

    service: str


@dataclass(frozen=True, slots=True)
class _End:
    """What became of it: said when it is done, and when it goes on."""

    title: str
    words: str


def draw_button(key: str, label: str, icon: str, wanted: RotationRequest, why_not: str) -> None:
    """Draw a button that opens the dialog of a rotation; `why_not` says why it cannot be asked for now."""
    if st.button(label, icon=f":material/{icon}:", key=key, disabled=bool(why_not), help=why_not or None):
        _open(wanted)


def draw_retire_button(service: str, why_not: str) -> None:
    """Draw the button that opens the dialog in which an old version is destroyed."""
    if st.button(
        "Retire an old version",
        icon=":material/delete_forever:",
        key=f"rotation.retire.{service}",
        disabled=bool(why_not),
        help=why_not or None,
    ):
        _open(_Retiring(service))


def draw_open(seat: PageContext) -> None:
    """Draw the dialog that is open, if there is one."""
    opened: RotationRequest | _Retiring | None = st.session_state.get(_OPEN)
    if isinstance(opened, _Retiring):
        st.dialog(f"Retire an old version of the key of {opened.service}", dismissible=False)(
            guarded_fragment(_draw_retiring)
        )(seat, opened.service)
    elif opened is not None:
        st.dialog(_title(opened), dismissible=False)(guarded_fragment(_draw_rotating))(seat, opened)


def _open(opened: RotationRequest | _Retiring) -> None:
    st.session_state[_OPEN] = opened
    st.session_state.pop(_DONE, None)
    st.rerun()


def _close() -> None:
    for name in (_OPEN, _DONE):
        st.session_state.pop(name, None)
    st.rerun()


def _title(wanted: RotationRequest) -> str:
    return f"{'Replace as compromised' if wanted.compromised else 'Rotate'}: {rotation.whose(wanted)}"


def _draw_rotating(seat: PageContext, wanted: RotationRequest) -> None:
    _draw(seat, lambda: _draw_rotation_question(seat, wanted))


def _draw_retiring(seat: PageContext, service: str) -> None:
    _draw(seat, lambda: _draw_retire_question(seat, service))


def _draw(seat: PageContext, question: Callable[[], _End | Approval | None]) -> None:
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
        st.info(approvals.asked(after, seat.now()), title="Somebody else has to approve", icon=":material/group:")
    else:
        st.success(after.words, title=after.title, icon=":material/check:")
    if st.button("Close", key="rotation.close"):
        _close()


def _draw_rotation_question(seat: PageContext, wanted: RotationRequest) -> _End | Approval | None:
    two = wanted.compromised and approval_actions.policy_of(seat).wants_two_for(Action.COMPROMISE)
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        keys, l2 = tx.services.keys(), rotation.l2_of(seat.tenant_id, tx.keys.all())
    name = KeyAction.ROTATE_TENANT_KEY if wanted.tenant_key else KeyAction.ROTATE_SERVICE_KEY
    _draw_consequences(
        KeyAction.COMPROMISE if wanted.compromised else name, rotation.happens(wanted, keys, l2, seat.now())
    )
    button = "Ask for approval" if two else "Replace them" if wanted.compromised else "Rotate"
    if not _is_confirmed(seat, button, typed=wanted.compromised, two=two):
        return None
    done = _End(
        "The keys are rotated", f"{rotation.whose(wanted).capitalize()}: what became of it is on the page Keys."
    )
    return _act(
        seat,
        (lambda: rotation_actions.ask_to_compromise(seat, wanted))
        if two
        else lambda: rotation_actions.rotate(seat, wanted),
        done,
        "Not rotated to the end",
        "Every key that worked works. You can ask again.",
    )


def _draw_retire_question(seat: PageContext, service: str) -> _End | Approval | None:
    two = approval_actions.policy_of(seat).wants_two_for(Action.RETIRE_KEY_VERSION)
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        there = rotation.old(tx.services.keys(), tx.objects.versions(), service, seat.now())
    # By number, so that what is said of a version may change while it stays chosen.
    named = {one.version: one for one in there}
    version: int | None = st.selectbox(
        "Which version", list(named), format_func=lambda number: named[number].words, key="rotation.version"
    )
    _draw_consequences(KeyAction.RETIRE_VERSION, ())
    why_not = "There is no version of this key." if version is None else named[version].why_not
    if why_not:
        st.warning(why_not, title="This version stays", icon=":material/lock:")
    button = "Ask for approval" if two else "Destroy this version"
    if not _is_confirmed(seat, button, typed=True, two=two, disabled=bool(why_not)) or version is None:
        return None
    return _act(
        seat,
        (lambda: rotation_actions.ask_to_retire(seat, service, version))
        if two
        else lambda: rotation_actions.retire(seat, service, version),
        _End("The version is destroyed", f"Version {version} of the key of {service} opens nothing any more."),
        "Not destroyed",
        "Look at the versions on the page Keys before you try again.",
    )


def _draw_consequences(name: KeyAction, lines: tuple[str, ...]) -> None:
    action = action_of(name)
    st.markdown(f"**What happens**  \n{action.happens}")
    if lines:
        with st.container(height=240 if len(lines) > 8 else "content", border=False):
            st.markdown("\n".join(f"- {line}" for line in lines))
    st.markdown(f"**Can it be undone?**  \n{action.undone}")


def _is_confirmed(seat: PageContext, button: str, *, typed: bool, two: bool, disabled: bool = False) -> bool:
    """Draw the end of a question and return whether somebody has just said yes, and typed what it takes."""
    if two:
        st.info(approvals.needs_two(seat.approval_hours), title="This takes two people", icon=":material/group:")
    word = seat.tenant_id
    if typed:
        word = st.text_input(f"Type {seat.tenant_id} to confirm", key="rotation.confirm", disabled=disabled).strip()
    with st.container(horizontal=True):
        asked = st.button(button, type="primary", key="rotation.do", disabled=disabled)
        if st.button("Cancel", key="rotation.cancel"):
            _close()
    if asked and word != seat.tenant_id:
        st.warning(f"Nothing was done. Type {seat.tenant_id} into the field, then press {button} again.")
        return False
    return asked


def _act(
    seat: PageContext, act: Callable[[], Approval | None], done: _End, refused: str, still: str
) -> _End | Approval | None:
    """Do it and show how far it is meanwhile; return what became of it, None when it was refused and is said so."""
    pool = ThreadPoolExecutor(1, "rotation")
    asked = pool.submit(act)
    pool.shutdown(wait=False)
    try:
        _follow(seat, asked)
        return asked.result() or done
    except OperationTimeout:
        return _End("It goes on by itself", "The page Keys shows how far it is, also when you come back later.")
    except OpenKcmError as failed:
        draw_refusal(failed, refused, still)
        return None


def _follow(seat: PageContext, asked: "Future[Approval | None]") -> None:
    slot = st.empty()
    with st.spinner("Asking"):
        while not asked.done():
            with seat.database.tenant_tx(seat.tenant_id) as tx:
                newest = next(iter(tx.rotations.all(1)), None)
            if going := rotation.progress(newest):
                slot.progress(going.share, text=going.words)
            try:
                asked.exception(_LOOK_SECONDS)
            except TimeoutError:
                continue
    slot.empty()
