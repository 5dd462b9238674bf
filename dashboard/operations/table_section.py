"""The table of all tenants with filters in the address; a selected row opens the tenant's address."""

from collections.abc import Callable, Iterable, Mapping, MutableSequence, Sequence
from functools import partial
from typing import TypeVar

import streamlit as st

from core.tenants.lifecycle import State
from dashboard.components.address import change_query, draw_ignored
from dashboard.components.formatting import unknown_value
from dashboard.components.fragments import draw_once_open, part
from dashboard.operations import view
from dashboard.page_context import PageContext
from database.platform.operators import ListedTenant, Operations, Problem, TenantFilter

CHOSEN = "id"
"""The value of the address that names the opened tenant, so that Back, a reload and a shared link show it."""
T = TypeVar("T")
_PAGE = 25
_ROW_PIXELS = 35
_LONGEST = 200
# The query parameters, and therefore the keys of the filters.
_FIND, _STATE, _REGION, _PROBLEM = "find", "state", "region", "problem"
# Session state of this section.
_TRAIL = "operations-trail"
_ADDRESS = "operations-address"
_WANTED = "operations-wanted"
_OPENED = "operations-opened"
_TABLE = "operations-table"


def filter_by(wanted: TenantFilter) -> None:
    """Make the next run show the table with these filters and no others."""
    st.session_state[_WANTED] = wanted


def choose(tenant_id: str | None) -> None:
    """Show a tenant's address, or that of all tenants.

    In one step, with the end of the filters: each step is one of the browser's history, to which Back returns.
    """
    st.query_params.from_dict({} if tenant_id is None else {CHOSEN: tenant_id})
    st.rerun()


@part
def draw(context: PageContext, platform: Operations, regions: Sequence[str]) -> None:
    """Draw filters, table and pages."""
    if opened := st.session_state.pop(_OPENED, None):
        choose(opened)
    st.header("All tenants")
    _apply(st.session_state.pop(_WANTED, None))
    _read_address(regions)
    _draw_ignored(regions)
    wanted = _draw_filters(regions)
    trail: MutableSequence[str] = st.session_state.setdefault(_TRAIL, [""])
    rows = platform.page(wanted, trail[-1], _PAGE + 1)
    shown = rows[:_PAGE]
    if shown:
        _draw_table(context, platform, shown)
    else:
        st.info("No matching tenants. Change or clear the filter.", icon=":material/search_off:")
    _draw_pages(trail, shown, has_more=len(rows) > _PAGE)
    _draw_found(shown, wanted.search)


def _apply(wanted: TenantFilter | None) -> None:
    if wanted is not None:
        _set_filters(wanted)
        _filter()


def _set_filters(wanted: TenantFilter) -> None:
    st.session_state[_FIND] = wanted.search or ""
    st.session_state[_STATE] = wanted.state
    st.session_state[_REGION] = wanted.region
    st.session_state[_PROBLEM] = wanted.problem


def _read_address(regions: Sequence[str]) -> None:
    """Set the filters from the address when it is another one than in the last run."""
    given = {name: st.query_params.get(name, "") for name in (_FIND, _STATE, _REGION, _PROBLEM)}
    is_other = st.session_state.get(_ADDRESS) != given
    if is_other:
        st.session_state[_ADDRESS] = given
        _from_the_start()
    if is_other or _FIND not in st.session_state:
        _set_filters(
            TenantFilter(
                _known(State, given[_STATE]),
                _known(regions, given[_REGION]),
                _known(Problem, given[_PROBLEM]),
                given[_FIND][:_LONGEST],
            )
        )


def _draw_ignored(regions: Sequence[str]) -> None:
    """Name the values of the address that are no filter, such as those of a link from a former release."""
    options: Mapping[str, Iterable[object]] = {_STATE: State, _REGION: regions, _PROBLEM: Problem}
    given = {name: st.query_params.get(name, "") for name in options}
    ignored = [
        unknown_value(name, value) for name, value in given.items() if value and _known(options[name], value) is None
    ]
    draw_ignored(ignored)


def _known(options: Iterable[T], value: str) -> T | None:
    return next((one for one in options if str(one) == value), None)


