"""Sections derived from the audit stream: isolation, access, changes, approvals, certificates, records."""

from collections.abc import Sequence

from compliance.reports.render import formatting as say
from compliance.reports.render.document import Cell, Column, KeyValueTable, Paragraph, Section, Subsection, Table
from openkcm.verification.isolation_controls import CLAUSES
from openkcm.verification.reports.evaluation import ACCESS, APPROVALS, AUDIT, CERTIFICATES, CHANGES, ISOLATION
from openkcm.verification.reports.model import ClauseRuns, LatestCheck, Report, ReportedEvent

_MOMENTS = (
    Column("Record", 1.4, number=True),
    Column("When (UTC)", 2.4),
    Column("What", 4.8),
    Column("By", 2.5),
    Column("Outcome", 1.4),
)


def isolation(report: Report) -> Section:
    """Return the results of the isolation checks by clause."""
    counted, checks = report.counted, report.stated.checks
    runs = {one.clause: one for one in counted.isolation}
    others = sorted({*runs, *(one.clause for one in checks)} - set(CLAUSES))
    return Section(
        "isolation",
        ISOLATION,
        "Isolation checks attack the tenant from another tenant, through the interfaces that services and processes"
        " use. A check holds only if the attack was rejected as expected and the same call on the attacker's own data"
        " succeeded. The clauses are those of the Multi-Tenant Cryptographic Isolation standard (ADR-003 of"
        " openkcm/documentation).",
        (
            KeyValueTable(
                (
                    ("Assessments in the period", say.number(counted.isolation_runs)),
                    ("Attacks", Cell(_attacks(counted.isolation))),
                    ("Newest complete assessment", _newest(checks)),
                    ("Scope", Cell("Every attack at least every seven days; those of other days make a part")),
                )
            ),
        ),
        (
            Subsection(
                "By clause",
                (
                    Table(
                        "Clauses of the standard and their checks",
                        (
                            Column("Clause", 1.1),
                            Column("Meaning", 5.6),
                            Column("Held", 1.0, number=True),
                            Column("Breached", 1.2, number=True),
                            Column("Not checked", 1.5, number=True),
                            Column("Newest result", 1.6),
                        ),
                        tuple(_clause(clause, runs.get(clause), checks) for clause in (*CLAUSES, *others)),
                        empty="",
                    ),
                ),
            ),
            Subsection(
                "Newest result of each check",
                (
                    Table(
                        "Newest result of each check with its evidence",
                        (
                            Column("Clause", 1.1),
                            Column("Attack", 2.6),
                            Column("Outcome", 1.5),
                            Column("Evidence", 5.2),
                            Column("When (UTC)", 2.4),
                        ),
                        tuple(
                            (
                                Cell(one.clause),
                                Cell(one.name.replace("-", " ")),
                                say.checked(one.outcome),
                                Cell(one.evidence),
                                Cell(say.at(one.at)),
                            )
                            for one in checks[: say.SHOWN]
                        ),
                        empty="No isolation check was recorded when the report was created.",
                        more=say.more(len(checks[: say.SHOWN]), len(checks), "the signed document has all"),
                    ),
                ),
            ),
        ),
    )


def _attacks(runs: Sequence[ClauseRuns]) -> str:
    held, breached = sum(one.held for one in runs), sum(one.breached for one in runs)
    if not held and not breached:
        return "none"
    return f"{held + breached:,}, of which {held:,} rejected and {breached:,} succeeded"


def _newest(checks: Sequence[LatestCheck]) -> Cell:
    if not checks:
        return Cell("none recorded", tone="none")
    return Cell(f"{say.at(max(one.at for one in checks))} UTC")


def _clause(clause: str, runs: ClauseRuns | None, checks: Sequence[LatestCheck]) -> tuple[Cell, ...]:
    known = CLAUSES.get(clause)
    found = [one.outcome for one in checks if one.clause == clause]
    if "breached" in found:
        newest = Cell("Breached", tone="warn")
    elif "held" in found:
        newest = Cell("Held", say.count(found.count("held"), "check"), "good")
    else:
        newest = Cell("Not checked", tone="none")
    breached = say.number(runs.breached if runs else 0)
    return (
        Cell(clause, "optional" if known and known.optional else ""),
        Cell(known.means, f"requires that {known.asks}") if known else Cell("not a clause of the standard"),
        say.number(runs.held if runs else 0),
        Cell(breached.text, tone="warn") if runs and runs.breached else breached,
        say.number(runs.not_checked if runs else 0),
        newest,
    )


