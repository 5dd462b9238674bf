"""The sections that follow from the audit stream: isolation, access, changes, approvals, and what was recorded."""

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
    """Return how the tenant's walls were attacked, clause by clause, and that they held."""
    counted, checks = report.counted, report.stated.checks
    runs = {one.clause: one for one in counted.isolation}
    others = sorted({*runs, *(one.clause for one in checks)} - set(CLAUSES))
    return Section(
        "isolation",
        ISOLATION,
        "The boundaries of the tenant are attacked from another tenant, through the ways that services and processes"
        " really take. A check holds only when the attack was refused in the one way the wall refuses, and the same"
        " call on the attacker's own things worked. Clauses are those of the Multi-Tenant Cryptographic Isolation"
        " standard (ADR-003 of openkcm/documentation).",
        (
            KeyValueTable(
                (
                    ("Runs in the period", say.number(counted.isolation_runs)),
                    ("Attacks", Cell(_attacks(counted.isolation))),
                    ("Newest run", _newest(checks)),
                )
            ),
        ),
        (
            Subsection(
                "By clause",
                (
                    Table(
                        "Each clause of the standard, and the attacks on it",
                        (
                            Column("Clause", 1.1),
                            Column("What it means", 5.6),
                            Column("Held", 1.0, number=True),
                            Column("Breached", 1.2, number=True),
                            Column("Not checked", 1.5, number=True),
                            Column("Newest run", 1.6),
                        ),
                        tuple(_clause(clause, runs.get(clause), checks) for clause in (*CLAUSES, *others)),
                        empty="",
                    ),
                ),
            ),
            Subsection(
                "The newest result of each check",
                (
                    Table(
                        "The newest result of each check, with its evidence",
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
                        empty="No check was on record when the report was made. Each attack would be listed here with"
                        " what refused it.",
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
    return f"{held + breached:,}, of which {held:,} refused and {breached:,} succeeded"


def _newest(checks: Sequence[LatestCheck]) -> Cell:
    if not checks:
        return Cell("none on record", tone="none")
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
        Cell(known.means, f"asks that {known.asks}") if known else Cell("not a clause of the standard"),
        say.number(runs.held if runs else 0),
        Cell(breached.text, tone="warn") if runs and runs.breached else breached,
        say.number(runs.not_checked if runs else 0),
        newest,
    )


def access(report: Report) -> Section:
    """Return who used keys, and who was refused."""
    counted = report.counted
    ordered = sorted(counted.access, key=lambda one: (-one.answered - one.refused, one.service))
    shown = ordered[: say.SHOWN]
    denied = counted.denied[-say.LISTED :]
    return Section(
        "access",
        ACCESS,
        "Every use of a key is recorded before it is answered, with the service as its certificate says it.",
        parts=(
            Subsection(
                "Use of keys by service",
                (
                    Table(
                        "Operations of each service",
                        (
                            Column("Service", 5),
                            Column("Answered", 2, number=True),
                            Column("Refused", 2, number=True),
                        ),
                        tuple(
                            (
                                say.code(one.service),
                                say.number(one.answered),
                                Cell(f"{one.refused:,}", tone="warn") if one.refused else say.number(0),
                            )
                            for one in shown
                        ),
                        empty="No service used a key in this period. Each would be listed here with how often.",
                        more=say.more(len(shown), len(ordered), "the busiest first; the signed document has all"),
                    ),
                ),
            ),
            Subsection(
                "Refused attempts",
                (
                    Table(
                        "Attempts that were refused",
                        _MOMENTS,
                        moments(denied),
                        empty="Nothing was refused in this period: no request with another tenant's key, no action"
                        " beyond a role, no certificate that is not the tenant's.",
                        more=say.more(len(denied), counted.denied_total, say.NEWEST),
                    ),
                ),
            ),
        ),
    )


def changes(report: Report) -> Section:
    """Return what was changed."""
    counted = report.counted
    shown = counted.changes[-say.LISTED :]
    return Section(
        "changes",
        CHANGES,
        "What was changed of the tenant's keys, services, certificates and policy, and by whom.",
        (
            Table(
                "Changes",
                _MOMENTS,
                moments(shown),
                empty="Nothing was changed in this period.",
                more=say.more(len(shown), counted.changes_total, say.NEWEST),
            ),
        ),
    )


def approvals(report: Report) -> Section:
    """Return what takes two people, and what they decided."""
    counted, wanted = report.counted, report.stated.four_eyes
    shown = counted.approvals[-say.LISTED :]
    rule = (
        KeyValueTable((("Takes two people", Cell(", ".join(wanted), tone="good")),))
        if wanted
        else Paragraph("The policy in force asks for a second person for no action.")
    )
    return Section(
        "approvals",
        APPROVALS,
        "Which actions one person alone cannot carry out, and each request and decision of the period.",
        (
            rule,
            Table(
                "Requests and decisions",
                _MOMENTS,
                moments(shown),
                empty="No approval was asked for in this period.",
                more=say.more(len(shown), counted.approvals_total, say.NEWEST),
            ),
        ),
    )


def certificates(report: Report) -> Section:
    """Return how many certificates are in force."""
    stated = report.stated
    until = stated.next_certificate_expiry
    return Section(
        "certificates",
        CERTIFICATES,
        "Services prove who they are with certificates of the tenant's own authority, which lives in the key server."
        " They are short-lived and renewed by themselves.",
        (
            KeyValueTable(
                (
                    ("Certificates in force", say.number(stated.certificates)),
                    ("The next one ends", Cell(f"{say.at(until)} UTC") if until else Cell("none", tone="none")),
                )
            ),
        ),
    )


def stream(report: Report) -> Section:
    """Return what was recorded, counted by the name of the event."""
    counted = report.counted
    events = sorted(counted.events, key=lambda one: one.name)
    return Section(
        "stream",
        AUDIT,
        "Every record of the tenant is chained to the one before it by a hash, has a number without gaps, and the head"
        " of the chain is signed by a key that cannot leave the key server.",
        (
            KeyValueTable(
                (
                    ("Records in the period", say.number(counted.records)),
                    (
                        "Numbers",
                        Cell(f"{counted.first_seq:,} to {counted.last_seq:,}") if counted.records else say.NONE,
                    ),
                    ("Stream at the making", Cell(f"record {report.stream.seq:,}")),
                    ("Chain hash there", say.digest(report.stream.chain_hash)),
                )
            ),
            Table(
                "Records by what happened",
                (
                    Column("Event", 5),
                    Column("Success", 1.4, number=True),
                    Column("Intended", 1.4, number=True),
                    Column("Refused", 1.4, number=True),
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
                empty="No record lies in this period.",
            ),
        ),
    )


def moments(found: Sequence[ReportedEvent]) -> tuple[tuple[Cell, ...], ...]:
    """Return records as rows, the newest first."""
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
