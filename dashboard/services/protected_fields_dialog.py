"""The dialog of a service's protected fields: which they are, and adding, changing and taking off one.

Which service's is open lies in the session, so that a rerun keeps it open.
"""

import streamlit as st

from core.errors.services import FieldInvalid
from core.protected_fields import parse_field, store_of
from core.tenants.roles import Permission
from dashboard.components.formatting import plain
from dashboard.components.fragments import draw_refusal, guarded_fragment
from dashboard.page_context import PageContext
from dashboard.services import actions as protection_actions
from dashboard.services import protected_fields_view as protection
from database.commands import Change
from openkcm.contract.protected_fields import Mode, ProtectedField, Store
from openkcm.contract.services import ServiceKind
from openkcm.errors import OpenKcmError

_OPEN, _TAKING, _DONE = "protection.open", "protection.taking", "protection.done"
_NEW = "Another field"


def draw_button(service: str) -> None:
    """Draw the button that opens the dialog; everybody may look."""
    st.button(
        "Protected fields",
        icon=":material/shield_lock:",
        key=f"protection.open.{service}",
        on_click=_open,
        args=(service,),
    )


def draw_open(seat: PageContext) -> None:
    """Draw the dialog if it is open."""
    if _OPEN in st.session_state:
        service = st.session_state[_OPEN]
        st.dialog(f"Protected fields of {service}", width="large", dismissible=False)(guarded_fragment(_draw))(
            seat, service
        )


def _open(service: str) -> None:
    _forget()
    st.session_state[_OPEN] = service


def _forget() -> None:
    for name in (_OPEN, _TAKING, _DONE):
        st.session_state.pop(name, None)


def _close() -> None:
    _forget()
    st.rerun()


def _draw(seat: PageContext, service: str) -> None:
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        row, rows = tx.services.get(service), tx.protection.rows(service)
    if row is None:
        _close()
        return
    st.markdown(protection.ABOUT)
    done: Change | None = st.session_state.pop(_DONE, None)
    if done is not None:
        st.success(protection.done(done), icon=":material/check:")
    st.subheader(protection.summary(len(rows)), anchor=False)
    if rows:
        st.dataframe(
            protection.table(rows, seat.now()),
            hide_index=True,
            key="protection.list",
            alt=f"Protected fields of {service}",
        )
    if not seat.may(Permission.MANAGE_SERVICES):
        st.caption("Your role lets you look. An administrator of your organization chooses what is protected.")
        if st.button("Close", key="protection.close"):
            _close()
        return
    known = {one.field.name: one.field for one in rows}
    taking = known.get(st.session_state.get(_TAKING, ""))
    slot = st.empty()
    with slot.container():
        if taking is not None:
            _draw_taking(seat, service, taking)
        else:
            _draw_form(seat, service, row.kind, known)


def _draw_form(seat: PageContext, service: str, kind: ServiceKind, known: dict[str, ProtectedField]) -> None:
    which = st.selectbox("Which field", [_NEW, *known], key="protection.which") if known else _NEW
    chosen = known.get(which)
    if chosen is None:
        stores = list(Store)
        store = st.radio(
            "What keeps it",
            stores,
            stores.index(store_of(kind) or Store.POSTGRESQL),
            format_func=lambda one: protection.STORE_NAMES[one],
            horizontal=True,
            key="protection.store",
        )
        place = st.text_input("Place", key="protection.place", max_chars=200, help=protection.PLACE_HELP[store])
        field = st.text_input("Field", key="protection.field", max_chars=200, help=protection.FIELD_HELP[store])
    else:
        store, place, field = chosen.store, chosen.place, chosen.field
    modes = list(Mode)
    mode = st.radio(
        "How equal values look",
        modes,
        modes.index(chosen.mode if chosen else Mode.RANDOMISED),
        format_func=lambda one: protection.MODE_NAMES[one],
        captions=[protection.MODE_MEANS[one] for one in modes],
        key=f"protection.mode.{which}",
    )
    plain_allowed = st.checkbox(
        "Hand out values that are not encrypted, while those from before are being encrypted",
        value=chosen is not None and chosen.plain_allowed,
        key=f"protection.plain.{which}",
    )
    _draw_meaning(known, store, place, field, mode, plain_allowed=plain_allowed)
    with st.container(horizontal=True):
        label = "Protect it" if chosen is None else "Change it"
        asked = st.button(label, type="primary", icon=":material/shield_lock:", key="protection.do")
        if chosen is not None and st.button("Take it off", icon=":material/remove_moderator:", key="protection.take"):
            st.session_state[_TAKING] = chosen.name
            st.rerun()
        if st.button("Close", key="protection.close"):
            _close()
    if not asked:
        return
    try:
        wanted = parse_field(store, place.strip(), field.strip(), mode, plain_allowed=plain_allowed)
        st.session_state[_DONE] = protection_actions.protect(seat, service, wanted)
    except OpenKcmError as refused:
        draw_refusal(refused, "Nothing was changed", "What you entered is still here.")
        return
    st.rerun()


def _draw_meaning(  # noqa: PLR0913 - what a field is made of
    known: dict[str, ProtectedField], store: Store, place: str, field: str, mode: Mode, *, plain_allowed: bool
) -> None:
    """Say what the change would mean, as soon as a field is named."""
    try:
        wanted = parse_field(store, place.strip(), field.strip(), mode, plain_allowed=plain_allowed)
    except FieldInvalid:
        return  # said when it is asked for: nobody has finished typing yet
    words = protection.meaning(Change(known.get(wanted.name), wanted))
    if words:
        st.info(words, title="What this means", icon=":material/info:")


def _draw_taking(seat: PageContext, service: str, field: ProtectedField) -> None:
    name = plain(f"{field.place}.{field.field}")
    st.warning(
        protection.meaning(Change(field, None)), title=f"Take {name} off the list?", icon=":material/remove_moderator:"
    )
    with st.container(horizontal=True):
        asked = st.button("Take it off", type="primary", icon=":material/remove_moderator:", key="protection.take.do")
        kept = st.button("Keep it protected", key="protection.keep")
    if asked:
        try:
            st.session_state[_DONE] = protection_actions.unprotect(seat, service, field)
        except OpenKcmError as refused:
            draw_refusal(refused, "Nothing was changed", "The field is protected as before.")
            return
    if asked or kept:
        st.session_state.pop(_TAKING, None)
        st.rerun()
