"""The dialog in which the root key is changed. What is open and what came of it lies in the session.

Credentials are in the session only between being typed and a button: its callback seals them and empties their fields
before anything else happens. What remains of them opens for the worker alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import streamlit as st

from core.keys.root_keys import Problem, RootKeyMode
from core.tenants.approvals import Action
from dashboard.approvals import actions as approval_actions
from dashboard.approvals import view as approvals
from dashboard.components.formatting import code
from dashboard.components.fragments import ICONS, guarded_fragment
from dashboard.components.key_actions import ACTIONS, KeyAction
from dashboard.components.tenant_status import Severity, sentence
from dashboard.page_context import PageContext
from dashboard.root_keys import actions as root_key_actions
from dashboard.root_keys import view as root_key
from dashboard.root_keys.actions import RootKeyChangeRequest
from dashboard.root_keys.guides import ENTRIES, NAMES, Entry, blocks, in_labels
from database.tenants import TenantRow
from openkcm.errors import OpenKcmError
from workflows.client.workflow_client import OperationTimeout, UpdateRejected

_OPEN, _ASKED, _SUPPLY, _RESULT = "root-key.open", "root-key.asked", "root-key.supply", "root-key.result"
_PROVIDER = "root-key.provider"
_CHECK, _CHANGE = "check", "change"
_DOING = {
    _CHECK: "Trying everything that will be needed of this root key",
    _CHANGE: "Trying the new root key, then wrapping every service key under it",
}
_LATER = {
    _CHECK: "It goes on by itself. Press Check again to see what was found; asking again does no harm.",
    _CHANGE: (
        "It goes on by itself and its progress is on the page Keys. Until all service keys are switched together, the "
        "former root key is in force. You can close this window, or ask again, which does no harm."
    ),
}


@dataclass(frozen=True, slots=True)
class _Supply:
    """What was typed of the place, and the wishes for it that are left; its credentials are sealed in them."""

    fields: Mapping[str, str]
    wishes: tuple[RootKeyChangeRequest, ...]


@dataclass(frozen=True, slots=True)
class _Result:
    """What came of the last button; `changed` ends the dialog."""

    tone: Severity
    title: str
    words: str
    problems: Sequence[Problem] = ()
    changed: bool = False


def open_change() -> None:
    _forget()
    st.session_state[_OPEN] = True


def draw_open(seat: PageContext, tenant: TenantRow) -> None:
    """Draw the dialog if it is open."""
    if st.session_state.get(_OPEN):
        st.dialog("Change the root key", width="large", dismissible=False)(guarded_fragment(_change))(seat, tenant)


def _forget() -> None:
    for name in [name for name in st.session_state if str(name).startswith("root-key.")]:
        st.session_state.pop(name)


def _close() -> None:
    _forget()
    st.rerun()


def _change(seat: PageContext, tenant: TenantRow) -> None:
    slot = st.empty()
    before: _Result | None = st.session_state.get(_RESULT)
    if before is None or not before.changed:
        with slot.container():
            result = _draw_form(seat, tenant)
        if result is None or not result.changed:
            return
        slot.empty()
        before = result
    _draw_result(before)
    if st.button("Close", key="root-key.close"):
        _close()


def _draw_form(seat: PageContext, tenant: TenantRow) -> _Result | None:
    provider = st.radio(
        "Who holds the root key from then on",
        [mode for mode in NAMES if mode is not RootKeyMode.PLATFORM or tenant.root_key_mode != mode],
        format_func=lambda mode: NAMES[mode],
        horizontal=True,
        key=_PROVIDER,
    )
    # One place for what differs between providers: what comes after it stays where it is.
    with st.empty().container():
        _draw_guide(provider, seat)
        for entry in ENTRIES[provider]:
            _draw_entry(provider, entry)
        if any(entry.secret for entry in ENTRIES[provider]):
            _draw_sealed(provider)
    _draw_meaning()
    two = _takes_two(seat, provider)
    if two:
        st.info(approvals.needs_two(seat.approval_hours), title="This takes two people", icon=":material/group:")
    with st.container(horizontal=True):
        st.button("Check", icon=":material/fact_check:", key="root-key.check", on_click=_ask, args=(seat, _CHECK))
        st.button(
            "Ask for approval" if two else "Change",
            type="primary",
            icon=":material/swap_horiz:",
            key="root-key.change",
            on_click=_ask,
            args=(seat, _CHANGE),
        )
        if st.button("Cancel", key="root-key.cancel"):
            _close()
    place = st.empty()
    if asked := st.session_state.pop(_ASKED, None):
        with st.spinner(_DOING[asked]):
            st.session_state[_RESULT] = _done(seat, asked)
    result: _Result | None = st.session_state.get(_RESULT)
    if result is not None and not result.changed:
        with place.container():
            _draw_result(result)
    return result


def _takes_two(seat: PageContext, provider: RootKeyMode) -> bool:
    return provider is RootKeyMode.PLATFORM and approval_actions.policy_of(seat).wants_two_for(
        Action.ROOT_KEY_TO_PLATFORM
    )


def _draw_guide(provider: RootKeyMode, seat: PageContext) -> None:
    told = blocks(provider, seat.tenant_id, _fields(provider), seat.aws_principal)
    with st.expander("What to do first, where the key is held", icon=":material/checklist:", key="root-key.guide"):
        for number, block in enumerate(told, start=1):
            st.markdown(f"{number}. {block.words}")
            if block.code:
                st.code(block.code, language=block.language or None, wrap_lines=True)


def _draw_entry(provider: RootKeyMode, entry: Entry) -> None:
    key = _key(provider, entry)
    if entry.long:
        st.text_area(entry.label, key=key, help=entry.help or None, height=100)
        return
    st.text_input(
        entry.label,
        key=key,
        type="password" if entry.secret else "default",
        help=entry.help or None,
        placeholder=entry.placeholder or None,
    )


def _draw_sealed(provider: RootKeyMode) -> None:
    supply: _Supply | None = st.session_state.get(_SUPPLY)
    if supply is not None and supply.fields == _fields(provider):
        st.caption(
            ":material/lock: The credentials are sealed and their fields are empty again; they are never shown. They "
            "serve for further tries of this root key. Type them again only to give others."
        )
    else:
        st.caption(
            "Credentials are sealed at the first button, so that only the platform's worker can open them, and are "
            "never shown again."
        )


def _draw_meaning() -> None:
    action = next(action for action in ACTIONS if action.name is KeyAction.CHANGE_ROOT_KEY)
    st.caption(f"**What happens:** {action.happens}")
    st.caption(f"**Can it be undone?** {action.undone}")


def _key(provider: RootKeyMode, entry: Entry) -> str:
    return f"root-key.{'secret' if entry.secret else 'field'}.{provider}.{entry.name}"


def _typed(provider: RootKeyMode, *, secret: bool) -> dict[str, str]:
    keys = {entry.name: _key(provider, entry) for entry in ENTRIES[provider] if entry.secret is secret}
    return {name: text for name, key in keys.items() if (text := st.session_state.get(key) or "")}


def _fields(provider: RootKeyMode) -> dict[str, str]:
    return {"provider": provider.value} | _typed(provider, secret=False)


def _ask(seat: PageContext, what: str) -> None:
    """Seal what was typed and empty the fields of credentials; a callback, which alone may set a field's value."""
    provider = RootKeyMode(st.session_state[_PROVIDER])
    fields, secrets = _fields(provider), _typed(provider, secret=True)
    supply: _Supply | None = st.session_state.get(_SUPPLY)
    st.session_state.pop(_RESULT, None)
    if secrets or supply is None or supply.fields != fields or not supply.wishes:
        st.session_state.pop(_SUPPLY, None)
        try:
            st.session_state[_SUPPLY] = _Supply(fields, root_key_actions.wishes(seat, fields, secrets))
        except OpenKcmError as refused:
            words = [sentence(in_labels(provider, refused.message)), sentence(refused.hint), "Nothing was stored."]
            st.session_state[_RESULT] = _Result(
                Severity.BAD, "This cannot be a root key", " ".join(filter(None, words))
            )
            return
        for entry in ENTRIES[provider]:
            if entry.secret:
                _empty(_key(provider, entry))
    st.session_state[_ASKED] = what


