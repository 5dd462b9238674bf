"""The records of the Audit page: filters, bars of the hours, list, one open record, and downloads.

The address has the filters and the open record (`address`). Values of a record come from external callers. They are
drawn by elements that show text literally, never as Markdown.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial

import streamlit as st

from core.audit import AuditFilter
from dashboard.audit import address, hours, view
from dashboard.audit import stream as paging
from dashboard.audit.address import AuditQuery
from dashboard.audit.hours import HourBars
from dashboard.audit.stream import Page, PageDirection
from dashboard.auth.routes import of_tenant
from dashboard.components import formatting as words
from dashboard.components.address import change_query, draw_ignored
from dashboard.components.fragments import draw_once_open, draw_tabs, part, polling_fragment
from dashboard.components.local_time import shown_time
from dashboard.components.selection import select, selected
from dashboard.page_context import PageContext
from database.audit import FoundRecord

_QUERY_BUDGET = timedelta(milliseconds=250)
"""How long one query takes before the page shows partial results."""
_FIRST_DAY = datetime(2020, 1, 1)  # noqa: DTZ001 - the widget has times without a zone, which are UTC

_PAGE, _TURN, _ADDRESS, _IGNORED = "audit-page", "audit-turn", "audit-address", "audit-ignored"
_TABLE, _BARS, _LIVE = "audit-table", "audit-bars", "audit-live"
_RECORD_SHOWN = "audit-record-shown"
_CLOSED = "audit-records-closed"
"""The number of records that were closed: the list after each is another widget, without a selection."""
_WANTED, _VERSION = "audit-wanted", "audit-version"
_HEIGHT = 460


@part
def draw_search(context: PageContext) -> None:
    """Draw filters and results."""
    st.header("Records")
    query = _draw_filters(context)
    if st.session_state.get(_LIVE) and query.until is None:
        _draw_live(context, query)
    else:
        _draw_results(context, query, _draw_page)
    _draw_downloads(context, query.filter())


def _draw_opened(context: PageContext) -> None:
    """Draw the record that the address names in a dialog; end the dialog with a run of the whole page.

    A refresh that the browser gets after the user has closed the dialog opens it again, and a run of this part alone
    removes no dialog from the page.
    """
    seq = address.parse_seq(selected(address.SEQ))
    was_shown = st.session_state.get(_RECORD_SHOWN, False)
    st.session_state[_RECORD_SHOWN] = seq is not None
    if seq is not None:
        st.dialog("Audit record", width="large", on_dismiss=_close)(_draw_record)(context, seq)
    elif was_shown:
        st.session_state[_CLOSED] = _closed() + 1
        st.rerun()


def _close() -> None:
    select(address.SEQ, "")


def _closed() -> int:
    return int(st.session_state.get(_CLOSED, 0))


def _table_key() -> str:
    return f"{_TABLE}-{_closed()}"


def _key(name: str) -> str:
    """Return the key of a filter; `_apply` changes it."""
    version = st.session_state.get(_VERSION, 0)
    return f"audit-{name}-{version}" if version else f"audit-{name}"


def _read_address() -> None:
    """Set the filters from the address when it is another one than they have written."""
    now = _address()
    if st.session_state.get(_ADDRESS) == now and _key("search") in st.session_state:
        return
    query, ignored = address.parse(now)
    st.session_state[_ADDRESS], st.session_state[_IGNORED] = now, ignored
    _set_filters(query)
    st.session_state.setdefault(_LIVE, address.LIVE in st.query_params)


def _address() -> dict[str, tuple[str, ...]]:
    return {name: tuple(values) for name in address.FILTERS if (values := st.query_params.get_all(name))}


def _set_filters(query: AuditQuery) -> None:
    for name, time in (("from", query.since), ("to", query.until)):
        st.session_state[_key(name)] = None if time is None else time.astimezone(UTC).replace(tzinfo=None)
    for name in ("service", "operation", "outcome", "event"):
        st.session_state[_key(name)] = list(getattr(query, name))
    for name in ("actor", "object", "search"):
        st.session_state[_key(name)] = getattr(query, name)


def _chosen() -> AuditQuery:
    """Return the filters that the widgets have."""
    state = st.session_state
    since, until = (
        None if (time := state[_key(name)]) is None else time.replace(tzinfo=UTC) for name in ("from", "to")
    )
    service, operation, outcome, event = (
        tuple(state[_key(name)]) for name in ("service", "operation", "outcome", "event")
    )
    texts = (str(state[_key(name)]) for name in ("actor", "object", "search"))
    return AuditQuery(since, until, service, operation, outcome, event, *texts)


def _write_address() -> None:
    _go_to(_chosen())


def _want(query: AuditQuery) -> None:
    """Show the records of a query, from a callback: the run that calls it can be that of another part of the page."""
    st.session_state[_WANTED] = query


def _apply() -> None:
    """Set the filters to the wanted query, as other widgets: a request on its way has the values of the former ones."""
    query: AuditQuery | None = st.session_state.pop(_WANTED, None)
    if query is not None:
        st.session_state[_VERSION] = st.session_state.get(_VERSION, 0) + 1
        _set_filters(query)
        _go_to(query)
        st.session_state[_ADDRESS] = _address()


def _go_to(query: AuditQuery) -> None:
    wanted = query.address()
    change_query({name: wanted.get(name, "") for name in (*address.FILTERS, address.SEQ)})


def _write_live() -> None:
    change_query({address.LIVE: "1" if st.session_state[_LIVE] else ""})


def _draw_filters(context: PageContext) -> AuditQuery:
    """Draw the filters and return the selection."""
    _apply()
    _read_address()
    with context.database.tenant_tx(context.tenant_id) as tx:
        services, operations = tx.audit.services_and_operations()
    with st.grid(3, gap="small", min_column_width=200):
        _draw_text("search", "Search records", "any text of a record", icon=":material/search:")
        _draw_choice("service", "Service", services)
        _draw_choice("operation", "Operation", operations)
    more = draw_once_open(_chosen().more_filters(), key="audit-more", version=st.session_state.get(_VERSION, 0))
    if more is not None:
        with more, st.grid(3, gap="small", min_column_width=200):
            _draw_more_filters(context)
    query = _chosen()
    draw_ignored(st.session_state.get(_IGNORED, ()))
    with st.container(horizontal=True, vertical_alignment="center"):
        st.toggle(
            "Live",
            key=_LIVE,
            on_change=_write_live,
            disabled=query.until is not None,
            help="Shows new records within 3 seconds. It needs a range without an end.",
        )
        st.button(
            "Clear filters",
            key="audit-clear",
            icon=":material/filter_alt_off:",
            on_click=_want,
            args=[AuditQuery()],
            disabled=query == AuditQuery(),
        )
    return query


def _draw_more_filters(context: PageContext) -> None:
    for name, label in (("from", "From (UTC)"), ("to", "To (UTC)")):
        st.datetime_input(
            label,
            None,
            key=_key(name),
            min_value=_FIRST_DAY,
            max_value=context.now().astimezone(UTC).replace(tzinfo=None) + timedelta(days=366),
            step=timedelta(minutes=1),
            format="YYYY-MM-DD",
            on_change=_write_address,
            help=_local_range(name),
        )
    _draw_choice("outcome", "Outcome", [str(one) for one in view.OUTCOMES], _outcome_label)
    _draw_choice("event", "Event", view.choices(), view.choice_label)
    _draw_text("actor", "Actor", "person or service")
    _draw_text("object", "Object", "resource or object")


def _outcome_label(value: str) -> str:
    return next(label for outcome, label in view.OUTCOMES.items() if outcome == value)


def _local_range(name: str) -> str:
    """Return the help of a time: its local time, and which of the two ends is part of the range."""
    chosen = st.session_state[_key(name)]
    local = "" if chosen is None else view.clock_in(chosen.replace(tzinfo=UTC), st.context.timezone)
    end = "The range ends before this minute." if name == "to" else "The range begins with this minute."
    return f"{end} Local time: {local[:16]}." if local else end


def _draw_text(name: str, label: str, placeholder: str, icon: str | None = None) -> None:
    st.text_input(
        label,
        key=_key(name),
        icon=icon,
        placeholder=placeholder,
        max_chars=address.LONGEST,
        on_change=_write_address,
    )


def _draw_choice(name: str, label: str, options: Sequence[str], shown: Callable[[str], str] = str) -> None:
    """Draw a choice; what the address names is an option also when no record has it."""
    chosen = st.session_state[_key(name)]
    every = [*options, *(one for one in chosen if one not in options)]
    st.multiselect(label, every, format_func=shown, key=_key(name), placeholder="any", on_change=_write_address)


@polling_fragment
def _draw_live(context: PageContext, query: AuditQuery) -> None:
    if _WANTED in st.session_state:
        st.rerun()  # A selected hour changes the filters, which are outside of this fragment.
    _draw_results(context, query, partial(_draw_records, live=True))


@part
def _draw_page(context: PageContext, query: AuditQuery) -> None:
    _draw_records(context, query, live=False)


def _draw_results(
    context: PageContext, query: AuditQuery, draw_list: Callable[[PageContext, AuditQuery], None]
) -> None:
    """Draw the bars and the list. After a change of the filters the list appears first, while the bars are counted.

    On a page that is just opened the bars appear first, because they would move the list.
    """
    parts = [(st.container(), _draw_bars), (st.container(), draw_list)]
    for place, draw in reversed(parts) if _table_key() in st.session_state else parts:
        with place:
            draw(context, query)


def _draw_bars(context: PageContext, query: AuditQuery) -> None:
    now = context.now()
    with context.database.tenant_tx(context.tenant_id) as tx:
        counts = tx.audit.hours(hours.window(query, now).filter())
    shown = hours.bars(counts, query, now)
    if not shown.bars:
        st.caption(shown.summary())
        return
    names = ("Answered", "Refused or failed")
    # A selected bar is a position in these bars: the bars after a selection are another widget, without one.
    version = st.session_state.get(_VERSION, 0)
    chart_key, table_key = f"{_BARS}-{version}", f"{_BARS}-table-{version}"

    def draw_chart() -> None:
        st.echarts_chart(
            {
                "animation": False,
                # Patterns as well as colours: series stay distinguishable in print and for colour-blind users.
                "aria": {"enabled": True, "decal": {"show": True}},
                "tooltip": {"trigger": "axis", "valueFormatter": "localized"},
                "legend": {"top": 0},
                "grid": {"left": 8, "right": 8, "top": 32, "bottom": 8, "containLabel": True},
                "xAxis": {"type": "category", "data": [bar.label for bar in shown.bars]},
                "yAxis": {"type": "value", "minInterval": 1},
                "series": [
                    {
                        "type": "bar",
                        "stack": "all",
                        "name": name,
                        "selectedMode": "single",
                        "emphasis": {"disabled": True},
                        "data": list(data),
                    }
                    for name, data in zip(
                        names, zip(*((bar.answered, bar.not_answered) for bar in shown.bars), strict=True), strict=True
                    )
                ],
            },
            height=180,
            key=chart_key,
            on_select=partial(_select_bar, chart_key, shown, query),
            alt=shown.summary(),
        )

    def draw_table() -> None:
        st.dataframe(
            [
                {"Hour (UTC)": bar.label, names[0]: bar.answered, names[1]: bar.not_answered}
                for bar in reversed(shown.bars)
            ],
            hide_index=True,
            height=180,
            key=table_key,
            on_select=partial(_select_hour, table_key, shown, query),
            selection_mode="single-row",
            alt="Records by hour, newest first; select one to show its records",
        )

    draw_tabs({"Chart": draw_chart, "Table": draw_table}, key="audit-hours")
    cut = f" Only the last {hours.MOST} hours of the range are shown." if shown.is_cut else ""
    st.caption(
        f"{shown.summary()} Counted by range, service, operation, event and outcome; not by actor, object and search. "
        f"One record can count several operations of a service. Select an hour to show only its records.{cut}"
    )


def _select_bar(key: str, shown: HourBars, query: AuditQuery) -> None:
    groups = st.session_state[key]["selection"]["selected"]
    _narrow(shown, query, [index for group in groups for index in group["data_indices"]])


def _select_hour(key: str, shown: HourBars, query: AuditQuery) -> None:
    _narrow(shown, query, [len(shown.bars) - 1 - row for row in st.session_state[key]["selection"]["rows"]])


def _narrow(shown: HourBars, query: AuditQuery, positions: Sequence[int]) -> None:
    """Show only the records of a selected hour."""
    if positions and positions[0] < len(shown.bars):
        _want(hours.narrowed(query, shown.bars[positions[0]].hour))


def _page(context: PageContext, chosen: AuditFilter, *, live: bool) -> Page:
    """Return the page to show: the current one, unless filter or page has changed, or it is the newest one and live."""
    page: Page | None = st.session_state.get(_PAGE)
    how: PageDirection | None = st.session_state.pop(_TURN, None)
    if page is None or page.tenant_id != context.tenant_id or page.chosen != chosen:
        page = paging.newest(context.database, context.tenant_id, chosen, _deadline(context))
    elif how is not None:
        page = paging.turn(context.database, page, how, _deadline(context))
        if how is PageDirection.FURTHER:
            page = _complete_page(context, page)
    elif live and not page.newer:
        page = paging.newest(context.database, context.tenant_id, chosen, _deadline(context))
    st.session_state[_PAGE] = page
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


def _draw_records(context: PageContext, query: AuditQuery, *, live: bool) -> None:
    _draw_opened(context)  # Before the list, so that a selected record is visible first.
    page = _page(context, query.filter(), live=live)
    rows = [view.row(found, st.context.timezone) for found in page.found]
    if rows:
        _draw_list(rows)
        intact, text = view.links(rows)
        if intact:
            st.caption(f"Select a record for details. {text}")
        else:
            st.error(f"{text} {view.BROKEN_ADVICE}", title="Hash chain broken", icon=":material/gpp_bad:")
    elif not page.rest:
        st.info("Change or remove a filter.", title="No matching records", icon=":material/search_off:")
    if page.rest:
        st.info(view.search_progress(len(rows), page.rest, backwards=page.backwards), icon=":material/history:")
    with st.container(horizontal=True, vertical_alignment="center"):
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
        now = context.now()
        st.caption(f"As of {shown_time(now, now)}")


def _ask(how: PageDirection) -> None:
    st.session_state[_TURN] = how


_COLUMNS = {
    "time": st.column_config.TextColumn("Time (UTC)", width=150),
    "local": st.column_config.TextColumn("Local time", width=150),
    "what": st.column_config.TextColumn("Event", width=190),
    "operation": st.column_config.TextColumn("Operation", width=100),
    "service": st.column_config.TextColumn("Service", width=110),
    "subject": st.column_config.TextColumn("Resource or object", width=190),
    "actor": st.column_config.TextColumn("Actor", width=150),
    "outcome": st.column_config.MultiselectColumn(
        "Outcome", options=list(view.OUTCOMES.values()), color=["green", "orange", "red", "blue"], width=90
    ),
    "cause": st.column_config.TextColumn("Cause", width=140),
    "times": st.column_config.NumberColumn("Operations", format="localized", width=90),
    "source": st.column_config.TextColumn("Source", width=100),
    "code": st.column_config.TextColumn("Code", width=180),
    "correlation_id": st.column_config.TextColumn("Correlation id", width=180),
    "seq": st.column_config.NumberColumn("Record", format="localized", width=90),
}


def _draw_list(rows: Sequence[view.Row]) -> None:
    """Draw the list; a selected record opens, with its number in the address."""
    st.dataframe(
        [asdict(row) | {"outcome": [row.outcome]} for row in rows],
        key=_table_key(),
        column_order=[name for name in _COLUMNS if name != "local" or any(row.local for row in rows)],
        column_config=_COLUMNS,
        hide_index=True,
        height=_HEIGHT,
        on_select=partial(_select_record, _closed(), [row.seq for row in rows]),
        selection_mode="single-row",
        alt="Audit records, newest first; select one for details",
    )


def _select_record(closed: int, numbers: Sequence[int]) -> None:
    """Open the selected record.

    Requests that are on their way when the user closes a record still have its selection, and must not open it again.
    """
    if closed != _closed():
        return
    rows = st.session_state[_table_key()]["selection"]["rows"]
    if rows and rows[0] < len(numbers):
        select(address.SEQ, str(numbers[rows[0]]))


def _draw_record(context: PageContext, seq: int) -> None:
    with context.database.tenant_tx(context.tenant_id) as tx:
        found = tx.audit.found(AuditFilter(), range(seq, seq + 1), 1, newest_first=True) if seq else ()
    for one in found:
        _draw_details(one, context.now())
    if not found:
        st.info(
            "The address names no record of this tenant that is stored here. Archived records are in signed files.",
            title="Record not found",
            icon=":material/search_off:",
        )


def _draw_details(found: FoundRecord, now: datetime) -> None:
    record = view.details(found, now, st.context.timezone)
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
    st.text(record.raw)  # The browser needs as long for a code block as for the whole dialog.


def _draw_downloads(context: PageContext, chosen: AuditFilter) -> None:
    """Draw the links to the stream as a file."""
    st.header("Download")
    st.caption(
        "JSON Lines: each record exactly as it was hashed, with its number and chain hash, so that the whole "
        "stream can be verified offline. Each download is recorded."
    )
    file = f"{of_tenant(context.tenant_id).root}/{view.DOWNLOAD}"
    with st.container(horizontal=True):
        if chosen != AuditFilter():
            st.link_button(
                "Download filtered records",
                f"{file}?{view.encode(chosen)}",
                key="audit-download-chosen",
                icon=":material/filter_alt:",
            )
        st.link_button("Download entire stream", file, key="audit-download", icon=":material/download:")
