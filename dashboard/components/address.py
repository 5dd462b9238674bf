"""The query of each page, so that Back shows a page as it was left.

When a user leaves a page, Streamlit removes the values of its widgets that are bound to the address, and only then
adds the next page to the browser's history. So the entry to which Back returns lacks them. The session therefore keeps
the query of each page and restores it for a move in the history that arrives without one.
"""

from collections.abc import MutableMapping

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

# Session state.
_PAGE = "address-page"
_QUERIES = "address-queries"

Query = dict[str, list[str]]


def restore_query(page: str) -> None:
    """Show `page` with the query that it was left with, after Back or Forward; otherwise keep the present query."""
    queries: MutableMapping[str, Query] = st.session_state.setdefault(_QUERIES, {})
    context = get_script_run_ctx()
    moved = context is not None and context.is_history_navigation and st.session_state.get(_PAGE) != page
    st.session_state[_PAGE] = page
    left = queries.get(page)
    if moved and left and not st.query_params:
        st.query_params.from_dict(left)
        st.rerun()
    keep_query()


def keep_query() -> None:
    """Keep the query of the page that is shown; for each run, as a fragment can change it without the page."""
    queries: MutableMapping[str, Query] | None = st.session_state.get(_QUERIES)
    if queries is not None:
        queries[st.session_state[_PAGE]] = {name: st.query_params.get_all(name) for name in st.query_params}
