"""The dialog of a service's protected fields: list, add, change and remove.

The session stores which dialog is open, so that a rerun keeps it open.
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

_OPEN, _REMOVING, _DONE = "protection.open", "protection.taking", "protection.done"
_NEW = "New field"


def open_fields(service: str) -> None:
    _forget()
    st.session_state[_OPEN] = service


def draw_open(context: PageContext) -> None:
    """Draw the dialog if it is open."""
    if _OPEN in st.session_state:
        service = st.session_state[_OPEN]
        st.dialog(f"Protected fields of {service}", width="large", dismissible=False)(guarded_fragment(_draw))(
            context, service
        )


def _forget() -> None:
    for name in (_OPEN, _REMOVING, _DONE):
        st.session_state.pop(name, None)


def _close() -> None:
    _forget()
    st.rerun()


def _draw(context: PageContext, service: str) -> None:
    with context.database.tenant_tx(context.tenant_id) as tx:
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
            protection.table(rows, context.now()),
            hide_index=True,
            key="protection.list",
            alt=f"Protected fields of {service}",
        )
    if not context.may(Permission.MANAGE_SERVICES):
        st.caption("Read-only for your role. An administrator of your organization can change protected fields.")
        if st.button("Close", key="protection.close"):
            _close()
        return
    known = {one.field.name: one.field for one in rows}
    removing = known.get(st.session_state.get(_REMOVING, ""))
    slot = st.empty()
    with slot.container():
        if removing is not None:
            _draw_removing(context, service, removing)
        else:
            _draw_form(context, service, row.kind, known)


def _draw_form(context: PageContext, service: str, kind: ServiceKind, known: dict[str, ProtectedField]) -> None:
    which = st.selectbox("Field to change", [_NEW, *known], key="protection.which") if known else _NEW
    chosen = known.get(which)
    if chosen is None:
        stores = list(Store)
        store = st.radio(
            "Database",
            stores,
            stores.index(store_of(kind) or Store.POSTGRESQL),
            format_func=lambda one: protection.STORE_NAMES[one],
            horizontal=True,
            key="protection.store",
        )
        place = st.text_input(
            "Table or collection", key="protection.place", max_chars=200, help=protection.PLACE_HELP[store]
        )
        field = st.text_input("Field", key="protection.field", max_chars=200, help=protection.FIELD_HELP[store])
    else:
        store, place, field = chosen.store, chosen.place, chosen.field
    modes = list(Mode)
    mode = st.radio(
        "Encryption mode",
        modes,
        modes.index(chosen.mode if chosen else Mode.RANDOMISED),
        format_func=lambda one: protection.MODE_NAMES[one],
        captions=[protection.MODE_MEANS[one] for one in modes],
        key=f"protection.mode.{which}",
    )
    plaintext_allowed = st.checkbox(
        "Allow plaintext values until the backfill is complete",
        value=chosen is not None and chosen.plaintext_allowed,
        key=f"protection.plain.{which}",
    )
    _draw_meaning(known, store, place, field, mode, plaintext_allowed=plaintext_allowed)
    with st.container(horizontal=True):
        label = "Protect field" if chosen is None else "Change field"
        asked = st.button(label, type="primary", icon=":material/shield_lock:", key="protection.do")
        if chosen is not None and st.button("Remove field", icon=":material/remove_moderator:", key="protection.take"):
            st.session_state[_REMOVING] = chosen.name
            st.rerun()
        if st.button("Close", key="protection.close"):
            _close()
    if not asked:
        return
    try:
        wanted = parse_field(store, place.strip(), field.strip(), mode, plaintext_allowed=plaintext_allowed)
        st.session_state[_DONE] = protection_actions.protect(context, service, wanted)
    except OpenKcmError as refused:
        draw_refusal(refused, "Protected fields not changed", "Your input is still here.")
        return
    st.rerun()


def _draw_meaning(  # noqa: PLR0913 - what a field is made of
    known: dict[str, ProtectedField], store: Store, place: str, field: str, mode: Mode, *, plaintext_allowed: bool
) -> None:
    """Draw the effect of the change as soon as a field is named."""
    try:
        wanted = parse_field(store, place.strip(), field.strip(), mode, plaintext_allowed=plaintext_allowed)
    except FieldInvalid:
        return  # an incomplete input is not an error while the user types
    words = protection.meaning(Change(known.get(wanted.name), wanted))
    if words:
        st.info(words, title="Effect", icon=":material/info:")


def _draw_removing(context: PageContext, service: str, field: ProtectedField) -> None:
    name = plain(f"{field.place}.{field.field}")
    st.warning(protection.meaning(Change(field, None)), title=f"Remove {name}?", icon=":material/remove_moderator:")
    with st.container(horizontal=True):
        asked = st.button("Remove field", type="primary", icon=":material/remove_moderator:", key="protection.take.do")
        kept = st.button("Cancel", key="protection.keep")
    if asked:
        try:
            st.session_state[_DONE] = protection_actions.unprotect(context, service, field)
        except OpenKcmError as refused:
            draw_refusal(refused, "Protected fields not changed", "The field is still protected.")
            return
    if asked or kept:
        st.session_state.pop(_REMOVING, None)
        st.rerun()
