"""The Compliance page: how the tenant stands at a glance, and signed reports for auditors."""

from datetime import UTC, date
from uuid import uuid4

import streamlit as st

from compliance.reports.periods import Period
from compliance.reports.snapshot import read_stated
from core.errors.compliance import PeriodRefused
from core.tenants.roles import Permission
from dashboard.audit import stream
from dashboard.audit import view as audit
from dashboard.auth.routes import of_tenant
from dashboard.components.fragments import ICONS, admitted, draw_refusal, draw_unknown, polling_fragment
from dashboard.components.tenant_status import UNDER_WAY
from dashboard.page_context import PageContext
from dashboard.reports import actions as report_actions
from dashboard.reports import view as compliance
from dashboard.reports import view as report_query
from dashboard.reports import view as reports
from dashboard.reports.view import Choice, Row
from dashboard.status_banner.section import draw_standing
from openkcm.errors import OpenKcmError
from openkcm.verification.reports.signed_file import ReportFormat
from workflows.client.workflow_client import OperationTimeout

_FIRST_DAY = date(2020, 1, 1)
_ANSWER = "compliance-answer"
_VERIFY = "openkcm audit verify EXPORT --report REPORT --public-key KEY"


def draw(seat: PageContext) -> None:
    """Draw the page."""
    if not admitted(seat):
        return
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tenant, ends = tx.tenants.get(), tx.audit.ends()
        stated = None if tenant is None else read_stated(tx, seat.now().astimezone(UTC))
    if tenant is None or stated is None:
        draw_unknown()
        return
    st.title("Compliance")
    st.caption("How your tenant stands now, and signed reports of any period that an auditor can check without us.")
    if tenant.state not in UNDER_WAY:
        draw_standing(seat, tenant)
    chain = audit.status(ends, stream.signature(seat.database, seat.tenant_id, ends), seat.now())
    st.header("At a glance")
    with st.grid(3, min_column_width=280):
        for line in compliance.lines(stated, chain, seat.now()):
            with st.container(border=True, height="stretch", gap="xsmall"):
                st.markdown(f"{ICONS[line.tone]} **{line.label}**")
                st.markdown(line.value)
                st.caption(line.detail)
                if line.advice:
                    st.caption(f":material/arrow_forward: {line.advice}")
    if clauses := compliance.clauses(stated.checks):
        with st.expander("Isolation, clause by clause", key="compliance-clauses", icon=":material/fact_check:"):
            st.markdown("  \n".join(f"{ICONS[row.tone]} **{row.clause}** {row.means}: {row.how}" for row in clauses))
    _draw_reports(seat)


def _draw_reports(seat: PageContext) -> None:
    st.header("Reports")
    if not seat.may(Permission.VIEW_AUDIT):
        st.info(
            "A report shows who did what with your keys, and whoever changes keys does not also check who changed them."
            " Ask an administrator or an auditor of your organization.",
            title="Your role does not show reports",
            icon=":material/visibility_off:",
        )
        return
    _draw_maker(seat)
    _draw_list(seat)
    with st.expander("How to check a report by yourself", key="compliance-verify", icon=":material/verified:"):
        st.markdown(
            "REPORT is a file from above, PDF, HTML or JSON. EXPORT is the whole stream from the page Audit, made after"
            " the report. KEY is the platform's public key (`openkcmctl audit public-key`), which you note once, by a way"
            " you trust. The command asks nobody: it finds a changed figure as well as a changed record."
        )
        st.code(_VERIFY, language=None, wrap_lines=True)


def _draw_maker(seat: PageContext) -> None:
    with st.container(border=True):
        choice = st.radio("Period", [one.value for one in Choice], horizontal=True, key="compliance-period")
        chosen = _period(seat, choice)
        if chosen is not None:
            st.caption(f"{reports.said(*chosen)}. Days are UTC days. Each report is itself put on record.")
        if st.button(
            "Create report",
            key="compliance-create",
            type="primary",
            icon=":material/note_add:",
            disabled=chosen is None,
        ) and (chosen is not None):
            _make(seat, uuid4().hex, chosen)


def _period(seat: PageContext, choice: str) -> Period | None:
    """Return the chosen period; says why where there can be no report of it."""
    picked: tuple[date, ...] = ()
    if choice == Choice.CUSTOM:
        today = seat.now().astimezone(UTC).date()
        picked = st.date_input(
            "First and last day (UTC)",
            value=(today.replace(day=1), today),
            min_value=_FIRST_DAY,
            max_value=today,
            format="YYYY-MM-DD",
            key="compliance-days",
            help="Three years at most.",
        )
    try:
        return reports.period(choice, picked, seat.now())
    except PeriodRefused as refused:
        draw_refusal(refused, "There can be no report of these days")
        return None


def _make(seat: PageContext, report_id: str, period: Period) -> None:
    """Have it made, and say why where it is not; a report that waits is in the list."""
    try:
        with st.spinner("Counting, setting and signing the report…"):
            report_actions.make(seat, report_id, period)
    except OperationTimeout:
        st.info("It takes longer than usual and goes on by itself, also when you close this page.")
    except OpenKcmError as failed:
        draw_refusal(failed, "The report was not made")
    else:
        st.success("The report is made and signed; it is the first below.", icon=":material/check_circle:")


@polling_fragment
def _draw_list(seat: PageContext) -> None:
    """Draw the reports on record; one that is being made appears by itself when it is done."""
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        found = tx.reports.latest()
    if not found:
        st.caption("No report was made yet. What you create appears here, to be downloaded as often as you like.")
        return
    for row, one in zip(reports.rows(found, seat.now()), found, strict=True):
        with st.container(border=True):
            st.markdown(f"**{row.title}**")
            st.caption(row.words)
            if row.made:
                _draw_downloads(seat, row)
            elif row.late and st.button("Try again", key=f"compliance-again-{row.report_id}", icon=":material/replay:"):
                _make(seat, row.report_id, (one.since, one.until))


def _draw_downloads(seat: PageContext, row: Row) -> None:
    address = f"{of_tenant(seat.tenant_id).root}/{report_query.DOWNLOAD}"
    with st.container(horizontal=True):
        for form in (ReportFormat.PDF, ReportFormat.HTML, ReportFormat.JSON):
            st.link_button(
                f"Download {form.upper()}",
                f"{address}?{report_query.encode(row.report_id, form)}",
                key=f"compliance-{form}-{row.report_id}",
                icon=":material/download:",
            )
