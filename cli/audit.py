"""`openkcm audit`: hand out a tenant's audit stream, its crypto-shred certificate and the public keys, and verify them.

`verify` is for whoever was given a file: it reads no settings, connects to nothing and writes nothing but the text
it is asked for, so it runs on a machine that has only the file and the public key.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from cli import audit_report, output, report_file
from cli.access import Tenant, named, operator_database
from cli.acting import on_record
from cli.audit_file import Checked, Contents, check_file, compare_files
from cli.audit_stream import stream
from cli.new_file import new_file
from cli.reconcile import reconcile
from config.public_keys import PublicKeys
from config.settings import load_settings
from database.audit_reading import begin_export
from database.platform_queries import PlatformQueries
from tenancy.audit import AuditName
from tenancy.audit_search import AuditFilter
from tenancy.errors import CertificateMissing, FileRefused, OpenKcmError, PublicKeyRefused
from tenancy.ocsf import NOT_VERIFIABLE, ocsf_line
from tenancy.proofs import Kind, Outcome, SignatureCheck, Verdict
from tenancy.shred import certificate_file

File = Annotated[Path, typer.Argument(help="An audit export, or a crypto-shred certificate.")]
Out = Annotated[Path, typer.Option("--out", help="The file to make; one that is there is never written over.")]
KeysOut = Annotated[Path | None, typer.Option("--out", help="The file to make; default: print them.")]
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
    audit = typer.Typer(help="Hand out and verify audit streams and crypto-shred certificates.", no_args_is_help=True)
    audit.command("export")(export)
    audit.command("stream")(stream)
    audit.command("certificate")(certificate)
    audit.command("public-key")(public_key)
    audit.command("verify")(verify)
    audit.command("reconcile")(reconcile)
    app.add_typer(audit, name="audit")


class Format(StrEnum):
    JSONL = "jsonl"
    OCSF = "ocsf"


def export(
    tenant: Tenant,
    out: Out,
    *,
    form: Annotated[
        Format, typer.Option("--format", help="jsonl: what can be verified; ocsf: a rendering for other tools.")
    ] = Format.JSONL,
    as_json: output.AsJson = False,
) -> None:
    """Write a tenant's whole audit stream into a file that anybody can verify, or into one for other tools."""
    tenant_id, records = named(tenant), 0

    def handed_out(number: int) -> None:
        nonlocal records
        records = number

    with (
        operator_database(load_settings()) as database,
        on_record(database, tenant_id, AuditName.EXPORTED, "audit stream", format=form),
    ):
        keys = PublicKeys.on_record(PlatformQueries(database).audit_keys())
        with database.tenant_tx(tenant_id) as tx:
            begun = begin_export(tx, AuditFilter(), datetime.now(UTC), keys.fingerprint)
        with new_file(out) as file:
            rendered = begun.rendered(database, handed_out, ocsf_line)
            for lines in begun.lines(database, handed_out) if form is Format.JSONL else rendered:
                file.write(lines.encode())
    head = begun.header.signed_head
    document = {
        "tenant_id": tenant_id,
        "file": str(out),
        "events": records,
        "format": form,
        "verifiable": form is Format.JSONL,
        "signed": 0 if head is None else head.seq,
        "key": "" if head is None else head.key,
        "fingerprint": "" if head is None else head.fingerprint,
    }

    def show(console: Console) -> None:
        console.print(Text(f"{out}: {records} records, signed up to record {document['signed']}"))
        if form is not Format.JSONL:
            console.print(Text(f"{out} is {NOT_VERIFIABLE}"))
        elif head is not None:
            console.print(Text(f"the signature is by {head.key}, fingerprint {head.fingerprint or 'unknown'}"))

    output.answer(document, as_json=as_json, show=show)


def certificate(tenant: Tenant, out: Out, *, as_json: output.AsJson = False) -> None:
    """Write the certificate of what was destroyed when a tenant left into a file that anybody can verify."""
    tenant_id = named(tenant)
    with (
        operator_database(load_settings()) as database,
        on_record(database, tenant_id, AuditName.EXPORTED, "crypto-shred certificate", format="json"),
    ):
        with database.tenant_tx(tenant_id) as tx:
            stored = tx.leaving.certificate()
        if stored is None:
            raise CertificateMissing
        with new_file(out) as file:
            file.write(certificate_file(stored.statement, stored.signature, stored.key).encode())
    document = {"tenant_id": tenant_id, "file": str(out), "key": stored.key}
    output.answer(document, as_json=as_json, show=lambda console: console.print(Text(f"{out}: signed by {stored.key}")))


def public_key(out: KeysOut = None, *, as_json: output.AsJson = False) -> None:
    """Hand out the public keys by which audit streams and certificates are verified."""
    with operator_database(load_settings()) as database:
        keys = PublicKeys.on_record(PlatformQueries(database).audit_keys())
    if not keys.all():
        raise PublicKeyRefused(
            "no public key is on record yet", "the worker records them when it starts: openkcm status"
        )
    if out is not None:
        with new_file(out) as file:
            file.write(keys.file().encode())
    listed = [{"key": one.name, "fingerprint": one.fingerprint, "pem": one.pem} for one in keys.all()]

    def show(console: Console) -> None:
        if out is None:
            console.print(Text(keys.file()), soft_wrap=True, end="")
        for one in keys.all() if out is not None else ():
            console.print(Text(f"{one.name}  {one.fingerprint}"), soft_wrap=True)

    output.answer({"file": out and str(out), "keys": listed}, as_json=as_json, show=show)


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
            written.write(audit_report.render(checked, datetime.now(UTC)).encode())
    document = _document(checked)

    def show(console: Console) -> None:
        for line in audit_report.short(checked):
            console.print(Text(line), soft_wrap=True)

    if checked.verdict.intact:
        output.answer(document, as_json=as_json, show=show)
    else:
        _end(document, checked.refusal(), checked.verdict.outcome, as_json=as_json, show=show)


def _verify_report(report: Path, file: Path, check: SignatureCheck | None, *, as_json: bool) -> None:
    verdict = report_file.check_report(report, file, check)
    checked = Checked(file, verdict.export or Verdict(Kind.EXPORT), Contents())
    said = {"intact": verdict.confirmed, "outcome": verdict.outcome, "problem": verdict.problem}
    document = {**_document(checked), **said, "report": report_file.document(verdict)}

    def show(console: Console) -> None:
        for line in report_file.short(verdict):
            console.print(Text(line), soft_wrap=True)

    if verdict.confirmed:
        output.answer(document, as_json=as_json, show=show)
    else:
        _end(document, report_file.refusal(verdict), verdict.outcome, as_json=as_json, show=show)


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
