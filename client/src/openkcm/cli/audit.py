"""`openkcm audit verify`: verify files offline, and print the result for people or as a document.

A file may be hostile, so its content is never printed unchanged: characters that are not printable become a
replacement, and long texts are shortened.
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
from openkcm.contract.audit_events import CHECKPOINT_MINUTES
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
"""Maximum number of event names that a summary lists; the others are summed."""


def summarize_file(checked: Checked) -> Iterator[str]:
    """Yield the result of a file, one sentence each."""
    result = checked.result
    what = f"{result.kind} of {plain(result.tenant_id)}" if result.tenant_id else str(result.kind)
    counted = "destructions" if result.kind is Kind.CERTIFICATE else "records"
    yield f"{_HEADS[result.outcome]}: {what}, {result.events} {counted}"
    if result.problem is not None:
        yield f"problem: {plain(result.problem)}"
    yield from _signature(checked)
    if result.archived and result.intact:
        yield (
            f"records 1 to {result.archived} are in archive files; verify the last of them in the same way, and compare"
            " this file with it (--against)"
        )
    if result.selection:
        chosen = "; ".join(f"{name}: {value}" for name, value in result.selection.items())
        yield f"a selection, not the whole stream: {plain(chosen)}"
    if checked.compared is not None:
        found = checked.compared
        yield (
            f"compared with {checked.against}: {found.same} records are the same,"
            f" {found.only_here} are in this file only, {found.only_there} in the other only"
        )


def render(checked: Checked, at: datetime) -> str:
    """Return the text of --summary; `at` is the time of the check."""
    result = checked.result
    lines = [
        f"# {result.kind} {plain(result.tenant_id)}".rstrip(),
        "",
        f"File: {plain(str(checked.path))}",
        f"Checked: {moment(at)}",
        "",
        *summarize_file(checked),
    ]
    if checked.contents.names and result.intact:
        lines += ["", "## What happened", "", *_contents(checked)]
    if checked.statement is not None and result.intact:
        lines += ["", *_statement(checked.statement)]
    return "\n".join(lines) + "\n"


def signature_line(signature: SignatureState, name: str, fingerprint: str) -> Iterator[str]:
    """Yield the line about a signature; nothing if the file was refuted before its signature was read."""
    key = f"the key {plain(name)}, fingerprint {fingerprint or 'not in the file'}"
    lines = {
        SignatureState.VERIFIED: f"verified, by {key}",
        SignatureState.NOT_CHECKED: f"NOT CHECKED, no public key was given; the file names {key}",
        SignatureState.NOT_REACHED: f"NOT CHECKED, the file is not intact; it names {key}",
        SignatureState.UNKNOWN_KEY: f"NOT CHECKED, its key is not among the given public keys; the file names {key}",
        SignatureState.REFUSED: f"invalid; it does not match {key}",
    }
    if signature in lines and (name or signature is not SignatureState.NOT_REACHED):
        yield f"signature: {lines[signature]}"


def _signature(checked: Checked) -> Iterator[str]:
    result = checked.result
    yield from signature_line(result.signature, result.key, result.fingerprint)
    if result.signature is SignatureState.MISSING and (result.intact or result.incomplete):
        yield "signature: none in this file, so the origin of its records is not proven"
    if result.kind is Kind.EXPORT and result.intact and not result.selection and result.signed < result.last:
        yield (
            f"records {result.signed + 1} to {result.last} came after the signed one: chained, but not signed yet;"
            f" the platform signs every {CHECKPOINT_MINUTES} minutes, and a later export has them signed"
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
    yield f"Start of the grace period: {moment(statement.grace_began_at)}"
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
    """Return a time in the format for people."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def plain(text: str) -> str:
    """Return a printable form of a text from a file that may be hostile."""
    shown = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"


File = Annotated[Path, typer.Argument(help="Audit export or erasure certificate")]


KeyFile = Annotated[
    Path | None,
    typer.Option("--public-key", help="File with the platform's public keys; without it no signature is checked"),
]
Against = Annotated[
    Path | None,
    typer.Option("--against", help="Another export of the same stream, or the tenant's certificate, to compare with"),
]
Report = Annotated[
    Path | None, typer.Option("--report", help="Compliance report (PDF, HTML or JSON) to verify against the export")
]
Summary = Annotated[Path | None, typer.Option("--summary", help="Output file for a summary; must not exist")]

_LONGEST_KEY_FILE = 1_000_000


