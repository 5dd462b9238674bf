"""The Audit page: all recorded actions of the tenant, searchable, and the integrity of the stream.

Values of a record come from external callers. They are drawn by elements that show text literally, never as Markdown.
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

_QUERY_BUDGET = timedelta(milliseconds=250)
"""How long one query takes before the page shows partial results."""

_PAGE, _TURN, _VERDICT = "audit-page", "audit-turn", "audit-verdict"


def draw(context: PageContext) -> None:
    """Draw the page, or a notice for roles without the permission."""
    st.title("Audit")
    if not context.may(Permission.VIEW_AUDIT):
        st.info(
            "Roles that manage keys cannot read the audit stream (separation of duties). Ask an administrator or "
            "an auditor of your organization.",
            title="Access denied",
            icon=":material/visibility_off:",
        )
        return
    st.caption(
        "All actions on the keys, services and settings of this tenant, in order. A change or removal of a record "
        "breaks the hash chain."
    )
    with context.database.tenant_tx(context.tenant_id) as tx:
        tenant, ends = tx.tenants.get(), tx.audit.ends()
    if tenant is not None and tenant.state not in UNDER_WAY:
        draw_standing(context, tenant)
    requested, answer = _draw_chain(context, ends)
    if ends.last is None:
        st.header("Records")
        st.info("The first record appears after the first action of this tenant.", title="No records")
    else:
        _draw_search(context)
    if requested:  # last, so that the rest of the page is complete while it runs
        _verify(context, answer)


def _draw_chain(context: PageContext, ends: StreamBounds) -> tuple[bool, DeltaGenerator]:
    """Draw the state of the chain; return whether to verify it, and the placeholder for the result."""
    status = view.status(ends, stream.signature(context.database, context.tenant_id, ends), context.now())
    with st.container(border=True):
        with st.container(horizontal=True):
            st.metric("Records", status.records)
            st.metric("Signed up to record", status.signed)
            if status.signature:
                st.metric("Signature", status.signature)
        if status.alarming:
            st.error(
                f"{status.said} {view.BROKEN_ADVICE}", title="Audit stream integrity error", icon=":material/gpp_bad:"
            )
        else:
            st.write(status.said)
        if ends.archived is not None:
            st.caption(
                f"Records 1 to {ends.archived.seq:,} are in signed archive files. Ask the operator of the platform for "
                "them; a download here begins after them and verifies together with them."
            )
        # Drawn only when expanded: the browser code for code blocks is the slowest part of this page.
        hidden = st.expander("Hash of the last record", key="audit-head", on_change="rerun")
        if hidden.open:
            hidden.caption("It covers all records before it: a change of any record changes this hash.")
            hidden.code(status.head, language=None, wrap_lines=True)
        if status.fingerprint:
            key = st.expander("Fingerprint of the signing key", key="audit-key", on_change="rerun")
            if key.open:
                key.caption(
                    "SHA-256 of the public key that verified the signature. Compare it with the fingerprint that "
                    "you stored earlier. A download is verified offline with that key (`openkcm audit verify`)."
                )
                key.code(status.fingerprint, language=None, wrap_lines=True)
        requested = st.button(
            "Verify entire stream",
            key="audit-verify",
            icon=":material/verified:",
            help="Reads every record and recomputes the hash chain. Changes nothing; stops when you leave the page.",
        )
        answer = st.empty()
        verdict = st.session_state.get(_VERDICT)
        if verdict is not None and verdict[0] == context.tenant_id and not requested:
            _draw_verdict(answer, intact=verdict[1], text=verdict[2])
    return requested, answer


def _verify(context: PageContext, answer: DeltaGenerator) -> None:
    st.session_state.pop(_VERDICT, None)
    bar = answer.progress(0.0, "Reading stream…")

    def progressed(done: int, of: int) -> None:
        bar.progress(done / of, f"{done:,} of {of:,} records verified…")

    try:
        verified = stream.verify(context.database, context.tenant_id, progressed)
    except AuditBroken as broken:
        intact, text = False, f"{words.at(context.now())}: {broken.message}. {view.BROKEN_ADVICE}"
    else:
        intact, text = True, view.verdict(verified.records, verified.signed, verified.seconds, context.now())
    st.session_state[_VERDICT] = (context.tenant_id, intact, text)
    _draw_verdict(answer, intact=intact, text=text)


def _draw_verdict(answer: DeltaGenerator, *, intact: bool, text: str) -> None:
    if intact:
        answer.success(text, title="Stream verified", icon=":material/verified:")
    else:
        answer.error(text, title="Verification failed", icon=":material/gpp_bad:")


@part
def _draw_search(context: PageContext) -> None:
    """Draw filters and results."""
    chosen = draw_filters(context)
    _draw_records(context, _page(context, chosen))
    draw_downloads(context, chosen)


def _page(context: PageContext, chosen: AuditFilter) -> Page:
    """Return the page to show: the current one, unless the filter or the page has changed."""
    page: Page | None = st.session_state.get(_PAGE)
    how: PageDirection | None = st.session_state.pop(_TURN, None)
    if page is None or page.tenant_id != context.tenant_id or page.chosen != chosen:
        page = paging.newest(context.database, context.tenant_id, chosen, _deadline(context))
    elif how is not None:
        page = paging.turn(context.database, page, how, _deadline(context))
        if how is PageDirection.FURTHER:
            page = _complete_page(context, page)
    else:
        return page
    st.session_state[_PAGE] = page
    forget()
    return page


def _complete_page(context: PageContext, page: Page) -> Page:
    """Continue the search until the page is complete; a new request of the user ends it."""
    if not page.rest:
        return page
    bar = st.progress(0.0, "Searching…")
    while page.rest:
        done = 1 - len(page.rest) / len(page.numbers)
        bar.progress(done, f"Searching, {words.count(len(page.rest), 'record')} to go…")
        page = paging.turn(context.database, page, PageDirection.FURTHER, _deadline(context))
    bar.empty()
    return page


def _deadline(context: PageContext) -> Callable[[], bool]:
    """Return a function that reports whether the time budget of a query that starts now is used up."""
    until = context.now() + _QUERY_BUDGET
    return lambda: context.now() > until


def _draw_records(context: PageContext, page: Page) -> None:
    rows = [view.row(found, context.now()) for found in page.found]
    if rows:
        draw_list(context, page.found, rows)
        intact, text = view.links(rows)
        if intact:
            st.caption(text)
        else:
            st.error(f"{text} {view.BROKEN_ADVICE}", title="Hash chain broken", icon=":material/gpp_bad:")
    elif not page.rest:
        st.info("Change or remove a filter.", title="No matching records", icon=":material/search_off:")
    if page.rest:
        st.info(view.search_progress(len(rows), page.rest, backwards=page.backwards), icon=":material/history:")
    with st.container(horizontal=True):
        if page.rest:
            label = "Search older records" if page.backwards else "Search further"
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
    st.caption(f"As of {context.now().astimezone(UTC):%H:%M:%S} UTC")


def _ask(how: PageDirection) -> None:
    st.session_state[_TURN] = how


_LONGEST = 200
_FIRST_DAY = date(2020, 1, 1)


def draw_filters(context: PageContext) -> AuditFilter:
    """Draw the filters and return the selection."""
    st.header("Records")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        text = st.text_input(
            "Search",
            key="audit-text",
            icon=":material/search:",
            placeholder="Search records",
            max_chars=_LONGEST,
        )
        names = st.multiselect(
            "Event",
            view.choices(),
            format_func=view.choice_label,
            key="audit-names",
            placeholder="any",
        )
    outcomes: list[Outcome] = st.multiselect(
        "Outcome",
        list(view.OUTCOMES),
        format_func=lambda outcome: view.OUTCOMES[outcome],
        key="audit-outcomes",
        placeholder="any",
    )
    today = context.now().astimezone(UTC).date()
    with st.expander("More filters", key="audit-more"), st.container(horizontal=True):
        actor = st.text_input("Actor", key="audit-actor", placeholder="person or service", max_chars=_LONGEST)
        subject = st.text_input("Object", key="audit-subject", placeholder="object of the action", max_chars=_LONGEST)
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


def draw_downloads(context: PageContext, chosen: AuditFilter) -> None:
    """Draw the links to the stream as a file."""
    st.header("Download")
    st.caption(
        "JSON Lines: each record exactly as it was hashed, with its number and chain hash, so that the whole "
        "stream can be verified offline. Each download is recorded."
    )
    address = f"{of_tenant(context.tenant_id).root}/{audit_query.DOWNLOAD}"
    with st.container(horizontal=True):
        if chosen != AuditFilter():
            st.link_button(
                "Download filtered records",
                f"{address}?{audit_query.encode(chosen)}",
                key="audit-download-chosen",
                icon=":material/filter_alt:",
            )
        st.link_button("Download entire stream", address, key="audit-download", icon=":material/download:")


_TABLE = "audit-table"
_HEIGHT = 460

_COLUMNS = {
    "time": st.column_config.TextColumn("Time (UTC)", width=150),
    "what": st.column_config.TextColumn("Event", width=200),
    "outcome": st.column_config.MultiselectColumn(
        "Outcome", options=list(view.OUTCOMES.values()), color=["green", "orange", "red", "blue"], width=90
    ),
    "actor": st.column_config.TextColumn("Actor", width=190),
    "subject": st.column_config.TextColumn("Object", width=190),
    "ago": st.column_config.TextColumn("Age", width=110),
    "source": st.column_config.TextColumn("Source", width=100),
    "code": st.column_config.TextColumn("Code", width=180),
    "correlation_id": st.column_config.TextColumn("Correlation id", width=180),
    "seq": st.column_config.NumberColumn("Record", format="localized", width=90),
}


def forget() -> None:
    """Clear the selection of the list."""
    st.session_state[_TABLE] = st.session_state.get(_TABLE, 0) + 1


def draw_list(context: PageContext, found: Sequence[FoundRecord], rows: Sequence[view.Row]) -> None:
    """Draw the list; a selected record opens in a dialog."""
    state = st.dataframe(
        [asdict(row) | {"outcome": [row.outcome]} for row in rows],
        key=f"{_TABLE}-{st.session_state.get(_TABLE, 0)}",
        column_order=list(_COLUMNS),
        column_config=_COLUMNS,
        hide_index=True,
        height=_HEIGHT,
        on_select="rerun",
        selection_mode="single-row",
        alt="Audit records, newest first; select one for details",
    )
    st.caption("Select a record for details.")
    for number in state.selection.rows:
        st.dialog("Audit record", width="large", on_dismiss=forget)(_draw_record)(context, found[number])


def _draw_record(context: PageContext, found: FoundRecord) -> None:
    record = view.details(found, context.now())
    st.subheader(record.title)
    if record.linked:
        st.badge("Chain verified", icon=":material/verified:", color="green")
    else:
        st.error(view.BROKEN_ADVICE, title="Hash chain broken at this record", icon=":material/gpp_bad:")
    for label, value in record.fields:
        with st.container(gap=None):
            st.caption(label)
            st.text(value)
    st.caption("Hashed text, appended to the previous hash (SHA-256)")
    st.code(record.raw, language="json", wrap_lines=True)
