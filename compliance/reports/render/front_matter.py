"""What stands around the figures: cover, summary, the mapping to frameworks, limits, method and glossary."""

import re
from collections.abc import Sequence
from datetime import timedelta

from compliance.reports.render import formatting as say
from compliance.reports.render.document import (
    Block,
    BulletList,
    Cell,
    Column,
    Command,
    Cover,
    Figure,
    Figures,
    KeyValueTable,
    Paragraph,
    Section,
    Subsection,
    Table,
    Tone,
)
from openkcm.verification.reports.evaluation import LIMITS
from openkcm.verification.reports.model import Finding, Report

DISCLAIMER = (
    "Evidence, not attestation. This report shows what is on record and maps it to ids of controls. Whether a control"
    " is met is for an auditor to judge."
)
VERIFY = "openkcm audit verify EXPORT --report REPORT --public-key KEY"
_CUT = (
    "Long lists are cut in the PDF and the HTML, and say so. Characters that show nothing or turn the direction of"
    " writing are shown by their number, and in the PDF also those of scripts that its fonts do not have."
)
_COUNTED = (
    "Counted figures (access, refused attempts, isolation runs, root key, changes, approvals, records) follow from the"
    " audit records of the period alone. Whoever has the export counts them again."
)
_STATED = (
    "Stated figures (coverage, keys, newest checks, certificates, policy) say how things stood when the report was"
    " made. Their digest was put into the audit stream before the report was signed, so a report that states something"
    " else does not fit the stream."
)
_TIMES = "All times are UTC. A period has its first moment and not its last."
_GLOSSARY = (
    ("Root key, L1", "The outermost key, held by the platform or by the customer. Without it no service key opens."),
    ("Tenant key, L2", "One for each tenant, made inside the key server; it can neither be brought in nor taken out."),
    ("Service key, L3", "One for each connected service, stored only wrapped by both the tenant key and the root key."),
    ("Data key, L4", "What a service encrypts its data with, wrapped by its service key."),
    ("Context", "What a ciphertext is bound to: tenant, tenant key, service and object. Elsewhere it does not open."),
    ("Cryptoperiod", "How long a version of a key may be used before policy wants it rotated."),
    ("Boundary check", "An attack across tenants that must be refused, with a control that must work."),
    ("Held, breached, not checked", "The attack was refused; it succeeded; nothing could be shown either way."),
    ("Audit stream", "The records of one tenant, numbered without gaps and chained by hashes."),
    ("Head", "The last record of a stream. Its signature stands for every record before it."),
    ("Counted figure", "Follows from the audit records of the period, and from nothing else."),
    ("Stated figure", "How something stood at the making of the report; its digest was put into the stream first."),
    ("Two people", "An action that one person asks for and another must approve before it is done."),
)
_DIGITS = re.compile(r"(\d+)")


def period(report: Report) -> str:
    """Return the days of the period, the last of which belongs to it."""
    last = report.until - timedelta(microseconds=1)
    return f"{say.day(report.since)} to {say.day(last)}"


def cover(report: Report) -> Cover:
    """Return the first page: whose report, of what, how it stands, and how to check it."""
    return Cover(
        "Compliance report",
        report.organization,
        period(report),
        _verdict(report.summary),
        KeyValueTable(
            (
                ("Tenant", say.code(report.tenant_id)),
                ("Region", say.plain(report.region)),
                (
                    "Period (UTC)",
                    Cell(f"{say.at(report.since)} to {say.at(report.until)}", "the end does not belong to it"),
                ),
                (
                    "Made",
                    Cell(f"{say.at(report.made_at)} UTC", f"by OpenKCM {report.made_with}" if report.made_with else ""),
                ),
                ("Made for", say.plain(report.made_for)),
                ("Report", say.code(report.report_id)),
                ("Audit stream at the making", Cell(f"record {report.stream.seq:,}")),
                ("Chain hash there", say.digest(report.stream.chain_hash)),
                ("Digest of stated figures", say.digest(report.stated_sha256)),
            )
        ),
        _verify(),
        DISCLAIMER,
    )


def attached(report: Report) -> str:
    """Return the name of the signed document, as it is attached to a PDF."""
    return f"{report.tenant_id}-report-{report.since:%Y%m%d}-{report.report_id[:8]}.json"


def _verify() -> tuple[Block, ...]:
    return (
        Paragraph(
            "REPORT is this file, EXPORT the tenant's audit stream and KEY the platform's public key, which you have"
            " from elsewhere. This confirms or refutes the report, offline and without us:"
        ),
        Command(VERIFY),
    )


def _verdict(found: Sequence[Finding]) -> Cell:
    wrong = [one for one in found if one.status != "in order"]
    if not found:
        return Cell("Nothing was looked at", tone="none")
    if not wrong:
        return Cell(f"All {len(found):,} subjects are in order", tone="good")
    look = sum(one.status == "attention" for one in wrong)
    parts = [f"{look:,} to look at"] if look else []
    parts += [f"{len(wrong) - look:,} without evidence"] if len(wrong) > look else []
    return Cell(
        f"{len(found) - len(wrong):,} of {len(found):,} subjects in order", ", ".join(parts), "warn" if look else "none"
    )


