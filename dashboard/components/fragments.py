"""A part of a page that runs alone: it answers at once, and what stands around it stays as it is.

What several pages say alike: a state that is not the normal one, a refusal, and a page that is not for somebody.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from types import MappingProxyType
from typing import Concatenate, ParamSpec

import streamlit as st

from core.errors.platform import DatabaseUnavailable
from core.tenants.roles import Permission
from dashboard.components.tenant_status import Severity, TenantStatusView, sentence
from dashboard.page_context import PageContext
from openkcm.errors import OpenKcmError

P = ParamSpec("P")


_FOLLOW_SECONDS = 2.0


def guarded_fragment(draw: Callable[Concatenate[PageContext, P], None]) -> Callable[Concatenate[PageContext, P], None]:
    """Return `draw` as something that runs without the page around it: the inside of a part, or of a dialog.

    The guard is not asked when it runs alone, so it asks first whether the sign-on still holds; where it does not, the
    whole page runs, and the guard with it. What the page would say of a database that does not answer it says here.
    """

    @wraps(draw)
    def drawn(seat: PageContext, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            if not seat.present():
                st.rerun()
            draw(seat, *args, **kwargs)
        except DatabaseUnavailable as down:
            draw_refusal(down, "This cannot be shown now", "Nothing was changed. Try again in a minute.")

    return drawn


def part(draw: Callable[Concatenate[PageContext, P], None]) -> Callable[Concatenate[PageContext, P], None]:
    """Return `draw` as a part of its own."""
    return st.fragment(guarded_fragment(draw))


def polling_fragment(draw: Callable[Concatenate[PageContext, P], None]) -> Callable[Concatenate[PageContext, P], None]:
    """Return `draw` as a part that draws itself anew every few seconds, to show what goes on by itself.

    Nobody does anything by that, so it does not count as a use of the sign-on.
    """

    @wraps(draw)
    def drawn(seat: PageContext, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            if seat.left():
                st.rerun()
            draw(seat, *args, **kwargs)
        except DatabaseUnavailable as down:
            draw_refusal(down, "This cannot be shown now", "It is looked at again by itself.")

    return st.fragment(drawn, run_every=_FOLLOW_SECONDS)


ICONS: Mapping[Severity, str] = MappingProxyType(
    {
        Severity.GOOD: ":material/check_circle:",
        Severity.WORKING: ":material/pending:",
        Severity.WARNING: ":material/warning:",
        Severity.BAD: ":material/error:",
    }
)
_BOXES = MappingProxyType(
    {Severity.GOOD: st.success, Severity.WORKING: st.info, Severity.WARNING: st.warning, Severity.BAD: st.error}
)


def draw_notices(said: Iterable[TenantStatusView]) -> None:
    """Say what does not stand as it should, what that means and what to do about it."""
    for one in said:
        words = " ".join(part for part in (one.meaning, one.advice) if part)
        _BOXES[one.tone](words, title=one.title, icon=ICONS[one.tone])


def draw_refusal(refused: OpenKcmError, title: str, still: str = "") -> None:
    """Say what was not done, why, what to do next, and what is still so."""
    words = " ".join(sentence(part) for part in (refused.message, refused.hint) if part)
    st.error(f"{words} {still}".strip(), title=title, icon=ICONS[Severity.BAD])


def admitted(seat: PageContext) -> bool:
    """Return whether the person may look at this tenant's pages; says so where not."""
    if seat.may(Permission.VIEW):
        return True
    st.error(
        "Your role does not include looking at this tenant. Ask your organization's administrator for one that does.",
        title="This page is not for your role",
        icon=ICONS[Severity.BAD],
    )
    return False


def draw_unknown() -> None:
    """Say that there is nothing here yet, and how that changes."""
    st.title("Encryption Dashboard")
    st.info(
        "Enable OpenKCM for your organization in the marketplace. This page then follows the provisioning and shows "
        "your encryption environment.",
        title="OpenKCM is not enabled for your organization yet",
        icon=":material/info:",
    )
