"""Sections around the figures: cover, summary, mapping to frameworks, limits, method and glossary."""

import re
from collections.abc import Sequence
from datetime import timedelta

from compliance.reports.periods import days_before
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
    "Evidence, not attestation. This report shows recorded facts and maps them to ids of controls. An auditor decides"
    " whether a control is met."
)
VERIFY = "openkcm audit verify EXPORT --report REPORT --public-key KEY"
_CUT = (
    "The PDF and the HTML truncate long lists and state the number of omitted rows. Invisible characters and those that"
    " change the writing direction are shown by their code point, in the PDF also characters missing in its fonts."
)
_COUNTED = (
    "Derived figures (access, rejected attempts, isolation assessments, root key, changes, approvals, records) follow"
    " only from the audit records of the period. Anyone with the audit export can reproduce them."
)
_STATED = (
    "The snapshot (coverage, keys, newest checks, certificates, policy) shows the state when the report was created."
    " Its digest was recorded in the audit stream before the report was signed, so a report with another snapshot does"
    " not match the stream."
)
_TIMES = "All times are UTC. A period includes its start and excludes its end."
_GLOSSARY = (
    ("Root key, L1", "The outermost key, held by the platform or by the customer. It wraps all service keys."),
    ("Tenant key, L2", "One key for each tenant, created in the key server. It cannot be imported or exported."),
    ("Service key, L3", "One key for each connected service, stored only wrapped by both tenant key and root key."),
    ("Data key, L4", "A key that a service uses to encrypt data, wrapped by its service key."),
    ("Encryption context", "Binds a ciphertext to tenant, tenant key, service and object. Others cannot decrypt it."),
    ("Cryptoperiod", "The time for which a key version may encrypt before the policy requires its rotation."),
    ("Isolation check", "An attempted attack across tenants that must be rejected, with a positive control."),
    ("Held, breached, not checked", "The attack was rejected; the attack succeeded; the check could not run."),
    ("Audit stream", "The records of one tenant, numbered without gaps and chained by hashes."),
    ("Checkpoint", "The signed number and hash of the newest record of a stream. It proves all records before it."),
    ("Derived figure", "A figure that follows only from the audit records of the period."),
    ("Snapshot", "The state when the report was created; its digest was recorded in the audit stream first."),
    ("Approval", "One person requests an action, and a second person must approve it before it runs."),
)
_DIGITS = re.compile(r"(\d+)")


def period(report: Report) -> str:
    """Return the first and the last day of the period, both inclusive."""
    last = report.until - timedelta(microseconds=1)
    return f"{say.day(report.since)} to {say.day(last)}"


def cover(report: Report) -> Cover:
    """Return the first page: organization, period, verdict, and how to verify the report."""
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
                    Cell(f"{say.at(report.since)} to {say.at(report.until)}", _period_note(report)),
                ),
                (
                    "Created",
                    Cell(f"{say.at(report.made_at)} UTC", f"by OpenKCM {report.made_with}" if report.made_with else ""),
                ),
                ("Created for", say.plain(report.made_for)),
                ("Report", say.code(report.report_id)),
                ("Newest audit record", Cell(f"record {report.stream.seq:,}")),
                ("Chain hash", say.digest(report.stream.chain_hash)),
                ("Digest of the snapshot", say.digest(report.stated_sha256)),
            )
        ),
        _verify(),
        DISCLAIMER,
    )


def _period_note(report: Report) -> str:
    """Return the bounds of the period, and the part of it in which the tenant did not exist."""
    enabled_at = report.stated.enabled_at
    if enabled_at is None or not (days := days_before(report.since, enabled_at)):
        return "end excluded"
    if enabled_at >= report.until:
        return f"end excluded; the tenant did not exist in this period, it was enabled {say.at(enabled_at)}"
    return (
        f"end excluded; the tenant was enabled {say.at(enabled_at)}, so the first {say.count(days, 'day')} of "
        "the period have no records"
    )


def attached(report: Report) -> str:
    """Return the file name of the signed document in the PDF."""
    return f"{report.tenant_id}-report-{report.since:%Y%m%d}-{report.report_id[:8]}.json"