def access(report: Report) -> Section:
    """Return the uses of keys and the rejected attempts."""
    counted = report.counted
    ordered = sorted(counted.access, key=lambda one: (-one.answered - one.refused, one.service))
    shown = ordered[: say.SHOWN]
    denied = counted.denied[-say.LISTED :]
    return Section(
        "access",
        ACCESS,
        "Every use of a key is recorded before the response, with the service of the client certificate.",
        parts=(
            Subsection(
                "Use of keys by service",
                (
                    Table(
                        "Operations of each service",
                        (
                            Column("Service", 5),
                            Column("Successful", 2, number=True),
                            Column("Rejected", 2, number=True),
                        ),
                        tuple(
                            (
                                say.code(one.service),
                                say.number(one.answered),
                                Cell(f"{one.refused:,}", tone="warn") if one.refused else say.number(0),
                            )
                            for one in shown
                        ),
                        empty="No service used a key in this period.",
                        more=say.more(len(shown), len(ordered), "the busiest first; the signed document has all"),
                    ),
                ),
            ),
            Subsection(
                "Rejected attempts",
                (
                    Table(
                        "Rejected attempts",
                        _MOMENTS,
                        moments(denied),
                        empty="No attempt was rejected in this period: no request with another tenant's key, no action"
                        " without permission, no certificate of another tenant.",
                        more=say.more(len(denied), counted.denied_total, say.NEWEST),
                    ),
                ),
            ),
        ),
    )


def changes(report: Report) -> Section:
    """Return the changes of the period."""
    counted = report.counted
    shown = counted.changes[-say.LISTED :]
    return Section(
        "changes",
        CHANGES,
        "Changes of the tenant's keys, services, certificates and policy, with the actor.",
        (
            Table(
                "Changes",
                _MOMENTS,
                moments(shown),
                empty="No change in this period.",
                more=say.more(len(shown), counted.changes_total, say.NEWEST),
            ),
        ),
    )


def approvals(report: Report) -> Section:
    """Return the actions that need an approval, and the requests and decisions."""
    counted, wanted = report.counted, report.stated.four_eyes
    shown = counted.approvals[-say.LISTED :]
    rule = (
        KeyValueTable((("Approval required for", Cell(", ".join(wanted), tone="good")),))
        if wanted
        else Paragraph("The policy requires no approval for any action.")
    )
    return Section(
        "approvals",
        APPROVALS,
        "Actions that need a second person, and all requests and decisions of the period.",
        (
            rule,
            Table(
                "Requests and decisions",
                _MOMENTS,
                moments(shown),
                empty="No approval was requested in this period.",
                more=say.more(len(shown), counted.approvals_total, say.NEWEST),
            ),
        ),
    )


def certificates(report: Report) -> Section:
    """Return the number of valid certificates."""
    stated = report.stated
    until = stated.next_certificate_expiry
    return Section(
        "certificates",
        CERTIFICATES,
        "Services authenticate with certificates of the tenant CA, whose key is in the key server. The certificates are"
        " short-lived and renewed automatically.",
        (
            KeyValueTable(
                (
                    ("Valid certificates", say.number(stated.certificates)),
                    ("Next expiry", Cell(f"{say.at(until)} UTC") if until else Cell("none", tone="none")),
                )
            ),
        ),
    )


def stream(report: Report) -> Section:
    """Return the number of records for each event name."""
    counted = report.counted
    events = sorted(counted.events, key=lambda one: one.name)
    return Section(
        "stream",
        AUDIT,
        "Every record has a number without gaps and contains the hash of the record before it. A key that cannot leave"
        " the key server signs the checkpoints of the chain.",
        (
            KeyValueTable(
                (
                    ("Records in the period", say.number(counted.records)),
                    (
                        "Numbers",
                        Cell(f"{counted.first_seq:,} to {counted.last_seq:,}") if counted.records else say.NONE,
                    ),
                    ("Newest audit record", Cell(f"record {report.stream.seq:,}")),
                    ("Chain hash", say.digest(report.stream.chain_hash)),
                )
            ),
            Table(
                "Records by event",
                (
                    Column("Event", 5),
                    Column("Success", 1.4, number=True),
                    Column("Intended", 1.4, number=True),
                    Column("Rejected", 1.4, number=True),
                    Column("Failure", 1.4, number=True),
                ),
                tuple(
                    (
                        say.code(one.name),
                        say.number(one.success),
                        say.number(one.intended),
                        say.number(one.refused),
                        say.number(one.failure),
                    )
                    for one in events
                ),
                empty="No record in this period.",
            ),
        ),
    )


def moments(found: Sequence[ReportedEvent]) -> tuple[tuple[Cell, ...], ...]:
    """Return records as table rows, the newest first."""
    return tuple(
        (
            Cell(f"{one.seq:,}"),
            Cell(say.at(one.at)),
            Cell(one.words, one.subject),
            say.plain(one.actor, one.actor_kind),
            say.outcome(one.outcome),
        )
        for one in reversed(found)
    )