def _empty(key: str) -> None:
    """Empty a field: taken out first, because Streamlit keeps what it was beside what it is, until the next rerun."""
    st.session_state.pop(key, None)
    st.session_state[key] = ""


def _done(seat: PageContext, what: str) -> _Result:
    supply: _Supply = st.session_state[_SUPPLY]
    wish = supply.wishes[0]
    try:
        result = _checked(seat, wish) if what == _CHECK else _changed(seat, wish)
    except UpdateRejected as refused:
        result = _refused(seat, wish, refused, what)
    except OperationTimeout:
        return _Result(Severity.WORKING, "Not done yet", _LATER[what])
    except OpenKcmError as failed:
        still = "What you entered is still here, and the root key in force was not touched."
        words = [sentence(failed.message), sentence(failed.hint), still]
        return _Result(Severity.BAD, "Not checked" if what == _CHECK else "Not changed", " ".join(filter(None, words)))
    # The worker has taken what was sealed in it; the next try needs another.
    st.session_state[_SUPPLY] = replace(supply, wishes=supply.wishes[1:])
    return result


def _checked(seat: PageContext, wish: RootKeyChangeRequest) -> _Result:
    problems = root_key_actions.check(seat, wish)
    if problems:
        return _Result(Severity.WARNING, "This root key would not do", "Nothing was changed.", problems)
    return _Result(
        Severity.GOOD,
        "This root key does what is needed",
        "It wrapped a value and opened it again. Nothing was changed.",
    )


