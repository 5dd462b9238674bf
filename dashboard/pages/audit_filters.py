"""What of the audit stream is looked for, and what of it is downloaded: parts of the Audit page."""

from datetime import UTC, date

import streamlit as st

from core.audit import AuditFilter
from dashboard.places import of_tenant
from dashboard.seat import Seat
from dashboard.views import audit as view
from dashboard.views import audit_query
from openkcm.contract.audit_events import Outcome

_LONGEST = 200
_FIRST_DAY = date(2020, 1, 1)


def draw(seat: Seat) -> AuditFilter:
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


def draw_downloads(seat: Seat, chosen: AuditFilter) -> None:
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
