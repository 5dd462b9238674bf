"""The timeline of the page Keys: chart and table; a selected event opens its audit record."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import streamlit as st

from core.audit import AuditFilter
from core.tenants.roles import Permission
from dashboard.audit import stream
from dashboard.components.selection import newly_selected
from dashboard.keys import timeline_view as view
from dashboard.keys.timeline_view import Recorded, TimelineEvent
from dashboard.page_context import PageContext
from openkcm.contract.audit_events import StoredRecord

_SECONDS = 0.5
"""The longest search for locks; it reads the hours that have any, and only the first time in a session."""
_WANTED = AuditFilter(names=frozenset(view.STATE_EVENTS))
_SCAN, _TABLE, _CHART = "timeline.scan", "timeline.table", "timeline.chart"


@dataclass(frozen=True, slots=True)
class _Scan:
    """The found records of a tenant, newest first, among those from `first` to `last`."""

    tenant_id: str
    first: int
    last: int
    found: tuple[StoredRecord, ...] = ()


def draw(context: PageContext) -> None:
    """Draw chart and table of the newest events."""
    events, complete = read(context)
    if not events:
        st.caption(view.summary(events))
        return
    _draw_chart(context, events)
    _draw_table(context, events)
    st.caption(_explained(context, complete=complete))


def _explained(context: PageContext, *, complete: bool) -> str:
    if not context.may(Permission.VIEW_AUDIT):
        return "Locks are in the audit stream, which your role does not include."
    older = "" if complete else " Older locks are on the page Audit."
    return f"Select an event to open its audit record.{older}"


def _draw_chart(context: PageContext, events: tuple[TimelineEvent, ...]) -> None:
    state = st.echarts_chart(
        view.options(events), height=130, key=_CHART, on_select="rerun", renderer="svg", alt=view.summary(events)
    )
    _open(context, events, _CHART, [number for group in state.selection.selected for number in group["data_indices"]])


def _draw_table(context: PageContext, events: tuple[TimelineEvent, ...]) -> None:
    state = st.dataframe(
        [{"Time (UTC)": event.at, "Kind": event.lane, "Event": event.words} for event in events],
        column_config={
            "Time (UTC)": st.column_config.DatetimeColumn(format="D MMM YYYY, HH:mm:ss", timezone="UTC"),
            "Event": st.column_config.TextColumn(width="large"),
        },
        hide_index=True,
        height=145,
        key=_TABLE,
        on_select="rerun",
        selection_mode="single-row",
        alt=view.summary(events),
    )
    _open(context, events, _TABLE, state.selection.rows)


def _open(context: PageContext, events: tuple[TimelineEvent, ...], key: str, chosen: Sequence[int]) -> None:
    event = events[chosen[0]] if chosen and chosen[0] < len(events) else None
    is_new = newly_selected(key, None if event is None else f"{event.at} {event.words}")
    if is_new and event is not None and context.may(Permission.VIEW_AUDIT):
        context.navigation.go("audit", **event.query)


def read(context: PageContext) -> tuple[tuple[TimelineEvent, ...], bool]:
    """Return the events, and whether all records were searched for locks."""
    with context.database.tenant_tx(context.tenant_id) as tx:
        rows = Recorded(
            tx.rotations.all(view.MOST),
            tx.root_keys.changes(view.MOST),
            tx.approvals.latest(view.MOST),
            tx.reports.latest(view.MOST),
        )
        if not context.may(Permission.VIEW_AUDIT):  # separation of duties (core/tenants/roles.py)
            return view.timeline(rows), False
        every = tx.audit.numbers(AuditFilter())
    scan = _scanned(context, every)
    return view.timeline(replace(rows, records=scan.found)), not every or scan.first <= every[0]


def _scanned(context: PageContext, every: range) -> _Scan:
    """Search the records since the last draw in this session; the first time, all, the newest first."""
    before: _Scan | None = st.session_state.get(_SCAN)
    if before is None or before.tenant_id != context.tenant_id:
        before = _Scan(context.tenant_id, every.start, every.start - 1)
    among = range(max(every.start, before.last + 1), every.stop)
    deadline = time.monotonic() + _SECONDS
    with context.database.tenant_tx(context.tenant_id) as tx:
        result = stream.search(
            tx.audit, _WANTED, among, view.MOST, newest_first=True, expired=lambda: time.monotonic() > deadline
        )
    found = tuple(one.stored for one in result.found)
    first = result.rest.stop if result.rest else before.first
    scan = _Scan(context.tenant_id, first, max(every.stop - 1, 0), (*found, *before.found)[: view.MOST])
    st.session_state[_SCAN] = scan
    return scan
