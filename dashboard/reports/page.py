"""The Compliance page: compliance status, signed reports for auditors, isolation by clause, and readiness."""

from datetime import UTC, date, datetime
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
from dashboard.components.tenant_status import Severity
from dashboard.isolation import section as isolation_section
from dashboard.isolation import view as isolation
from dashboard.isolation.view import Check
from dashboard.page_context import PageContext
from dashboard.reports import actions as report_actions
from dashboard.reports import view as compliance
from dashboard.reports import view as report_query
from dashboard.reports import view as reports
from dashboard.reports.view import Choice, Row
from dashboard.status.measured import read_verdict
from dashboard.status.section import draw_header
from openkcm.errors import OpenKcmError
from openkcm.verification.reports.model import Snapshot
from openkcm.verification.reports.signed_file import ReportFormat
from workflows.client.updates import OperationTimeout

_FIRST_DAY = date(2020, 1, 1)
_ANSWER = "compliance-answer"
_VERIFY = "openkcm audit verify EXPORT --report REPORT --public-key KEY"


def draw(context: PageContext) -> None:
    """Draw the page."""
    if not admitted(context):
        return
    with context.database.tenant_tx(context.tenant_id) as tx:
        tenant, ends = tx.tenants.get(), tx.audit.ends()
        stated = None if tenant is None else read_stated(tx, context.now().astimezone(UTC))
        checked = isolation.check(tx.boundaries.latest_run())
    if tenant is None or stated is None:
        draw_unknown()
        return
    draw_header(context, tenant, "Compliance")
    st.caption("Current compliance status, and signed reports of any period that an auditor can verify offline.")
    chain = audit.status(ends, stream.signature(context.database, context.tenant_id, ends), context.now())
    st.header("Status")
    _draw_status(context, stated, checked, chain)
    _draw_reports(context, tenant.requested_at)
    isolation_section.draw_isolation(context)
    isolation_section.draw_readiness(context)


@polling_fragment
def _draw_status(context: PageContext, stated: Snapshot, checked: Check | None, chain: audit.Status) -> None:
    """Draw the status of each subject; what is measured refreshes, so that no line stays good after a fault."""
    with st.grid(3, min_column_width=280):
        for line in compliance.lines(stated, checked, chain, read_verdict(context)):
            with st.container(border=True, height="stretch", gap="xsmall"):
                st.markdown(f"{ICONS[line.tone]} **{line.label}**")
                st.markdown(line.value)
                st.caption(line.detail)
                if line.advice:
                    st.caption(f"Next: {line.advice}")


def _draw_reports(context: PageContext, enabled_at: datetime) -> None:
    st.header("Reports")
    if not context.may(Permission.VIEW_AUDIT):
        st.info(
            "Reports contain the audit stream. Roles that manage keys cannot read it (separation of duties). Ask "
            "an administrator or an auditor of your organization.",
            title="Access denied",
            icon=":material/visibility_off:",
        )
        return
    _draw_maker(context, enabled_at)
    _draw_list(context)
    with st.expander("Verify a report", key="compliance-verify", icon=":material/verified:"):
        st.markdown(
            "REPORT is a downloaded file: PDF, HTML or JSON. EXPORT is the entire stream from the page Audit, "
            "downloaded after the report. KEY is the platform's public key (`openkcmctl audit public-key`), which "
            "you obtain once over a trusted channel. The command works offline: it detects changed figures and "
            "changed records."
        )
        st.code(_VERIFY, language=None, wrap_lines=True)


def _draw_maker(context: PageContext, enabled_at: datetime) -> None:
    with st.container(border=True):
        first = list(Choice).index(reports.default_choice(enabled_at, context.now()))
        choice = st.radio(
            "Period", [one.value for one in Choice], index=first, horizontal=True, key="compliance-period"
        )
        chosen = _period(context, choice, enabled_at)
        if chosen is not None:
            st.caption(f"{reports.said(*chosen)}. Days are UTC days. Each report is recorded.")
            if warning := reports.before_tenant(chosen, enabled_at):
                st.warning(warning, title="Period begins before the tenant existed", icon=ICONS[Severity.WARNING])
        if st.button(
            "Create report",
            key="compliance-create",
            type="primary",
            icon=":material/note_add:",
            disabled=chosen is None,
        ) and (chosen is not None):
            _make(context, uuid4().hex, chosen)


def _period(context: PageContext, choice: str, enabled_at: datetime) -> Period | None:
    """Return the selected period; draw why no report of it is possible."""
    picked: tuple[date, ...] = ()
    if choice == Choice.CUSTOM:
        today = context.now().astimezone(UTC).date()
        picked = st.date_input(
            "First and last day (UTC)",
            value=(today.replace(day=1), today),
            min_value=_FIRST_DAY,
            max_value=today,
            format="YYYY-MM-DD",
            key="compliance-days",
            help="At most three years.",
        )
    try:
        return reports.period(choice, picked, context.now(), enabled_at)
    except PeriodRefused as refused:
        draw_refusal(refused, "Invalid period")
        return None


def _make(context: PageContext, report_id: str, period: Period) -> None:
    """Create a report, or draw the error; a pending report is in the list."""
    try:
        with st.spinner("Creating report…"):
            report_actions.make(context, report_id, period)
    except OperationTimeout:
        st.info("The report takes longer than usual. It continues automatically, also when you close this page.")
    except OpenKcmError as failed:
        draw_refusal(failed, "Report not created")
    else:
        st.success("Report created and signed. It is the first in the list.", icon=":material/check:")


@polling_fragment
def _draw_list(context: PageContext) -> None:
    """Draw the stored reports; a pending one appears automatically when it is complete."""
    with context.database.tenant_tx(context.tenant_id) as tx:
        found = tx.reports.latest()
    if not found:
        st.caption("No reports. Created reports appear here and can be downloaded at any time.")
        return
    for row, one in zip(reports.rows(found, context.now()), found, strict=True):
        with st.container(border=True):
            st.markdown(f"**{row.title}**")
            st.caption(row.words)
            if row.made:
                _draw_downloads(context, row)
            elif row.late and st.button(
                f"Retry: {row.title}", key=f"compliance-again-{row.report_id}", icon=":material/replay:"
            ):
                _make(context, row.report_id, (one.since, one.until))


def _draw_downloads(context: PageContext, row: Row) -> None:
    address = f"{of_tenant(context.tenant_id).root}/{report_query.DOWNLOAD}"
    with st.container(horizontal=True):
        for form in (ReportFormat.PDF, ReportFormat.HTML, ReportFormat.JSON):
            st.link_button(
                f"Download {form.upper()}: {row.title}",
                f"{address}?{report_query.encode(row.report_id, form)}",
                key=f"compliance-{form}-{row.report_id}",
                icon=":material/download:",
            )