def register(app: typer.Typer) -> None:
    audit = typer.Typer(no_args_is_help=True)
    audit.command("verify")(verify)
    app.add_typer(audit, name="audit")


def verify(  # noqa: PLR0913 - one parameter for each option
    file: File,
    public_key: KeyFile = None,
    against: Against = None,
    report: Report = None,
    summary: Summary = None,
    *,
    as_json: output.AsJson = False,
) -> None:
    """Verify an audit export, an erasure certificate, or a compliance report against an export, offline.

    Exit status: 0 intact or confirmed, 1 refuted, 2 wrong usage, 3 not checked (a file or a key is missing).
    """
    check = None if public_key is None else _keys(public_key).check
    if report is not None:
        if against is not None or summary is not None:
            raise typer.BadParameter("--report can be combined only with an export and --public-key")
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

    if checked.result.intact:
        output.answer(document, as_json=as_json, show=show)
    else:
        _end(document, checked.refusal(), checked.result.outcome, as_json=as_json, show=show)


def _verify_report(report: Path, file: Path, check: SignatureCheck | None, *, as_json: bool) -> None:
    result = check_report(report, file, check)
    checked = Checked(file, result.export or VerificationResult(Kind.EXPORT), Contents())
    said = {"intact": result.confirmed, "outcome": result.outcome, "problem": result.problem}
    document = {**_document(checked), **said, "report": report_document(result)}

    def show(console: Console) -> None:
        for line in summarize_report(result):
            console.print(Text(line), soft_wrap=True)

    if result.confirmed:
        output.answer(document, as_json=as_json, show=show)
    else:
        _end(document, report_refusal(result), result.outcome, as_json=as_json, show=show)


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
    result, compared = checked.result, checked.compared
    return {
        "events": result.events,
        "intact": result.intact,
        "outcome": result.outcome,
        "problem": result.problem,
        "kind": result.kind,
        "tenant_id": result.tenant_id,
        "signature": result.signature,
        "signed": result.signed,
        "archived": result.archived,
        "key": result.key,
        "fingerprint": result.fingerprint,
        "selection": dict(result.selection),
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
"""Maximum number of differences shown to people; the JSON document has all."""


def check_report(report: Path, export: Path, check: SignatureCheck | None) -> ReportVerdict:
    """Verify a report against an export; raises FileRefused when one of them cannot be read."""
    with opened(report) as file:
        content = file.read(LONGEST_FILE + 1)
    with opened(export) as records:
        return verify_report(content, lines(records), check)


def report_refusal(result: ReportVerdict) -> OpenKcmError:
    """Return the error of a report that is refuted or could not be checked."""
    problem = plain(result.problem or ReportRefuted.message)
    return incomplete(problem, result.signature) if result.incomplete else ReportRefuted(problem)


def report_document(result: ReportVerdict) -> Mapping[str, Any]:
    """Return the JSON document of a report's verification."""
    report = result.report
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
        "confirmed": result.confirmed,
        **known,
        "format": result.form,
        "signature": result.signature,
        "key": result.key,
        "fingerprint": result.fingerprint,
        "differences": [
            {
                "section": one.section,
                "subject": one.subject,
                "reported": one.reported,
                "recomputed": one.recomputed,
            }
            for one in result.differences
        ],
    }


def summarize_report(result: ReportVerdict) -> Iterator[str]:
    """Yield the result of a report, one sentence each; text of a hostile file is never printed unchanged."""
    report = result.report
    whose = "" if report is None else f" of {plain(report.tenant_id)}, {moment(report.since)} to {moment(report.until)}"
    yield f"{_REPORT_HEADS[result.outcome]}: compliance report{whose}"
    if result.problem is not None:
        yield f"problem: {plain(result.problem)}"
    for one in result.differences[:_SHOWN]:
        yield f"differs: {plain(f'{one.section}, {one.subject}')}"
        yield f"  reported    {plain(one.reported)}"
        yield f"  recomputed  {plain(one.recomputed)}"
    if len(result.differences) > _SHOWN:
        yield f"and {len(result.differences) - _SHOWN} more differ; --json lists them"
    yield from signature_line(result.signature, result.key, result.fingerprint)
    if result.confirmed and report is not None:
        seq = report.stream.seq
        yield f"derived: {report.counted.records} records of the period, recomputed up to record {seq - 1}"
        yield f"snapshot of {moment(report.made_at)}: bound to the stream by record {seq}"
