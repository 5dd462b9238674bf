"""What a checked file is said to be, in a few lines and as a report.

A file that is being checked may be hostile, so nothing of it is printed as it is: what is not a plain character becomes
a replacement, and what is long is cut.

A compliance report held against an audit export, both as files; and what is said of it.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from openkcm.cli import output
from openkcm.cli.files import new_file
from openkcm.errors import FileRefused, OpenKcmError, PublicKeyRefused, ReportRefuted
from openkcm.verification.erasure_certificate import ErasureStatement
from openkcm.verification.files import Checked, Contents, check_file, compare_files, incomplete, lines, opened
from openkcm.verification.public_keys import PublicKeys
from openkcm.verification.reports.signed_file import LONGEST_FILE
from openkcm.verification.reports.verify import ReportVerdict, verify_report
from openkcm.verification.results import Kind, Outcome, SignatureCheck, SignatureState, VerificationResult

_HEADS = {Outcome.INTACT: "intact", Outcome.REFUTED: "NOT INTACT", Outcome.NOT_CHECKED: "COULD NOT CHECK"}
_LONGEST = 300
_LISTED = 40
"""How many kinds of events a report lists; the rest is summed up."""


def summarize_file(checked: Checked) -> Iterator[str]:
    """Yield what is to be said of a file, a sentence each."""
    verdict = checked.verdict
    what = f"{verdict.kind} of {plain(verdict.tenant_id)}" if verdict.tenant_id else str(verdict.kind)
    counted = "destructions" if verdict.kind is Kind.CERTIFICATE else "records"
    yield f"{_HEADS[verdict.outcome]}: {what}, {verdict.events} {counted}"
    if verdict.problem is not None:
        yield f"problem: {plain(verdict.problem)}"
    yield from _signature(checked)
    if verdict.selection:
        chosen = "; ".join(f"{name}: {value}" for name, value in verdict.selection.items())
        yield f"a selection, not the whole stream: {plain(chosen)}"
    if checked.compared is not None:
        found = checked.compared
        yield (
            f"compared with {checked.against}: {found.same} records are the same,"
            f" {found.only_here} are in this file only, {found.only_there} in the other only"
        )


def render(checked: Checked, at: datetime) -> str:
    """Return the report; `at` is when the file was checked."""
    verdict = checked.verdict
    lines = [
        f"# {verdict.kind} {plain(verdict.tenant_id)}".rstrip(),
        "",
        f"File: {plain(str(checked.path))}",
        f"Checked: {moment(at)}",
        "",
        *summarize_file(checked),
    ]
    if checked.contents.names and verdict.intact:
        lines += ["", "## What happened", "", *_contents(checked)]
    if checked.statement is not None and verdict.intact:
        lines += ["", *_statement(checked.statement)]
    return "\n".join(lines) + "\n"


def signature_line(signature: SignatureState, name: str, fingerprint: str) -> Iterator[str]:
    """Yield the line about a signature; nothing where the file is refuted before its signature could be read."""
    key = f"the key {plain(name)}, fingerprint {fingerprint or 'not in the file'}"
    lines = {
        SignatureState.VERIFIED: f"verified, by {key}",
        SignatureState.NOT_CHECKED: f"NOT CHECKED, no public key was given; the file names {key}",
        SignatureState.NOT_REACHED: f"NOT CHECKED, the file is not intact; it names {key}",
        SignatureState.UNKNOWN_KEY: f"NOT CHECKED, its key is not among the public keys given; the file names {key}",
        SignatureState.REFUSED: f"refused; it is not by {key}",
    }
    if signature in lines and (name or signature is not SignatureState.NOT_REACHED):
        yield f"signature: {lines[signature]}"


def _signature(checked: Checked) -> Iterator[str]:
    verdict = checked.verdict
    yield from signature_line(verdict.signature, verdict.key, verdict.fingerprint)
    if verdict.signature is SignatureState.MISSING and (verdict.intact or verdict.incomplete):
        yield "signature: none in this file, so nothing shows whose records these are"
    if verdict.kind is Kind.EXPORT and verdict.intact and not verdict.selection and verdict.signed < verdict.events:
        yield (
            f"records {verdict.signed + 1} to {verdict.events} came after the signed one: chained, but signed by nobody"
            " yet; a later export has them signed"
        )


def _contents(checked: Checked) -> Iterator[str]:
    contents = checked.contents
    yield f"From {plain(contents.first)} to {plain(contents.last)}"
    yield ""
    listed = contents.names.most_common()
    for name, times in listed[:_LISTED]:
        yield f"{times:>8}  {plain(name)}"
    if rest := sum(times for _, times in listed[_LISTED:]):
        yield f"{rest:>8}  others"


def _statement(statement: ErasureStatement) -> Iterator[str]:
    yield f"Issued: {moment(statement.issued_at)}"
    yield f"The grace began: {moment(statement.grace_began_at)}"
    yield f"End of the audit stream: record {statement.audit_seq}, hash {statement.audit_hash}"
    yield from ("", "## Destroyed", "")
    for one in statement.destroyed:
        what = f"{one.kind}  {plain(one.name)}  versions {plain(one.versions)}  {one.fingerprint}"
        yield f"{moment(one.destroyed_at)}  {what}"
    yield from ("", "## Erased", "")
    yield from (f"{rows:>8}  {plain(table)}" for table, rows in sorted(statement.erased.items()))
    yield from ("", "## Kept", "")
    yield from (f"{plain(what)}: {plain(why)}" for what, why in sorted(statement.kept.items()))
    yield from ("", "## Remains", "")
    yield from (f"{plain(one.what)}, until {plain(one.until)}" for one in statement.remains)


def moment(at: datetime) -> str:
    """Return a time as people read it."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def plain(text: str) -> str:
    """Return a text from a file that may be hostile as it may be printed."""
    shown = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"


