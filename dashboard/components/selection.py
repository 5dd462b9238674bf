"""Selections in tables and charts that act once, and selections that are in the address."""

from collections.abc import Callable

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from dashboard.components.address import change_query


def current_run() -> object:
    """Return an object that is the same for the callbacks and all fragments of one run, and another in the next run."""
    context = get_script_run_ctx()
    return None if context is None else context.parallel_coordinator


def this_run() -> Callable[[], bool]:
    """Return a function that reports whether it is called in the run that calls this; outside of a run it is not."""
    run = current_run()
    return lambda: run is not None and current_run() is run


def newly_selected(key: str, selected: str | None) -> str | None:
    """Return the selection of the element `key` if it has changed since the last draw; None otherwise.

    An element keeps its selection across reruns, and a user who comes back must not be sent away again.
    """
    acted = f"{key}.acted"
    if selected == st.session_state.get(acted):
        return None
    st.session_state[acted] = selected
    return selected


def selected(name: str) -> str:
    """Return the selection that the address parameter `name` has, or that `select` has made since then.

    Streamlit calls the callbacks of a click in the next run, which can be that of another part of the page. The run
    of the part that was clicked then has the address from before.
    """
    given = st.query_params.get(name, "")
    if st.session_state.get(f"{name}.given") != given:
        st.session_state[f"{name}.given"], st.session_state[f"{name}.selected"] = given, given
    return str(st.session_state[f"{name}.selected"])


def select(name: str, value: str) -> None:
    """Select a value, or none if it is empty, from the callback of a click."""
    st.session_state[f"{name}.selected"] = value
    change_query({name: value})
