"""The notice before a session ends. Drawing it does not count as activity."""

from collections.abc import Callable
from datetime import datetime, timedelta

import streamlit as st

from dashboard.components.local_time import shown_time

WARNING_TIME = timedelta(minutes=2)


def is_due(ends_at: datetime, now: datetime, idle: timedelta) -> bool:
    """Return whether to warn: two minutes before the end, or half the idle time if that is shorter."""
    return ends_at - now <= min(WARNING_TIME, idle / 2)


def draw_session_notice(
    ends_at: datetime, expires_at: datetime, now: datetime, idle: timedelta, stay: Callable[[], None]
) -> None:
    """Draw nothing until the end is near, then its time and a button: `stay` counts as activity.

    `expires_at` is the end of the sign-on at the single sign-on, which no activity extends.
    """
    if not is_due(ends_at, now, idle):
        return
    time = shown_time(ends_at, now)
    if ends_at < expires_at:
        st.warning(f"You will be signed out at {time}, because nothing was done here.", icon=":material/timer:")
        st.button("Stay signed in", type="primary", key="session-stay", on_click=stay)
    else:
        st.warning(f"Your sign-in is valid until {time}. Sign in again to continue.", icon=":material/timer:")
        if st.button("Sign in again", key="session-sign-in"):
            st.login()
