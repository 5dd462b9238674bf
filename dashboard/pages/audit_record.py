"""The list of records and one record opened: parts of the Audit page.

What a record says was said by somebody outside. It is drawn by elements that show text as it is, never as Markdown.
"""

from collections.abc import Sequence
from dataclasses import asdict

import streamlit as st

from dashboard.seat import Seat
from dashboard.views import audit as view
from database.audit import FoundRecord

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


def draw_list(seat: Seat, found: Sequence[FoundRecord], rows: Sequence[view.Row]) -> None:
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


def _draw_record(seat: Seat, found: FoundRecord) -> None:
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