File = Annotated[Path, typer.Argument(help="An audit export, or a crypto-shred certificate.")]


KeyFile = Annotated[
    Path | None,
    typer.Option("--public-key", help="The platform's public keys, or one in PEM; without it no signature is checked."),
]
Against = Annotated[
    Path | None,
    typer.Option("--against", help="Another export of the same stream, or the tenant's certificate, to compare with."),
]
Report = Annotated[
    Path | None, typer.Option("--report", help="A compliance report, PDF, HTML or JSON, to confirm or refute.")
]
Summary = Annotated[Path | None, typer.Option("--summary", help="The file for a short text for people to read.")]

_LONGEST_KEY_FILE = 1_000_000


def register(app: typer.Typer) -> None:
    audit = typer.Typer(help="Verify audit exports, erasure certificates and compliance reports.", no_args_is_help=True)
    audit.command("verify")(verify)
    app.add_typer(audit, name="audit")


def verify(  # noqa: PLR0913 - a file and what it can be held against
    file: File,
    public_key: KeyFile = None,
    against: Against = None,
    report: Report = None,
    summary: Summary = None,
    *,
    as_json: output.AsJson = False,
) -> None:
    """Verify an export, a certificate, or a report against an export, offline.

    Exit status: 0 intact or confirmed, 1 refuted, 2 wrong usage, 3 could not be checked (a file or a key is missing).
    """
    check = None if public_key is None else _keys(public_key).check
    if report is not None:
        if against is not None or summary is not None:
            raise typer.BadParameter("--report goes with an export and --public-key alone")
        _verify_report(report, file, check, as_json=as_json)
        return
    checked = _checked(file, check, against)
    if summary is not None:
        with new_file(summary) as written:
            written.write(render(checked, datetime.now(UTC)).encode())
    document = _document(checked)

    def show(console: Console) -> None:
        for line in summarize_file(checked):
            console.print(Text(line), soft_wrap=True)

    if checked.verdict.intact:
        output.answer(document, as_json=as_json, show=show)
    else:
        _end(document, checked.refusal(), checked.verdict.outcome, as_json=as_json, show=show)


def _verify_report(report: Path, file: Path, check: SignatureCheck | None, *, as_json: bool) -> None:
    verdict = check_report(report, file, check)
    checked = Checked(file, verdict.export or VerificationResult(Kind.EXPORT), Contents())
    said = {"intact": verdict.confirmed, "outcome": verdict.outcome, "problem": verdict.problem}
    document = {**_document(checked), **said, "report": report_document(verdict)}

    def show(console: Console) -> None:
        for line in summarize_report(verdict):
            console.print(Text(line), soft_wrap=True)

    if verdict.confirmed:
        output.answer(document, as_json=as_json, show=show)
    else:
        _end(document, report_refusal(verdict), verdict.outcome, as_json=as_json, show=show)


