"""The Audit page: everything that was done in the tenant's name, searchable, and whether the stream is whole."""

from collections.abc import Callable
from datetime import UTC, timedelta

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.audit import AuditFilter
from core.tenants.roles import Permission
from dashboard import paging, stream
from dashboard.pages import audit_filters, audit_record
from dashboard.pages.parts import part
from dashboard.pages.standing_notices import draw_standing
from dashboard.paging import Page, Turn
from dashboard.seat import Seat
from dashboard.views import audit as view
from dashboard.views import words
from dashboard.views.standing import UNDER_WAY
from database.audit import StreamEnds
from openkcm.errors import AuditBroken

_PATIENCE = timedelta(milliseconds=250)
"""How long one look takes before the page shows what there is."""

_PAGE, _TURN, _VERDICT = "audit-page", "audit-turn", "audit-verdict"


def draw(seat: Seat) -> None:
    """Draw the page, or say that it is not for this person."""
    st.title("Audit")
    if not seat.may(Permission.VIEW_AUDIT):
        st.info(
            "Whoever changes keys does not also check who changed them. Ask an administrator or an auditor of your"
            " organization.",
            title="Your role does not show the audit stream",
            icon=":material/visibility_off:",
        )
        return
    st.caption(
        "Everything that was done with this tenant's keys, services and settings, in order. Nothing here can be changed"
        " or removed without the chain showing it."
    )
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tenant, ends = tx.tenants.get(), tx.audit.ends()
    if tenant is not None and tenant.state not in UNDER_WAY:
        draw_standing(seat, tenant)
    asked, answer = _draw_chain(seat, ends)
    if ends.last is None:
        st.header("Records")
        st.info("The first record appears when something is done for this tenant.", title="Nothing is recorded yet")
    else:
        _draw_search(seat)
    if asked:  # at the end, so that the rest of the page stands while it runs
        _verify(seat, answer)


def _draw_chain(seat: Seat, ends: StreamEnds) -> tuple[bool, DeltaGenerator]:
    """Draw how the chain stands; return whether to verify it, and where to say what came of it."""
    status = view.status(ends, stream.signature(seat.database, seat.tenant_id, ends), seat.now())
    with st.container(border=True):
        with st.container(horizontal=True):
            st.metric("Records", status.records)
            st.metric("Signed up to record", status.signed)
            if status.signature:
                st.metric("Signature", status.signature)
        if status.alarming:
            st.error(f"{status.said} {view.BROKEN_ADVICE}", title="The stream is not whole", icon=":material/gpp_bad:")
        else:
            st.write(status.said)
        # Drawn when it is opened: the browser's code for showing code is what this page would wait for longest.
        hidden = st.expander("Hash of the last record", key="audit-head", on_change="rerun")
        if hidden.open:
            hidden.caption(
                "It stands for all records before it: whoever has it can tell whether one of them was changed."
            )
            hidden.code(status.head, language=None, wrap_lines=True)
        if status.fingerprint:
            key = st.expander("Fingerprint of the signing key", key="audit-key", on_change="rerun")
            if key.open:
                key.caption(
                    "SHA-256 of the public key by which the signature was checked. Compare it with the one that you"
                    " noted earlier: a download is verified with that key and without us (`openkcm audit verify`)."
                )
                key.code(status.fingerprint, language=None, wrap_lines=True)
        asked = st.button(
            "Verify the whole stream",
            key="audit-verify",
            icon=":material/verified:",
            help="Reads every record and computes the chain anew. Changes nothing; stops when you leave the page.",
        )
        answer = st.empty()
        verdict = st.session_state.get(_VERDICT)
        if verdict is not None and verdict[0] == seat.tenant_id and not asked:
            _say(answer, whole=verdict[1], said=verdict[2])
    return asked, answer


