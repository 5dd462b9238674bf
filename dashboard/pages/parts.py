"""A part of a page that runs alone: it answers at once, and what stands around it stays as it is."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

import streamlit as st

from core.errors.platform import DatabaseUnavailable
from dashboard.pages.notices import draw_refusal
from dashboard.seat import Seat

P = ParamSpec("P")


_FOLLOW_SECONDS = 2.0


def alone(draw: Callable[Concatenate[Seat, P], None]) -> Callable[Concatenate[Seat, P], None]:
    """Return `draw` as something that runs without the page around it: the inside of a part, or of a dialog.

    The guard is not asked when it runs alone, so it asks first whether the sign-on still holds; where it does not, the
    whole page runs, and the guard with it. What the page would say of a database that does not answer it says here.
    """

    @wraps(draw)
    def drawn(seat: Seat, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            if not seat.present():
                st.rerun()
            draw(seat, *args, **kwargs)
        except DatabaseUnavailable as down:
            draw_refusal(down, "This cannot be shown now", "Nothing was changed. Try again in a minute.")

    return drawn


def part(draw: Callable[Concatenate[Seat, P], None]) -> Callable[Concatenate[Seat, P], None]:
    """Return `draw` as a part of its own."""
    return st.fragment(alone(draw))


def following(draw: Callable[Concatenate[Seat, P], None]) -> Callable[Concatenate[Seat, P], None]:
    """Return `draw` as a part that draws itself anew every few seconds, to show what goes on by itself.

    Nobody does anything by that, so it does not count as a use of the sign-on.
    """

    @wraps(draw)
    def drawn(seat: Seat, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            if seat.left():
                st.rerun()
            draw(seat, *args, **kwargs)
        except DatabaseUnavailable as down:
            draw_refusal(down, "This cannot be shown now", "It is looked at again by itself.")

    return st.fragment(drawn, run_every=_FOLLOW_SECONDS)