def _end(
    document: Mapping[str, Any],
    refusal: OpenKcmError,
    outcome: Outcome,
    *,
    as_json: bool,
    show: Callable[[Console], None],
) -> NoReturn:
    status = output.COULD_NOT_CHECK if outcome is Outcome.NOT_CHECKED else output.REFUSED
    output.answer_refused(
        document, refusal.code, refusal.message, refusal.hint, as_json=as_json, show=show, status=status
    )


def _checked(file: Path, check: SignatureCheck | None, against: Path | None) -> Checked:
    if against is None:
        return check_file(file, check)
    return compare_files(file, against, check)


def _document(checked: Checked) -> Mapping[str, Any]:
    verdict, compared = checked.verdict, checked.compared
    return {
        "events": verdict.events,
        "intact": verdict.intact,
        "outcome": verdict.outcome,
        "problem": verdict.problem,
        "kind": verdict.kind,
        "tenant_id": verdict.tenant_id,
        "signature": verdict.signature,
        "signed": verdict.signed,
        "key": verdict.key,
        "fingerprint": verdict.fingerprint,
        "selection": dict(verdict.selection),
        "against": compared
        and {"same": compared.same, "only_here": compared.only_here, "only_there": compared.only_there},
    }


def _keys(path: Path) -> PublicKeys:
    try:
        with path.open("rb") as file:
            text = file.read(_LONGEST_KEY_FILE).decode("ascii")
    except OSError as failed:
        raise FileRefused(f"{path} cannot be read: {failed.strerror}", "name the file with the public key") from None
    except UnicodeDecodeError:
        raise PublicKeyRefused from None
    return PublicKeys.read(text)


_REPORT_HEADS = {Outcome.INTACT: "CONFIRMED", Outcome.REFUTED: "REFUTED", Outcome.NOT_CHECKED: "COULD NOT CHECK"}
_SHOWN = 10
"""How many differences people are shown; the JSON answer has all that are named."""


def check_report(report: Path, export: Path, check: SignatureCheck | None) -> ReportVerdict:
    """Verify a report against an export; raises FileRefused when one of them cannot be read."""
    with opened(report) as file:
        content = file.read(LONGEST_FILE + 1)
    with opened(export) as records:
        return verify_report(content, lines(records), check)


def report_refusal(verdict: ReportVerdict) -> OpenKcmError:
    """Return the error of a report that is refuted, or that could not be checked."""
    problem = plain(verdict.problem or ReportRefuted.message)
    return incomplete(problem, verdict.signature) if verdict.incomplete else ReportRefuted(problem)


def report_document(verdict: ReportVerdict) -> Mapping[str, Any]:
    """Return what the command answers of a report."""
    report = verdict.report
    known = (
        {}
        if report is None
        else {
            "report_id": report.report_id,
            "tenant_id": report.tenant_id,
            "since": report.since.isoformat(),
            "until": report.until.isoformat(),
            "made_at": report.made_at.isoformat(),
            "made_for": report.made_for,
            "stream": report.stream.seq,
        }
    )
    return {
        "confirmed": verdict.confirmed,
        **known,
        "format": verdict.form,
        "signature": verdict.signature,
        "key": verdict.key,
        "fingerprint": verdict.fingerprint,
        "differences": [
            {
                "section": one.section,
                "subject": one.subject,
                "reported": one.reported,
                "recomputed": one.recomputed,
            }
            for one in verdict.differences
        ],
    }


def summarize_report(verdict: ReportVerdict) -> Iterator[str]:
    """Yield what is to be said of a report, a sentence each; nothing of a hostile file is printed as it is."""
    report = verdict.report
    whose = "" if report is None else f" of {plain(report.tenant_id)}, {moment(report.since)} to {moment(report.until)}"
    yield f"{_REPORT_HEADS[verdict.outcome]}: compliance report{whose}"
    if verdict.problem is not None:
        yield f"problem: {plain(verdict.problem)}"
    for one in verdict.differences[:_SHOWN]:
        yield f"differs: {plain(f'{one.section}, {one.subject}')}"
        yield f"  reported    {plain(one.reported)}"
        yield f"  recomputed  {plain(one.recomputed)}"
    if len(verdict.differences) > _SHOWN:
        yield f"and {len(verdict.differences) - _SHOWN} more differ; --json names them"
    yield from signature_line(verdict.signature, verdict.key, verdict.fingerprint)
    if verdict.confirmed and report is not None:
        seq = report.stream.seq
        yield f"counted anew: {report.counted.records} records of the period, up to record {seq - 1}"
        yield f"stated on {moment(report.made_at)}: as record {seq} bound it to the stream"