def _changed(seat: PageContext, wish: RootKeyChangeRequest) -> _Result:
    if _takes_two(seat, wish.place.provider):
        asked = root_key_actions.ask_for_platform(seat, wish)
        return _Result(
            Severity.WORKING, "Somebody else has to approve", approvals.asked(asked, seat.now()), changed=True
        )
    root_key_actions.change(seat, wish)
    return _Result(
        Severity.GOOD,
        "The root key is changed",
        f"In force is now {NAMES[wish.place.provider]}: {code(wish.place.name)}. Every service key was "
        "opened once from it before all of them were switched together. Your data was not encrypted anew. Keep the "
        f"former root key until you are sure that you do not want it back. {root_key.NO_FALLBACK}",
        changed=True,
    )


def _refused(seat: PageContext, wish: RootKeyChangeRequest, refused: UpdateRejected, what: str) -> _Result:
    title = "Not checked" if what == _CHECK else "The root key was not changed"
    still = "The former root key is in force." if what == _CHANGE else "Nothing was changed."
    problems = root_key_actions.found(seat, wish)
    if problems:
        return _Result(Severity.BAD, title, still, problems)
    known = refused.code in root_key.PROBLEMS
    words = root_key.in_words(refused.code) if known else (sentence(refused.message), sentence(refused.hint))
    return _Result(Severity.BAD, title, " ".join(filter(None, (*words, still))))


def _draw_result(result: _Result) -> None:
    draw = {Severity.GOOD: st.success, Severity.WORKING: st.info, Severity.WARNING: st.warning, Severity.BAD: st.error}[
        result.tone
    ]
    draw(result.words, title=result.title, icon=ICONS[result.tone])
    for problem in result.problems:
        words, paste = root_key.hint_parts(problem.hint)
        st.markdown(f"{ICONS[Severity.BAD]} **{sentence(problem.message)}** {sentence(words)}")
        if paste:
            st.code(paste, language="json" if paste.startswith("{") else "hcl", wrap_lines=True)