def summary(report: Report) -> Section:
    """Return how everything stands on one page."""
    counted, stated = report.counted, report.stated
    held, breached = sum(one.held for one in counted.isolation), sum(one.breached for one in counted.isolation)
    covered = sum(one.complete and not one.gaps for one in stated.coverage)
    overdue = sum(key.overdue for key in stated.keys)
    figures = (
        Figure(
            f"{covered:,} / {len(stated.coverage):,}",
            "Services covered",
            "all their listed data is encrypted",
            _tone(len(stated.coverage), len(stated.coverage) - covered),
        ),
        Figure(
            f"{overdue:,}",
            "Keys overdue",
            f"of {say.count(len(stated.keys), 'key')} on record",
            _tone(len(stated.keys), overdue),
        ),
        Figure(
            f"{held:,} / {held + breached:,}",
            "Attacks refused",
            f"in {say.count(counted.isolation_runs, 'run')}",
            _tone(held + breached, breached),
        ),
        Figure(f"{sum(one.answered for one in counted.access):,}", "Uses of keys", "each recorded before its answer"),
        Figure(f"{counted.denied_total:,}", "Refused attempts", "by certificate, role or tenant"),
        Figure(f"{counted.records:,}", "Audit records", "numbered, chained and signed"),
    )
    return Section(
        "summary",
        "Summary",
        "What was looked at and how it stands. Each line is taken up in the section that it names.",
        (
            Figures(figures),
            Table(
                "What was looked at, and how it stands",
                (Column("Subject", 2.6), Column("Status", 1.3), Column("In words", 6)),
                tuple((Cell(one.subject), say.status(one.status), Cell(one.words)) for one in report.summary),
                empty="Nothing was looked at.",
            ),
        ),
    )


def _tone(of: int, wrong: int) -> Tone:
    """Return how a figure stands of which `wrong` of so many are not as they should be."""
    return "none" if not of else "warn" if wrong else "good"


def controls(report: Report) -> Section:
    """Return the evidence by the ids of each framework's controls, which is how auditors look for it."""
    by_framework: dict[str, dict[str, list[tuple[Cell, ...]]]] = {}
    for one in report.evidence:
        for framework, ids in one.controls.items():
            for control in ids:
                row = (Cell(control), Cell(one.evidence), Cell(one.section), say.status(one.status))
                by_framework.setdefault(framework, {}).setdefault(control, []).append(row)
    columns = (
        Column("Control", 1.9),
        Column("Evidence in this report", 4.8),
        Column("Section", 2.2),
        Column("Status", 1.2),
    )
    parts = tuple(
        Subsection(
            framework,
            (
                Table(
                    f"{framework}: controls and the evidence here",
                    columns,
                    tuple(row for control in sorted(found, key=_naturally) for row in found[control]),
                    empty="",
                ),
            ),
        )
        for framework, found in by_framework.items()
    )
    nothing = Table("Evidence by control", columns, (), empty="No evidence is mapped to a control in this report.")
    return Section(
        "controls",
        "Frameworks",
        "Which evidence of this report supports which control. The ids are a guide to the evidence; nothing is claimed"
        " of a control beyond it.",
        () if parts else (nothing,),
        parts,
    )


def _naturally(control: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in _DIGITS.split(control)]


def limits(report: Report) -> Section:
    """Return what the report does not show."""
    return Section(LIMITS.lower(), LIMITS, "What no figure here shows.", (BulletList((*report.limits, _CUT)),))


def method(report: Report) -> Section:
    """Return how the figures come about and how anybody checks them."""
    signed = (
        f"The document is signed at record {report.stream.seq:,} of the stream. The signature of the head there stands"
        " for every record before it."
    )
    return Section(
        "method",
        "Method, and how to check it",
        "The PDF and the HTML are readings of one signed JSON document, which lies in them. Their own bytes are signed"
        " too, so what is printed is what was made from these figures.",
        (
            BulletList((_COUNTED, _STATED, signed, _TIMES)),
            *_verify(),
            KeyValueTable(
                (
                    ("Attached document", say.code(attached(report))),
                    ("Format", say.code(report.format)),
                    ("Digest of stated figures", say.digest(report.stated_sha256)),
                    ("Chain hash", say.digest(report.stream.chain_hash, f"of record {report.stream.seq:,}")),
                )
            ),
        ),
    )


def glossary() -> Section:
    """Return what the words mean."""
    return Section(
        "glossary",
        "Glossary",
        "Words as this report uses them.",
        (KeyValueTable(tuple((w, Cell(m)) for w, m in _GLOSSARY)),),
    )