def _filter() -> None:
    """Show the first page of what the filters select, and write them into the address."""
    _from_the_start()
    chosen = {name: str(st.session_state[name] or "") for name in (_FIND, _STATE, _REGION, _PROBLEM)}
    change_query({CHOSEN: ""} | chosen)


def _draw_filters(regions: Sequence[str]) -> TenantFilter:
    st.text_input("Find", placeholder="id or organization", max_chars=_LONGEST, key=_FIND, on_change=_filter)
    choices = draw_once_open(view.choices_title(_chosen()), key="operations-choices")
    if choices is not None:
        with choices, st.container(horizontal=True):
            _draw_choice("State", list(State), _STATE, "any state", str)
            _draw_choice("Region", list(regions), _REGION, "any region", str)
            _draw_choice("Problem", list(Problem), _PROBLEM, "with or without", view.problem_title)
    return _chosen()


def _chosen() -> TenantFilter:
    state, region, problem, search = (st.session_state[name] for name in (_STATE, _REGION, _PROBLEM, _FIND))
    return TenantFilter(state, region, problem, search.strip() or None)


def _draw_choice(label: str, options: list[T], key: str, placeholder: str, words: Callable[[T], str]) -> None:
    st.selectbox(
        label,
        options,
        index=None,
        placeholder=placeholder,
        format_func=words,
        key=key,
        on_change=_filter,
        width=200,
    )


def _draw_table(context: PageContext, platform: Operations, shown: Sequence[ListedTenant]) -> None:
    names = [one.tenant.tenant_id for one in shown]
    st.session_state[_TABLE] = {"selection": {"rows": []}}
    st.dataframe(
        [view.row(one, platform.provisioning_slo_seconds, context.now()) for one in shown],
        column_config={
            "Tenant": st.column_config.TextColumn(pinned=True),
            "State": st.column_config.MultiselectColumn(
                options=list(view.STATE_COLORS), color=list(view.STATE_COLORS.values())
            ),
            "Requested, UTC": st.column_config.DatetimeColumn(format="D MMM YYYY, HH:mm", timezone="UTC"),
            "Ready after, s": st.column_config.NumberColumn(format="%.1f"),
        },
        hide_index=True,
        height=(len(shown) + 1) * _ROW_PIXELS + 3,
        key=_TABLE,
        on_select=partial(_select_row, names),
        selection_mode="single-row",
        placeholder="-",
        alt="Tenants with state, locks, region, root key provider, provisioning and problems; a row opens the tenant",
    )


def _draw_pages(trail: MutableSequence[str], shown: Sequence[ListedTenant], *, has_more: bool) -> None:
    first = (len(trail) - 1) * _PAGE + 1
    with st.container(horizontal=True, vertical_alignment="bottom", key="operations-pages"):
        st.button(
            "Previous",
            icon=":material/chevron_left:",
            disabled=len(trail) == 1,
            key="operations-previous",
            on_click=_back,
        )
        st.button(
            "Next",
            icon=":material/chevron_right:",
            disabled=not has_more,
            key="operations-next",
            on_click=_further,
            args=[shown],
        )
        if shown:
            st.caption(f"{first:,} to {first + len(shown) - 1:,}, by id. A column's header sorts these rows.")


def _draw_found(shown: Sequence[ListedTenant], search: str | None) -> None:
    """Draw a button for the found tenant: the same as its selected row, for the keyboard."""
    sought = (search or "").lower()
    found = [one.tenant.tenant_id for one in shown if len(shown) == 1 or one.tenant.tenant_id == sought]
    if found and st.button(f"Open {found[0]}", icon=":material/arrow_forward:", key="operations-open"):
        choose(found[0])


def _select_row(names: Sequence[str]) -> None:
    rows = st.session_state[_TABLE]["selection"]["rows"]
    if rows:
        st.session_state[_OPENED] = names[rows[0]]


def _from_the_start() -> None:
    st.session_state[_TRAIL] = [""]


def _back() -> None:
    st.session_state[_TRAIL].pop()


def _further(shown: Sequence[ListedTenant]) -> None:
    st.session_state[_TRAIL].append(shown[-1].tenant.tenant_id)
