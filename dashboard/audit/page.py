"""The Audit page: everything that was done in the tenant's name, searchable, and whether the stream is whole.

What of the audit stream is looked for, and what of it is downloaded: parts of the Audit page.

The list of records and one record opened: parts of the Audit page.

What a record says was said by somebody outside. It is drawn by elements that show text as it is, never as Markdown.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, date, timedelta

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.audit import AuditFilter
from core.tenants.roles import Permission
from dashboard.audit import stream, view
from dashboard.audit import stream as paging
from dashboard.audit import view as audit_query
from dashboard.audit.stream import Page, PageDirection
from dashboard.auth.routes import of_tenant
from dashboard.components import formatting as words
from dashboard.components.fragments import part
from dashboard.components.tenant_status import UNDER_WAY
from dashboard.page_context import PageContext
from dashboard.status_banner.section import draw_standing
from database.audit import FoundRecord, StreamBounds
from openkcm.contract.audit_events import Outcome
from openkcm.errors import AuditBroken

_PATIENCE = timedelta(milliseconds=250)
"""How long one look takes before the page shows what there is."""

_PAGE, _TURN, _VERDICT = "audit-page", "audit-turn", "audit-verdict"


def draw(seat: PageContext) -> None:
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


def _draw_chain(seat: PageContext, ends: StreamBounds) -> tuple[bool, DeltaGenerator]:
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


def _verify(seat: PageContext, answer: DeltaGenerator) -> None:
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
def _draw_search(seat: PageContext) -> None:
    """Draw what is looked for and what is found."""
    chosen = draw_filters(seat)
    _draw_records(seat, _page(seat, chosen))
    draw_downloads(seat, chosen)


def _page(seat: PageContext, chosen: AuditFilter) -> Page:
    """Return what is to be shown: the page that was, unless another filter or another page is asked for."""
    page: Page | None = st.session_state.get(_PAGE)
    how: PageDirection | None = st.session_state.pop(_TURN, None)
    if page is None or page.tenant_id != seat.tenant_id or page.chosen != chosen:
        page = paging.newest(seat.database, seat.tenant_id, chosen, _tired(seat))
    elif how is not None:
        page = paging.turn(seat.database, page, how, _tired(seat))
        if how is PageDirection.FURTHER:
            page = _patiently(seat, page)
    else:
        return page
    st.session_state[_PAGE] = page
    forget()
    return page


def _patiently(seat: PageContext, page: Page) -> Page:
    """Look on until the page is whole; whoever leaves or asks for something else ends it."""
    if not page.rest:
        return page
    bar = st.progress(0.0, "Looking further…")
    while page.rest:
        done = 1 - len(page.rest) / len(page.numbers)
        bar.progress(done, f"Looking further, {words.count(len(page.rest), 'record')} to go…")
        page = paging.turn(seat.database, page, PageDirection.FURTHER, _tired(seat))
    bar.empty()
    return page


def _tired(seat: PageContext) -> Callable[[], bool]:
    """Return what says whether a look that begins now has taken long enough."""
    until = seat.now() + _PATIENCE
    return lambda: seat.now() > until


def _draw_records(seat: PageContext, page: Page) -> None:
    rows = [view.row(found, seat.now()) for found in page.found]
    if rows:
        draw_list(seat, page.found, rows)
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
            st.button(
                label, key="audit-further", icon=":material/manage_search:", on_click=_ask, args=[PageDirection.FURTHER]
            )
        for how, label, icon, left in (
            (PageDirection.NEWEST, "Newest", "first_page", True),
            (PageDirection.NEWER, "Newer", "chevron_left", bool(page.newer)),
            (PageDirection.OLDER, "Older", "chevron_right", bool(page.older)),
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


def _ask(how: PageDirection) -> None:
    st.session_state[_TURN] = how


_LONGEST = 200
_FIRST_DAY = date(2020, 1, 1)


def draw_filters(seat: PageContext) -> AuditFilter:
    """Draw the filters and return what is chosen."""
    st.header("Records")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        text = st.text_input(
            "Search",
            key="audit-text",
            icon=":material/search:",
            placeholder="any text of it",
            max_chars=_LONGEST,
        )
        names = st.multiselect(
            "What happened",
            view.choices(),
            format_func=view.choice_label,
            key="audit-names",
            placeholder="everything",
        )
    outcomes: list[Outcome] = st.multiselect(
        "Outcome",
        list(view.OUTCOMES),
        format_func=lambda outcome: view.OUTCOMES[outcome],
        key="audit-outcomes",
        placeholder="any",
    )
    today = seat.now().astimezone(UTC).date()
    with st.expander("Who, what object, when", key="audit-more"), st.container(horizontal=True):
        actor = st.text_input("Who", key="audit-actor", placeholder="a person or a service", max_chars=_LONGEST)
        subject = st.text_input("Object", key="audit-subject", placeholder="what was acted on", max_chars=_LONGEST)
        since = st.date_input("From (UTC)", None, key="audit-since", min_value=_FIRST_DAY, max_value=today)
        until = st.date_input("Through (UTC)", None, key="audit-until", min_value=_FIRST_DAY, max_value=today)
    return AuditFilter(
        names=frozenset(names),
        outcomes=frozenset(outcomes),
        actor=actor.strip(),
        subject=subject.strip(),
        text=text.strip(),
        since=view.day_begins(since),
        until=view.day_ends(until),
    )


def draw_downloads(seat: PageContext, chosen: AuditFilter) -> None:
    """Draw the links to the stream as a file."""
    st.header("Download")
    st.caption(
        "JSON Lines: each record exactly as it was hashed, with its number and chain hash, so that the whole stream can"
        " be verified without us. Each download is itself put on record."
    )
    address = f"{of_tenant(seat.tenant_id).root}/{audit_query.DOWNLOAD}"
    with st.container(horizontal=True):
        if chosen != AuditFilter():
            st.link_button(
                "Download what fits the filters",
                f"{address}?{audit_query.encode(chosen)}",
                key="audit-download-chosen",
                icon=":material/filter_alt:",
            )
        st.link_button("Download the whole stream", address, key="audit-download", icon=":material/download:")


_TABLE = "audit-table"
_HEIGHT = 460

_COLUMNS = {
    "time": st.column_config.TextColumn("Time (UTC)", width=150),
    "what": st.column_config.TextColumn("What happened", width=200),
    "outcome": st.column_config.MultiselectColumn(
        "Outcome", options=list(view.OUTCOMES.values()), color=["green", "orange", "red", "blue"], width=90
    ),
    "actor": st.column_config.TextColumn("Who", width=190),
    "subject": st.column_config.TextColumn("Object", width=190),
    "ago": st.column_config.TextColumn("When", width=110),
    "source": st.column_config.TextColumn("From", width=100),
    "code": st.column_config.TextColumn("Code", width=180),
    "correlation_id": st.column_config.TextColumn("Correlation id", width=180),
    "seq": st.column_config.NumberColumn("Record", format="localized", width=90),
}


def forget() -> None:
    """Let nothing be selected in the list that is drawn next."""
    st.session_state[_TABLE] = st.session_state.get(_TABLE, 0) + 1


def draw_list(seat: PageContext, found: Sequence[FoundRecord], rows: Sequence[view.Row]) -> None:
    """Draw the list; the record that somebody selects is opened over it."""
    state = st.dataframe(
        [asdict(row) | {"outcome": [row.outcome]} for row in rows],
        key=f"{_TABLE}-{st.session_state.get(_TABLE, 0)}",
        column_order=list(_COLUMNS),
        column_config=_COLUMNS,
        hide_index=True,
        height=_HEIGHT,
        on_select="rerun",
        selection_mode="single-row",
        alt="Audit records, newest first; select one to open it",
    )
    st.caption("Select a record to open it.")
    for number in state.selection.rows:
        st.dialog("Audit record", width="large", on_dismiss=forget)(_draw_record)(seat, found[number])


def _draw_record(seat: PageContext, found: FoundRecord) -> None:
    record = view.details(found, seat.now())
    st.subheader(record.title)
    if record.linked:
        st.badge("Fits the chain", icon=":material/verified:", color="green")
    else:
        st.error(view.BROKEN_ADVICE, title="This record does not fit the chain", icon=":material/gpp_bad:")
    for label, value in record.fields:
        with st.container(gap=None):
            st.caption(label)
            st.text(value)
    st.caption("The text that was hashed, after the hash before it (SHA-256)")
    st.code(record.raw, language="json", wrap_lines=True)
