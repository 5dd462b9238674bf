"""The query of each page: Back shows a page as it was left, and values that are ignored are named.

When a user leaves a page, Streamlit removes the values of its widgets that are bound to the address, and only then
adds the next page to the browser's history. So the entry to which Back returns lacks them. The session therefore keeps
the query of each page and restores it for a move in the history that arrives without one.

`st.switch_page` with a query adds two entries: the page that is left with the query of the next page, then the next
page. Back from that page arrives at the first of them, so it is treated as an entry without a query.
"""

from collections.abc import Mapping, MutableMapping, Sequence

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

# Session state.
_PAGE = "address-page"
_QUERIES = "address-queries"
_GIVEN = "address-given"

Query = dict[str, list[str]]


def restore_query(page: str) -> None:
    """Show `page` with the query that it was left with, after Back or Forward; otherwise keep the present query."""
    queries: MutableMapping[str, Query] = st.session_state.setdefault(_QUERIES, {})
    context = get_script_run_ctx()
    moved = context is not None and context.is_history_navigation and st.session_state.get(_PAGE) != page
    st.session_state[_PAGE] = page
    left = queries.get(page)
    given: MutableMapping[str, Query] = st.session_state.setdefault(_GIVEN, {})
    shown = _shown_query()
    if moved and left is not None and shown != left and (not shown or shown == given.get(page)):
        st.query_params.from_dict(left)
        st.rerun()
    keep_query()


def leave_page(query: Mapping[str, str]) -> None:
    """Stop keeping the query of the present page, because the session moves to another page with `query`."""
    page = st.session_state.get(_PAGE)
    if page is not None:
        given: MutableMapping[str, Query] = st.session_state.setdefault(_GIVEN, {})
        given[page] = {name: [value] for name, value in query.items()}
        st.session_state[_PAGE] = None


def change_query(changes: Mapping[str, str | Sequence[str]]) -> None:
    """Replace some values of the address and keep the others; an empty value removes its name. For callbacks.

    A request that the browser sent before the address changed can arrive after that, with the former address and with
    fields that are not drawn any more. Their callbacks must not send the browser back to that address, so nothing is
    written if the request came with the changed address.
    """
    shown = _shown_query()
    changed = {name: [value] if isinstance(value, str) else [*value] for name, value in changes.items() if value}
    wanted = {name: values for name, values in shown.items() if name not in changes} | changed
    if wanted != shown:
        # In one step: each assignment of a single value is a step of the browser's history, to which Back returns.
        st.query_params.from_dict(wanted)


def keep_query() -> None:
    """Keep the query of the page that is shown; for each run, as a fragment can change it without the page."""
    queries: MutableMapping[str, Query] | None = st.session_state.get(_QUERIES)
    page = st.session_state.get(_PAGE)
    if queries is not None and page is not None:
        queries[page] = _shown_query()


def draw_ignored(sentences: Sequence[str]) -> None:
    """Say which parts of the address the page does not use; nothing without any."""
    if sentences:
        st.warning(" ".join(sentences), title="Part of the address was ignored", icon=":material/filter_alt_off:")


def _shown_query() -> Query:
    return {name: st.query_params.get_all(name) for name in st.query_params}
