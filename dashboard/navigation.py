"""Which pages lie at which place. Title, icon, path and page of each; the first has the place's own path."""

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from dashboard.pages import audit, keys, overview, services
from dashboard.seat import Seat


@dataclass(frozen=True, slots=True)
class Entry:
    """A page of a place; `path` is its part of the address, empty for the first."""

    title: str
    icon: str
    path: str
    draw: Callable[[Seat], None]


def _welcome(seat: Seat) -> None:
    st.title(seat.tenant_id)
    st.write(f"Welcome, {seat.person.name}.")


TENANT = (
    Entry("Overview", ":material/dashboard:", "", overview.draw),
    Entry("Keys", ":material/key:", "keys", keys.draw),
    Entry("Services", ":material/hub:", "services", services.draw),
    Entry("Audit", ":material/fact_check:", "audit", audit.draw),
)
OPERATIONS = (Entry("Operations", ":material/monitoring:", "", _welcome),)
