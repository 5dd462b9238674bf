"""Links between the pages of a route."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import streamlit as st

from dashboard.components.address import leave_page


@dataclass(frozen=True, slots=True)
class Navigation:
    """The pages of the current route by their path, which is empty for the first; the router fills it.

    A page that the route does not have, as of an offboarded tenant, has no link.
    """

    pages: Mapping[str, st.Page] = field(default_factory=dict)

    def draw_link(self, path: str, label: str, *, icon: str | None = None, **query: str) -> None:
        """Draw a link to a page, with values of its address (`service="ledger"`); keeps the session."""
        if path in self.pages:
            st.page_link(self.pages[path], label=label, icon=icon, query_params=query or None)

    def go(self, path: str, **query: str) -> NoReturn:
        """Show another page now, from a button or a selected row; raises KeyError for a page of another route."""
        page = self.pages[path]
        leave_page(query)
        st.switch_page(page, query_params=query or None)


NO_PAGES = Navigation()
"""For a download, which draws no page."""
