"""Selections in tables and charts that act once."""

import streamlit as st


def newly_selected(key: str, selected: str | None) -> str | None:
    """Return the selection of the element `key` if it has changed since the last draw; None otherwise.

    An element keeps its selection across reruns, and a user who comes back must not be sent away again.
    """
    acted = f"{key}.acted"
    if selected == st.session_state.get(acted):
        return None
    st.session_state[acted] = selected
    return selected
