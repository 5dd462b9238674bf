"""`openkcm audit`: export and verify a tenant's audit stream, its erasure certificate and the public keys.

`verify` is for auditors: it reads no settings, makes no connections and writes only the requested output. It therefore
runs on a machine that has only the file and the public key.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from cli.audit.forward import stream
from cli.audit.reconcile import reconcile
from cli.audited import audited
from cli.connections import Tenant, operator_database, parse_any_tenant_id
from compliance.audit.export import Export, begin_export
from compliance.audit.ocsf import NOT_VERIFIABLE, ocsf_line
from config.settings import load_settings
from core.audit import AuditFilter
from core.errors.compliance import CertificateMissing, ExportedRecordsArchived
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from openkcm.cli import output
from openkcm.cli.files import new_file
from openkcm.contract.audit_events import AuditName
from openkcm.errors import PublicKeyRefused
from openkcm.verification.erasure_certificate import certificate_file
from openkcm.verification.public_keys import PublicKeys

Out = Annotated[Path, typer.Option("--out", help="Output file; must not exist.")]
KeysOut = Annotated[Path | None, typer.Option("--out", help="Output file; must not exist. Default: standard output.")]


def register(app: typer.Typer) -> None:
    audit = typer.Typer(no_args_is_help=True)
    audit.command("export")(export)
    audit.command("forward")(stream)
    audit.command("erasure-certificate")(certificate)
    audit.command("public-key")(public_key)
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
        Format, typer.Option("--format", help="jsonl: verifiable; ocsf: for other tools, not verifiable.")
    ] = Format.JSONL,
    as_json: output.AsJson = False,
) -> None:
    """Export a tenant's complete audit stream, verifiable or in OCSF."""
    tenant_id, records = parse_any_tenant_id(tenant), 0

    def count_records(number: int) -> None:
        nonlocal records
        records = number

    with (
        operator_database(load_settings()) as database,
        audited(database, tenant_id, AuditName.EXPORTED, "audit stream", format=form),
    ):
        begun = _write_export(database, tenant_id, out, form, count_records)
    head, archived = begun.header.signed_head, begun.header.archived
    document = {
        "tenant_id": tenant_id,
        "file": str(out),
        "events": records,
        "format": form,
        "verifiable": form is Format.JSONL,
        "signed": 0 if head is None else head.seq,
        "archived": 0 if archived is None else archived.seq,
        "key": "" if head is None else head.key,
        "fingerprint": "" if head is None else head.fingerprint,
    }

    def show(console: Console) -> None:
        console.print(Text(f"{out}: {records} records, signed up to record {document['signed']}"))
        if archived is not None:
            console.print(Text(f"records 1 to {archived.seq} are in archive files"))
        if form is not Format.JSONL:
            console.print(Text(f"{out} is {NOT_VERIFIABLE}"))
        elif head is not None:
            console.print(Text(f"the signature is by {head.key}, fingerprint {head.fingerprint or 'unknown'}"))

    output.answer(document, as_json=as_json, show=show)


def _write_export(
    database: Database, tenant_id: str, out: Path, form: Format, count_records: Callable[[int], None]
) -> Export:
    """Write the file, again from the first record on if records were archived before they were read."""
    keys = PublicKeys.from_database(PlatformQueries(database).audit_keys())
    while True:
        with database.tenant_snapshot(tenant_id) as tx:
            begun = begin_export(tx, AuditFilter(), datetime.now(UTC), keys.fingerprint)
        rendered = begun.rendered(database, count_records, ocsf_line)
        with suppress(ExportedRecordsArchived), new_file(out) as file:
            for lines in begun.lines(database, count_records) if form is Format.JSONL else rendered:
                file.write(lines.encode())
            return begun


def certificate(tenant: Tenant, out: Out, *, as_json: output.AsJson = False) -> None:
    """Export the signed erasure certificate of an offboarded tenant."""
    tenant_id = parse_any_tenant_id(tenant)
    with (
        operator_database(load_settings()) as database,
        audited(database, tenant_id, AuditName.EXPORTED, "erasure certificate", format="json"),
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
    """Export the public keys that verify audit streams and certificates."""
    with operator_database(load_settings()) as database:
        keys = PublicKeys.from_database(PlatformQueries(database).audit_keys())
    if not keys.all():
        raise PublicKeyRefused(
            "no public key is stored yet", "the worker stores the keys when it starts; check that it is running"
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
