"""Fragments: parts of a page that rerun alone, while the rest of the page stays unchanged.

Also what several pages share: notices, refusals, and the page for a missing permission.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from types import MappingProxyType
from typing import Concatenate, ParamSpec

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.errors.platform import DatabaseUnavailable
from core.tenants.roles import Permission
from dashboard.components.address import keep_query
from dashboard.components.formatting import plain, said
from dashboard.components.outage_words import customer_words, pending_title
from dashboard.components.tenant_status import Severity, TenantStatusView, sentence
from dashboard.page_context import PageContext
from openkcm.errors import OpenKcmError

P = ParamSpec("P")


REFRESH_SECONDS = 2.0
"""The interval in which open pages refresh."""


def guarded_fragment(draw: Callable[Concatenate[PageContext, P], None]) -> Callable[Concatenate[PageContext, P], None]:
    """Return `draw` as a function that reruns without the page around it: the body of a fragment or a dialog.

    A fragment reruns without the authorizer, so a rerun first checks that the session is valid. Otherwise the whole
    page reruns, and the authorizer with it. A database error is shown in the fragment.
    """

    @wraps(draw)
    def drawn(context: PageContext, /, *args: P.args, **kwargs: P.kwargs) -> None:
        keep_query()
        try:
            if not context.admitted() and not context.present():
                st.rerun()
            draw(context, *args, **kwargs)
        except DatabaseUnavailable as down:
            _draw_outage(context, down, "Nothing was changed. Try again in a minute.")

    return drawn


def part(draw: Callable[Concatenate[PageContext, P], None]) -> Callable[Concatenate[PageContext, P], None]:
    """Return `draw` as a separate fragment."""
    return st.fragment(guarded_fragment(draw))


def polling_fragment(
    draw: Callable[Concatenate[PageContext, P], None], *, seconds: float = REFRESH_SECONDS
) -> Callable[Concatenate[PageContext, P], None]:
    """Return `draw` as a fragment that refreshes every few seconds.

    Refreshing does not count as activity of the session.
    """

    @wraps(draw)
    def drawn(context: PageContext, /, *args: P.args, **kwargs: P.kwargs) -> None:
        keep_query()
        try:
            if context.left():
                st.rerun()
            draw(context, *args, **kwargs)
        except DatabaseUnavailable as down:
            _draw_outage(context, down, "It refreshes automatically.")

    return st.fragment(drawn, run_every=seconds)


# In texts a screen reader reads the name of the symbol, "check icon": no symbol whose name is not a word.
ICONS: Mapping[Severity, str] = MappingProxyType(
    {
        Severity.GOOD: ":material/check:",
        Severity.WORKING: ":material/pending:",
        Severity.WARNING: ":material/warning:",
        Severity.BAD: ":material/error:",
    }
)
_BOXES = MappingProxyType(
    {Severity.GOOD: st.success, Severity.WORKING: st.info, Severity.WARNING: st.warning, Severity.BAD: st.error}
)


def draw_tabs(draws: Mapping[str, Callable[[], None]], *, key: str) -> None:
    """Draw tabs with these labels and the content of the open one: hidden content costs the browser as much."""
    for tab, draw in zip(st.tabs(list(draws), key=key, on_change="rerun"), draws.values(), strict=True):
        if tab.open:
            with tab:
                draw()


def draw_once_open(title: str, *, key: str, version: int = 0) -> DeltaGenerator | None:
    """Draw an expander; return it for its fields if it was open since `version`, the version of their keys.

    A hidden field takes the browser as long as a visible one. It is drawn also when the expander is closed again,
    because Streamlit drops the value of a field that is not drawn any more.
    """
    fields, opened = st.expander(title, key=key, on_change="rerun"), f"{key}-opened"
    if fields.open:
        st.session_state[opened] = version
    return fields if st.session_state.get(opened) == version else None


def draw_metric(label: str, value: str, note: str = "") -> DeltaGenerator:
    """Draw a card with a value and a note, and return the card; the browser cuts off a long note of `st.metric`."""
    card = st.container(border=True, height="stretch", gap="xsmall")
    card.metric(label, value)
    if note:
        card.caption(note)
    return card


def draw_notices(notices: Iterable[TenantStatusView]) -> None:
    """Draw notices: the problem, its meaning and what to do."""
    for one in notices:
        words = " ".join(part for part in (one.meaning, one.advice) if part)
        _BOXES[one.tone](words, title=one.title, icon=ICONS[one.tone])


def draw_refusal(refused: OpenKcmError, title: str, still: str = "") -> None:
    """Draw a refusal: what was not done, why, what to do next, and what is unchanged.

    A request that is queued or continues is none: its own title replaces `title`, and `still` does not apply.
    """
    parts = customer_words(refused) or (refused.message, refused.hint)
    words = " ".join(sentence(part) for part in parts if part)
    later = pending_title(refused)
    if later is None:
        st.error(f"{words} {still}".strip(), title=title, icon=ICONS[Severity.BAD])
    else:
        st.info(words, title=later, icon=ICONS[Severity.WORKING])


def _draw_outage(context: PageContext, down: DatabaseUnavailable, still: str) -> None:
    """Draw that a part of a page has no data; only an operator reads why."""
    cause = said(down) if context.person.is_operator else "OpenKCM cannot read this data at the moment."
    st.error(f"{plain(cause)} {still}", title="Not available", icon=ICONS[Severity.BAD])


def admitted(context: PageContext) -> bool:
    """Return whether the user may view this tenant's pages; draw a notice otherwise."""
    if context.may(Permission.VIEW):
        return True
    st.error(
        "Your role does not include access to this tenant. Ask an administrator of your organization for a role "
        "that does.",
        title="Access denied",
        icon=ICONS[Severity.BAD],
    )
    return False


def draw_unknown() -> None:
    """Draw the page of a tenant that is not enabled yet."""
    st.title("Encryption Dashboard")
    st.info(
        "Enable OpenKCM for your organization in the marketplace. This page then shows the provisioning and your "
        "encryption environment.",
        title="OpenKCM not enabled",
        icon=":material/info:",
    )
