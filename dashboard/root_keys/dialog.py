"""The dialog that changes the root key. The session stores whether it is open, and the last result.

Credentials are in the session only between input and button: its callback encrypts them and empties their fields first.
Only the worker can decrypt the result.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import streamlit as st

from core.keys.root_keys import Problem, RootKeyMode
from core.tenants.approvals import Action
from dashboard.approvals import actions as approval_actions
from dashboard.approvals import view as approvals
from dashboard.approvals.reason import draw_request
from dashboard.components.formatting import code
from dashboard.components.fragments import ICONS, guarded_fragment
from dashboard.components.key_actions import ACTIONS, KeyAction
from dashboard.components.outage_words import CONTINUES_TITLE, QUEUED, QUEUED_TITLE, customer_words
from dashboard.components.tenant_status import Severity, sentence
from dashboard.page_context import PageContext
from dashboard.root_keys import actions as root_key_actions
from dashboard.root_keys import view as root_key
from dashboard.root_keys.actions import RootKeyChangeRequest
from dashboard.root_keys.guides import ENTRIES, NAMES, Entry, blocks, facts, in_labels
from database.tenants import TenantRow
from openkcm.errors import OpenKcmError
from workflows.client.updates import OperationQueued, OperationTimeout, UpdateRejected

_OPEN, _ASKED, _SUPPLY, _RESULT = "root-key.open", "root-key.asked", "root-key.supply", "root-key.result"
_PROVIDER, _REASON = "root-key.provider", "root-key.reason"
_CHECK, _CHANGE = "check", "change"
_DOING = {
    _CHECK: "Checking root key",
    _CHANGE: "Checking the new root key and re-wrapping service keys",
}
_LATER = {
    _CHECK: "The check continues automatically. Select Check again to see the result; a retry is safe.",
    _CHANGE: (
        "The change continues automatically; the page Keys shows its progress. The former root key is in effect "
        "until all service keys are switched together. You can close this window, or retry, which is safe."
    ),
}


@dataclass(frozen=True, slots=True)
class _Supply:
    """The entered location, and the remaining requests for it, which contain its encrypted credentials."""

    fields: Mapping[str, str]
    wishes: tuple[RootKeyChangeRequest, ...]


@dataclass(frozen=True, slots=True)
class _Result:
    """The result of the last button; `changed` ends the dialog."""

    tone: Severity
    title: str
    words: str
    problems: Sequence[Problem] = ()
    changed: bool = False


def open_change() -> None:
    _forget()
    st.session_state[_OPEN] = True


def draw_open(context: PageContext, tenant: TenantRow) -> None:
    """Draw the dialog if it is open."""
    if st.session_state.get(_OPEN):
        st.dialog("Change root key", width="large", dismissible=False)(guarded_fragment(_change))(context, tenant)


def _forget() -> None:
    for name in [name for name in st.session_state if str(name).startswith("root-key.")]:
        st.session_state.pop(name)


def _close() -> None:
    _forget()
    st.rerun()


def _change(context: PageContext, tenant: TenantRow) -> None:
    slot = st.empty()
    before: _Result | None = st.session_state.get(_RESULT)
    if before is None or not before.changed:
        with slot.container():
            result = _draw_form(context, tenant)
        if result is None or not result.changed:
            return
        slot.empty()
        before = result
    _draw_result(before)
    if st.button("Close", key="root-key.close"):
        _close()


def _draw_form(context: PageContext, tenant: TenantRow) -> _Result | None:
    provider = st.radio(
        "New root key provider",
        [mode for mode in NAMES if mode is not RootKeyMode.PLATFORM or tenant.root_key_mode != mode],
        format_func=lambda mode: NAMES[mode],
        horizontal=True,
        key=_PROVIDER,
    )
    # One placeholder for the provider's fields, so that the elements after it keep their position.
    with st.empty().container():
        _draw_guide(provider, context)
        for entry in ENTRIES[provider]:
            _draw_entry(provider, entry)
        if any(entry.secret for entry in ENTRIES[provider]):
            _draw_sealed(provider)
    _draw_meaning()
    two = _takes_two(context, provider)
    if two:
        draw_request(context, _REASON)
    with st.container(horizontal=True):
        st.button("Check", icon=":material/fact_check:", key="root-key.check", on_click=_ask, args=(context, _CHECK))
        st.button(
            "Request approval" if two else "Change",
            type="primary",
            icon=":material/swap_horiz:",
            key="root-key.change",
            on_click=_ask,
            args=(context, _CHANGE),
        )
        if st.button("Cancel", key="root-key.cancel"):
            _close()
    place = st.empty()
    if asked := st.session_state.pop(_ASKED, None):
        with st.spinner(_DOING[asked]):
            st.session_state[_RESULT] = _done(context, asked)
    result: _Result | None = st.session_state.get(_RESULT)
    if result is not None and not result.changed:
        with place.container():
            _draw_result(result)
    return result


def _takes_two(context: PageContext, provider: RootKeyMode) -> bool:
    return provider is RootKeyMode.PLATFORM and approval_actions.policy_of(context).wants_two_for(
        Action.ROOT_KEY_TO_PLATFORM
    )


def _draw_guide(provider: RootKeyMode, context: PageContext) -> None:
    steps = blocks(provider, context.tenant_id, _fields(provider), context.aws_principal)
    with st.expander("Prepare your provider", icon=":material/checklist:", key="root-key.guide"):
        for number, block in enumerate(steps, start=1):
            st.markdown(f"{number}. {block.words}")
            if block.code:
                st.code(block.code, language=None, wrap_lines=True)
    with st.expander("What this provider means", icon=":material/help:", key="root-key.facts"):
        for question, answer in facts(provider):
            st.markdown(f"**{question}**  \n{answer}")


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
    if _kept(_fields(provider)) is not None:
        st.caption(
            ":material/lock: The credentials are encrypted and kept; their fields are empty, because they are never "
            "shown. Further checks use them. Enter them again only to replace them, or for another destination."
        )
    else:
        st.caption(
            "Credentials are encrypted when you select a button, so that only the platform's worker can read "
            "them. They are never shown again."
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


def _ask(context: PageContext, what: str) -> None:
    """Encrypt the input and empty the credential fields; a callback, because only callbacks may set a field's value."""
    provider = RootKeyMode(st.session_state[_PROVIDER])
    fields, secrets = _fields(provider), _typed(provider, secret=True)
    kept = None if secrets else _kept(fields)
    st.session_state.pop(_RESULT, None)
    if kept is None or kept.fields != fields:
        try:
            requests = (
                root_key_actions.wishes(context, fields, secrets)
                if kept is None
                else root_key_actions.moved(kept.wishes, fields)
            )
            st.session_state[_SUPPLY] = _Supply(fields, requests)
        except OpenKcmError as refused:
            words = [sentence(in_labels(provider, refused.message)), sentence(refused.hint), "Nothing was stored."]
            st.session_state[_RESULT] = _Result(Severity.BAD, "Invalid root key", " ".join(filter(None, words)))
            return
        for entry in ENTRIES[provider]:
            if entry.secret:
                _empty(_key(provider, entry))
    st.session_state[_ASKED] = what


