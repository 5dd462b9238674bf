"""The table of the service keys with the actions for the selected one; then timeline, key map and who can open what.

The address names the selected service (`?service=ledger`). Table, list and map all select it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import streamlit as st

from core.tenants.roles import Permission
from dashboard.components import key_map
from dashboard.components.fragments import draw_tabs, part
from dashboard.components.key_map import KeyMap, KeyStatus
from dashboard.keys import timeline_section, view
from dashboard.keys.access_view import access
from dashboard.keys.versions_dialog import open_versions
from dashboard.keys.view import Facts, ServiceKey
from dashboard.page_context import PageContext
from dashboard.rotation import dialog as rotation_dialog
from dashboard.rotation import view as rotation
from database.rotation import RotationRow

SERVICE = "service"
"""The query parameter, and therefore the key of the list."""
_TABLE, _MAP, _CLICKED = "keys.table", "keys.map", "keys.clicked"
_ROW_PIXELS, _ROWS = 35, 7
_STATE_COLORS = {
    KeyStatus.ENCRYPTS.value: "blue",
    KeyStatus.DECRYPTS.value: "orange",
    KeyStatus.UNUSED.value: "gray",
    KeyStatus.COMPROMISED.value: "red",
    KeyStatus.LOCKED.value: "red",
    view.OLD_COMPROMISED: "red",
}


@dataclass(frozen=True, slots=True)
class Rows:
    """The data of this part of the page."""

    facts: Facts
    key_map: KeyMap
    rotation: RotationRow | None


@part
def draw(context: PageContext, rows: Rows) -> None:
    keys = view.service_keys(rows.facts, context.now())
    if clicked := st.session_state.pop(_CLICKED, None):
        st.session_state[SERVICE] = clicked
    st.header("Service keys", anchor="service-keys")
    if keys:
        selected = _draw_selection(context, rows, keys)
    else:
        selected = None
        st.info(
            "No service keys. Each connected service gets a dedicated key. Connect one on the page Services.",
            icon=":material/info:",
        )
    left, right = st.columns(2, gap="medium")
    with left.container(border=True, height="stretch"):
        draws = {
            "Timeline": partial(timeline_section.draw, context),
            "Key map": partial(_draw_map, rows.key_map, selected),
        }
        draw_tabs(draws, key="keys.charts")
    with right.container(border=True, height="stretch"):
        _draw_access(rows.facts)


def _draw_selection(context: PageContext, rows: Rows, keys: Sequence[ServiceKey]) -> ServiceKey | None:
    names = [key.service for key in keys]
    table, actions = st.container(), st.container()
    with actions, st.container(horizontal=True, vertical_alignment="bottom"):
        # Beside the actions, so that a user of the keyboard selects and acts in one place.
        service = st.selectbox(
            "Selected service",
            names,
            index=None,
            key=SERVICE,
            bind="query-params",
            placeholder="Select a service",
            width=200,
        )
        row = names.index(service) if service in names else None
        selected = None if row is None else keys[row]
        why_not = rotation.why_not(rows.facts.tenant, rows.rotation)
        if selected is not None:
            _draw_actions(context, selected, why_not)
    with table:
        _draw_table(keys, names, row)
    if why_not and selected is not None:
        actions.caption(why_not)
    return selected


def _draw_table(keys: Sequence[ServiceKey], names: list[str], row: int | None) -> None:
    st.session_state[_TABLE] = {"selection": {"rows": [] if row is None else [row]}}
    most = max(max(key.requests, default=0) for key in keys)
    st.dataframe(
        [
            {
                "Service": key.service,
                "Kind": key.kind,
                "Version": key.version,
                "State": list(key.states),
                "Last used": key.last_used,
                "Requests, 30 days": list(key.requests),
                "Rotation due": None if key.due is None else key.due.date(),
                "Key age": key.age,
                "Protects": key.protects,
            }
            for key in keys
        ],
        column_config={
            "Service": st.column_config.TextColumn(pinned=True, width=110),
            "Kind": st.column_config.TextColumn(width=100),
            "Version": st.column_config.TextColumn(width=62),
            "State": st.column_config.MultiselectColumn(
                options=list(_STATE_COLORS), color=list(_STATE_COLORS.values()), width=138
            ),
            "Last used": st.column_config.DatetimeColumn(format="distance", width=125),
            "Requests, 30 days": st.column_config.LineChartColumn(
                "Requests", y_min=0, y_max=max(most, 1), width=85, help="By day, in the last 30 days."
            ),
            "Rotation due": st.column_config.DateColumn(format="D MMM YYYY", width=98),
            "Key age": st.column_config.ProgressColumn(
                width=100,
                format="%d days",
                min_value=0,
                max_value=keys[0].cryptoperiod,
                help="Days since the version became active; the bar ends when the rotation is due.",
            ),
        },
        hide_index=True,
        height=min(len(keys), _ROWS) * _ROW_PIXELS + _ROW_PIXELS + 3,
        key=_TABLE,
        on_select=partial(_select_row, names),
        selection_mode="single-row",
        placeholder="-",
        alt=view.summary(keys),
    )


def _select_row(names: list[str]) -> None:
    # No row is no decision: the browser also sends its former selection late, after the list has selected a service.
    # The list is where a selection ends. `draw` sets the list, because the run that calls this can be that of another
    # part of the page, and the run of this part then has the list's former value.
    if rows := st.session_state[_TABLE]["selection"]["rows"]:
        st.session_state[_CLICKED] = names[rows[0]]


def _draw_actions(context: PageContext, key: ServiceKey, why_not: str) -> None:
    if context.may(Permission.MANAGE_KEYS):
        own = rotation.of_service(key.service)
        rotation_dialog.draw_button("rotation.one", "Rotate service key…", "autorenew", own, why_not)
        if key.old:
            rotation_dialog.draw_retire_button(key.service, key.old[0], why_not)
        bad = rotation.compromised(own)
        rotation_dialog.draw_button("rotation.compromised-one", "Report as compromised…", "gpp_maybe", bad, why_not)
    if st.button("Versions and history", icon=":material/history:", key="keys.versions"):
        open_versions(key.service)


def _draw_map(one: KeyMap, selected: ServiceKey | None) -> None:
    clicked = key_map.draw(one, key=_MAP, selected=None if selected is None else selected.service)
    if clicked:
        st.session_state[_CLICKED] = clicked
        st.rerun(scope="fragment")


def _draw_access(facts: Facts) -> None:
    st.header("Who can open what", anchor="access")
    st.table(
        [
            {"Who": row.who, "Read data": row.read, "Encrypt": row.encrypt, "Lock": row.lock}
            for row in access(facts.tenant, facts.policy)
        ],
        border="horizontal",
        hide_index=True,
        alt="Who can read data, encrypt, and lock the tenant",
    )