def _verify(seat: Seat, answer: DeltaGenerator) -> None:
    st.session_state.pop(_VERDICT, None)
    bar = answer.progress(0.0, "Reading the stream…")

    def progressed(done: int, of: int) -> None:
        bar.progress(done / of, f"{done:,} of {of:,} records verified…")

    try:
        verified = stream.verify(seat.database, seat.tenant_id, progressed)
    except AuditBroken as broken:
        whole, said = False, f"{words.at(seat.now())}: {broken.message}. {view.BROKEN_ADVICE}"
    else:
        whole, said = True, view.verdict(verified.records, verified.signed, verified.seconds, seat.now())
    st.session_state[_VERDICT] = (seat.tenant_id, whole, said)
    _say(answer, whole=whole, said=said)


def _say(answer: DeltaGenerator, *, whole: bool, said: str) -> None:
    if whole:
        answer.success(said, title="The stream is whole", icon=":material/verified:")
    else:
        answer.error(said, title="The stream is broken", icon=":material/gpp_bad:")


@part
def _draw_search(seat: Seat) -> None:
    """Draw what is looked for and what is found."""
    chosen = audit_filters.draw(seat)
    _draw_records(seat, _page(seat, chosen))
    audit_filters.draw_downloads(seat, chosen)


def _page(seat: Seat, chosen: AuditFilter) -> Page:
    """Return what is to be shown: the page that was, unless another filter or another page is asked for."""
    page: Page | None = st.session_state.get(_PAGE)
    how: Turn | None = st.session_state.pop(_TURN, None)
    if page is None or page.tenant_id != seat.tenant_id or page.chosen != chosen:
        page = paging.newest(seat.database, seat.tenant_id, chosen, _tired(seat))
    elif how is not None:
        page = paging.turn(seat.database, page, how, _tired(seat))
        if how is Turn.FURTHER:
            page = _patiently(seat, page)
    else:
        return page
    st.session_state[_PAGE] = page
    audit_record.forget()
    return page


def _patiently(seat: Seat, page: Page) -> Page:
    """Look on until the page is whole; whoever leaves or asks for something else ends it."""
    if not page.rest:
        return page
    bar = st.progress(0.0, "Looking further…")
    while page.rest:
        done = 1 - len(page.rest) / len(page.numbers)
        bar.progress(done, f"Looking further, {words.count(len(page.rest), 'record')} to go…")
        page = paging.turn(seat.database, page, Turn.FURTHER, _tired(seat))
    bar.empty()
    return page


def _tired(seat: Seat) -> Callable[[], bool]:
    """Return what says whether a look that begins now has taken long enough."""
    until = seat.now() + _PATIENCE
    return lambda: seat.now() > until


def _draw_records(seat: Seat, page: Page) -> None:
    rows = [view.row(found, seat.now()) for found in page.found]
    if rows:
        audit_record.draw_list(seat, page.found, rows)
        whole, said = view.links(rows)
        if whole:
            st.caption(said)
        else:
            st.error(f"{said} {view.BROKEN_ADVICE}", title="The chain is broken here", icon=":material/gpp_bad:")
    elif not page.rest:
        st.info("Change or remove a filter to see more.", title="No record fits", icon=":material/search_off:")
    if page.rest:
        st.info(view.looked(len(rows), page.rest, backwards=page.backwards), icon=":material/history:")
    with st.container(horizontal=True):
        if page.rest:
            label = "Search further back" if page.backwards else "Search further"
            st.button(label, key="audit-further", icon=":material/manage_search:", on_click=_ask, args=[Turn.FURTHER])
        for how, label, icon, left in (
            (Turn.NEWEST, "Newest", "first_page", True),
            (Turn.NEWER, "Newer", "chevron_left", bool(page.newer)),
            (Turn.OLDER, "Older", "chevron_right", bool(page.older)),
        ):
            st.button(
                label,
                key=f"audit-{how}",
                icon=f":material/{icon}:",
                on_click=_ask,
                args=[how],
                disabled=not left,
            )
    st.caption(f"As of {seat.now().astimezone(UTC):%H:%M:%S} UTC")


def _ask(how: Turn) -> None:
    st.session_state[_TURN] = how
