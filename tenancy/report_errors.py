"""What can keep a report from being made, and what is said of one that does not verify."""

from openkcm.errors import CallerError


class PeriodRefused(CallerError):
    code = "period_refused"
    message = "there can be no report of this period"
    hint = "name a year, a quarter or a month: 2026, 2026-Q3, 2026-09"


class ReportTooLate(CallerError):
    code = "report_too_late"
    message = "the tenant's keys and records are destroyed, so no report can be made of them"
    hint = "its stream and the certificate of destruction stay: openkcm audit export, openkcm audit certificate"


class ReportUnknown(CallerError):
    code = "report_unknown"
    message = "nobody asked for this report"
    hint = "ask for one: openkcm report <tenant>"