def _verify() -> tuple[Block, ...]:
    return (
        Paragraph(
            "REPORT is this file, EXPORT the tenant's audit export and KEY the platform's public key from another"
            " source. This command verifies the report offline:"
        ),
        Command(VERIFY),
    )


def _verdict(found: Sequence[Finding]) -> Cell:
    wrong = [one for one in found if one.status != "in order"]
    if not found:
        return Cell("Nothing was assessed", tone="none")
    if not wrong:
        return Cell(f"All {len(found):,} subjects are in order", tone="good")
    attention = sum(one.status == "attention" for one in wrong)
    parts = [say.count(attention, "requires attention", "require attention")] if attention else []
    parts += [f"{len(wrong) - attention:,} without evidence"] if len(wrong) > attention else []
    return Cell(
        f"{len(found) - len(wrong):,} of {len(found):,} subjects in order",
        ", ".join(parts),
        "warn" if attention else "none",
    )


def summary(report: Report) -> Section:
    """Return the summary of all subjects on one page."""
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
            f"of {say.count(len(stated.keys), 'key')} in the inventory",
            _tone(len(stated.keys), overdue),
        ),
        Figure(
            f"{held:,} / {held + breached:,}",
            "Attacks rejected",
            f"in {say.count(counted.isolation_runs, 'assessment')}",
            _tone(held + breached, breached),
        ),
        Figure(f"{sum(one.answered for one in counted.access):,}", "Uses of keys", "each recorded before its response"),
        Figure(f"{counted.denied_total:,}", "Rejected attempts", "by certificate, role or tenant"),
        Figure(f"{counted.records:,}", "Audit records", "numbered, chained and signed"),
    )
    return Section(
        "summary",
        "Summary",
        "The assessed subjects and their status. Each subject has a section with details.",
        (
            Figures(figures),
            Table(
                "Assessed subjects and their status",
                (Column("Subject", 2.6), Column("Status", 1.3), Column("Description", 6)),
                tuple((Cell(one.subject), say.status(one.status), Cell(one.words)) for one in report.summary),
                empty="Nothing was assessed.",
            ),
        ),
    )


def _tone(of: int, wrong: int) -> Tone:
    """Return the tone of a figure with `wrong` of `of` items not in order."""
    return "none" if not of else "warn" if wrong else "good"


def controls(report: Report) -> Section:
    """Return the evidence by framework and control id, as auditors search for it."""
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
                    f"{framework}: controls and their evidence",
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
        "Evidence in this report for each control. The ids help to find evidence; the report does not claim that a"
        " control is met.",
        () if parts else (nothing,),
        parts,
    )


def _naturally(control: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in _DIGITS.split(control)]


def limits(report: Report) -> Section:
    """Return what the report does not show."""
    return Section(LIMITS.lower(), LIMITS, "What this report does not show.", (BulletList((*report.limits, _CUT)),))


def method(report: Report) -> Section:
    """Return the sources of the figures and how to verify them."""
    signed = (
        f"The document is signed at record {report.stream.seq:,} of the stream. The checkpoint at that record proves"
        " all records before it."
    )
    return Section(
        "method",
        "Method and verification",
        "The PDF and the HTML are renderings of one signed JSON document, which they contain. The files themselves are"
        " signed too, so a modified rendering is detected.",
        (
            BulletList((_COUNTED, _STATED, signed, _TIMES)),
            *_verify(),
            KeyValueTable(
                (
                    ("Attached document", say.code(attached(report))),
                    ("Format", say.code(report.format)),
                    ("Digest of the snapshot", say.digest(report.stated_sha256)),
                    ("Chain hash", say.digest(report.stream.chain_hash, f"of record {report.stream.seq:,}")),
                )
            ),
        ),
    )


def glossary() -> Section:
    """Return the glossary."""
    return Section(
        "glossary",
        "Glossary",
        "Terms as this report uses them.",
        (KeyValueTable(tuple((w, Cell(m)) for w, m in _GLOSSARY)),),
    )