def _kept(fields: Mapping[str, str]) -> _Supply | None:
    """Return the encrypted credentials that may be used for this location; None if they must be entered."""
    supply: _Supply | None = st.session_state.get(_SUPPLY)
    if supply is None or not root_key_actions.keeps_credentials(supply.fields, fields):
        return None
    left = len(supply.wishes) if supply.fields == fields else len(supply.wishes) - 1
    return supply if left > 0 else None


def _empty(key: str) -> None:
    """Empty a field: removed first, because Streamlit otherwise keeps the former value until the next rerun."""
    st.session_state.pop(key, None)
    st.session_state[key] = ""


def _done(context: PageContext, what: str) -> _Result:
    supply: _Supply = st.session_state[_SUPPLY]
    wish = supply.wishes[0]
    try:
        result = _checked(context, wish) if what == _CHECK else _changed(context, wish)
    except UpdateRejected as refused:
        result = _refused(context, wish, refused, what)
    except OperationQueued:
        return _Result(Severity.WORKING, QUEUED_TITLE, " ".join(QUEUED))
    except OperationTimeout:
        return _Result(Severity.WORKING, CONTINUES_TITLE, _LATER[what])
    except OpenKcmError as failed:
        still = "Your input is still here. The current root key was not changed."
        words = [*map(sentence, customer_words(failed) or (failed.message, failed.hint)), still]
        return _Result(
            Severity.BAD,
            "Check not completed" if what == _CHECK else "Root key not changed",
            " ".join(filter(None, words)),
        )
    # The worker has taken these credentials; the next attempt needs another request.
    st.session_state[_SUPPLY] = replace(supply, wishes=supply.wishes[1:])
    return result


def _checked(context: PageContext, wish: RootKeyChangeRequest) -> _Result:
    problems = root_key_actions.check(context, wish)
    if problems:
        return _Result(Severity.WARNING, "Check failed", "Nothing was changed.", problems)
    return _Result(
        Severity.GOOD,
        "Check passed",
        "A test value was encrypted and decrypted. Nothing was changed.",
    )


def _changed(context: PageContext, wish: RootKeyChangeRequest) -> _Result:
    if _takes_two(context, wish.place.provider):
        asked = root_key_actions.ask_for_platform(context, wish, st.session_state.get(_REASON) or "")
        return _Result(Severity.WORKING, "Approval requested", approvals.asked(asked, context.now()), changed=True)
    root_key_actions.change(context, wish)
    return _Result(
        Severity.GOOD,
        "Root key changed",
        f"In effect: {NAMES[wish.place.provider]}, {code(wish.place.name)}. Every service key was verified with it "
        "before all of them were switched together. Your data was not re-encrypted. Keep the former root key "
        f"until you no longer need it. {root_key.NO_FALLBACK}",
        changed=True,
    )


def _refused(context: PageContext, wish: RootKeyChangeRequest, refused: UpdateRejected, what: str) -> _Result:
    title = "Check not completed" if what == _CHECK else "Root key not changed"
    still = "The former root key is in effect." if what == _CHANGE else "Nothing was changed."
    problems = root_key_actions.found(context, wish)
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
            st.code(paste, language=None, wrap_lines=True)
