"""A part of a page that runs alone: it answers at once, and what stands around it stays as it is."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

import streamlit as st

from dashboard.pages.notices import draw_refusal
from dashboard.seat import Seat
from tenancy.errors import DatabaseUnavailable

P = ParamSpec("P")


def part(draw: Callable[Concatenate[Seat, P], None]) -> Callable[Concatenate[Seat, P], None]:
    """Return `draw` as a part of its own.

    The guard is not asked when a part runs alone, so it asks first whether the sign-on still holds; where it does not,
    the whole page runs, and the guard with it. What the page would say of a database that does not answer it says here.
    """

    @wraps(draw)
    def drawn(seat: Seat, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            if not seat.present():
                st.rerun()
            draw(seat, *args, **kwargs)
        except DatabaseUnavailable as down:
            draw_refusal(down, "This cannot be shown now", "Nothing was changed. Try again in a minute.")

    return st.fragment(drawn)
