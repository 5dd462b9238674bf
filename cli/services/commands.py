"""`openkcmctl service`: connect a database or service of a customer, list, renew or disconnect services.

The command stores the request and reads the certificate with the operator's role; the workflow does the rest. The
command makes no request to Vault.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.audited import audited
from cli.confirmation import SERVICE, ConfirmService, refuse_unconfirmed
from cli.connections import Tenant, ask_gateway, operator_database
from cli.documents import describe_service
from cli.services import join_token, protected_fields
from cli.services.coverage import show_coverage
from cli.services.smoke_test import try_service
from config.settings import Settings, load_settings
from core.certificates import APPLIANCE_DAYS
from core.errors.platform import Superseded
from core.errors.services import ServiceAlreadyConnected, ServiceUnknown
from core.errors.tenants import TenantUnknown
from core.services import ServiceState, refuse_another_key, refuse_unconnectable
from database.connection.database import Database
from database.services.agents import HeartbeatRow
from database.services.repository import ServiceCertificateRow, ServiceRequestRow
from database.tenants import TenantRow
from openkcm.cli import output
from openkcm.contract.audit_events import AuditName
from openkcm.contract.client_files import AUTHORITY, CERTIFICATE, KEY, Offer, certificates, configuration
from openkcm.contract.csr import LONGEST, requested_key
from openkcm.contract.names import parse_service_name, parse_tenant_id
from openkcm.contract.services import ServiceKind, is_connected
from openkcm.credentials.store import CredentialStore
from openkcm.errors import FolderRefused

if TYPE_CHECKING:
    from workflows.client.workflow_client import WorkflowClient

Name = Annotated[str, typer.Argument(help="Name of the service.")]


def register(app: typer.Typer) -> None:
    services = typer.Typer(no_args_is_help=True)
    services.command("connect")(connect)
    services.command("list")(list_services)
    services.command("renew")(renew)
    services.command("disconnect")(disconnect)
    services.command("smoke-test")(try_service)
    services.command("join-token")(join_token.make)
    services.command("coverage")(show_coverage)
    services.command("list-protected-fields")(protected_fields.show)
    services.command("protect-field")(protected_fields.protect)
    services.command("unprotect-field")(protected_fields.unprotect)
    app.add_typer(services, name="service")


def connect(  # noqa: PLR0913 - one parameter an option
    tenant: Tenant,
    *,
    kind: Annotated[ServiceKind, typer.Option(help="Service type.")],
    name: Annotated[str, typer.Option(help="Name of the service, unique within the tenant.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the new key, the certificate and the configuration.")
    ] = None,
    csr: Annotated[Path | None, typer.Option(help="Certificate request (PKCS #10, PEM) for an existing key.")] = None,
    certificate_days: Annotated[
        int | None,
        typer.Option(
            min=APPLIANCE_DAYS[0],
            max=APPLIANCE_DAYS[1],
            help="Lifetime of the certificate for an appliance that cannot run the agent; it is not renewed.",
        ),
    ] = None,
    another_certificate: Annotated[
        bool,
        typer.Option(
            "--another-certificate",
            help="Issue a further certificate for a connected service whose newest one is for another key.",
        ),
    ] = False,
    as_json: output.AsJson = False,
) -> None:
    """Connect a service, or renew the certificate of a connected one for the same key."""
    if out is None and csr is None:
        raise typer.BadParameter("specify --out DIR for a new key, or --csr FILE for an existing key")
    tenant_id, service, settings = parse_tenant_id(tenant), parse_service_name(name), load_settings()
    request_id = uuid4().hex
    with operator_database(settings) as database:
        row, newest_pem = _require_connectable(database, tenant_id, service, kind)
        is_refused = newest_pem is not None and not another_certificate
        if is_refused and csr is None and out is not None and not (out / KEY).exists():
            raise ServiceAlreadyConnected  # before a folder or a key is created
        folder = None if out is None else CredentialStore(out, tenant_id, service)
        if folder is not None and csr is not None:
            folder.refuse_own_key()
        csr_pem = _read_request(csr) if csr is not None else folder.request() if folder is not None else ""
        if is_refused:
            refuse_another_key(ServiceState.CONNECTED, newest_pem, csr_pem)
        with database.tenant_tx(tenant_id) as tx:
            tx.services.request(ServiceRequestRow(request_id, service, kind, csr_pem, certificate_days))
        with audited(database, tenant_id, AuditName.SERVICE_CONNECT_REQUESTED, service, kind=kind, request=request_id):
            ask_gateway(
                settings,
                lambda gateway: gateway.connect_service(
                    tenant_id, row.region, service, request_id, another_key=another_certificate
                ),
            )
        with database.tenant_tx(tenant_id) as tx:
            leaf, chain = tx.services.issued(service, request_id)
    offer, written = _offer(settings), []
    if folder is not None:
        written = folder.write(_files(folder, kind, service, offer, leaf, chain, own_key=csr is None))
    document: dict[str, Any] = {
        "tenant_id": tenant_id,
        "service_id": service,
        "kind": kind,
        "certificate_not_after": leaf.not_after.isoformat(),
        "renewed_by_hand": certificate_days is not None,
        "kmip": offer.kmip,
        "https": offer.https,
        "files": written,
    }
    if folder is None:
        document |= {"certificate": leaf.certificate_pem, "chain": chain}
    output.answer(document, as_json=as_json, show=lambda console: _show(console, document))


def list_services(tenant: Tenant, *, as_json: output.AsJson = False) -> None:
    """List a tenant's services."""
    tenant_id = parse_tenant_id(tenant)
    with operator_database(load_settings()) as database, database.tenant_tx(tenant_id) as tx:
        if tx.tenants.get() is None:
            raise TenantUnknown
        agents, now = tx.agents.all(), datetime.now(UTC)
        services = [
            describe_service(row)
            | {"agents": [_describe_agent(one, now) for one in agents if one.service == row.service]}
            for row in tx.services.all()
        ]

    def draw(console: Console) -> None:
        table = Table("service", "kind", "state", "certificate until", "last seen", "agent")
        for service in services:
            times = [(service[at] or "")[:19].replace("T", " ") for at in ("certificate_not_after", "last_seen_at")]
            cells = (service["service_id"], service["kind"], service["state"], *times, _agents(service["agents"]))
            table.add_row(*map(Text, cells))
        console.print(table)

    output.answer({"tenant_id": tenant_id, "services": services}, as_json=as_json, show=draw)


def _describe_agent(row: HeartbeatRow, now: datetime) -> dict[str, Any]:
    """Return an agent as JSON types; the agent reports all values except the time of its last contact."""
    return {
        "instance": row.instance,
        "agent_version": row.agent_version,
        "connected": is_connected(row.last_contact_at, now),
        "last_contact_at": row.last_contact_at.isoformat(),
        "certificate_not_after": row.certificate_not_after.isoformat(),
        "problem": row.problem,
    }


def _agents(agents: Sequence[dict[str, Any]]) -> str:
    """Return the status of a service's agents in a few words."""
    problems = sorted({one["problem"] for one in agents if one["connected"] and one["problem"]})
    if problems:
        return ", ".join(problems)
    connected = sum(one["connected"] for one in agents)
    return "" if not agents else "connected" if connected == len(agents) else f"{connected} of {len(agents)} connected"


def renew(tenant: Tenant, name: Name, *, as_json: output.AsJson = False) -> None:
    """Issue the next certificate for a service's newest key; the service fetches it, an appliance gets it here."""
    document = _change_service(
        tenant, name, AuditName.SERVICE_RENEW_REQUESTED, lambda gateway, *service: gateway.renew_service(*service)
    )
    document |= _for_appliance(parse_tenant_id(tenant), name)
    until = str(document["certificate_not_after"])[:19].replace("T", " ")

    def show(console: Console) -> None:
        console.print(f"{name} has a certificate until {until} UTC")
        if "certificate" in document:
            console.print(f"Install it on the appliance:\n{document['certificate']}", markup=False, highlight=False)

    output.answer(document, as_json=as_json, show=show)


def _for_appliance(tenant_id: str, service: str) -> dict[str, str]:
    """Return the newest certificate with its tenant CA if it is that of an appliance, which cannot fetch it."""
    with operator_database(load_settings()) as database, database.tenant_tx(tenant_id) as tx:
        leaf = tx.services.leaf(service)
        if leaf is None or tx.services.requested(leaf.request_id).certificate_days is None:
            return {}
        issued, chain = tx.services.issued(service, leaf.request_id)
    return {"certificate": certificates(issued.certificate_pem, chain)[0]}


def disconnect(tenant: Tenant, name: Name, *, confirm: ConfirmService = None, as_json: output.AsJson = False) -> None:
    """Revoke every certificate of a service at once; its service key is kept."""
    consequence = f"every certificate of {name} of {tenant} is revoked and its connections are closed at once"
    document = _change_service(
        tenant,
        name,
        AuditName.SERVICE_DISCONNECT_REQUESTED,
        lambda gateway, *service: gateway.disconnect_service(*service),
        lambda service: refuse_unconfirmed(service, confirm, consequence, "disconnect it", what=SERVICE, dry_run=False),
    )
    output.answer(document, as_json=as_json, show=lambda console: console.print(f"{name} of {tenant} is disconnected"))


def _change_service(
    tenant: str,
    name: str,
    event: AuditName,
    change: "Callable[[WorkflowClient, str, str, str], Awaitable[None]]",
    confirm: Callable[[str], None] = lambda _service: None,
) -> dict[str, Any]:
    """Call the workflow of a known and confirmed service and return the service afterwards."""
    tenant_id, service, settings = parse_tenant_id(tenant), parse_service_name(name), load_settings()
    with operator_database(settings) as database:
        with database.tenant_tx(tenant_id) as tx:
            row, known = tx.tenants.get(), tx.services.get(service)
        if row is None:
            raise TenantUnknown
        if known is None:
            raise ServiceUnknown
        confirm(service)
        with audited(database, tenant_id, event, service):
            ask_gateway(settings, lambda gateway: change(gateway, tenant_id, row.region, service))
        with database.tenant_tx(tenant_id) as tx:
            known = tx.services.get(service) or known
    return {"tenant_id": tenant_id} | describe_service(known)


def _require_connectable(
    database: Database, tenant_id: str, service: str, kind: ServiceKind
) -> tuple[TenantRow, str | None]:
    """Return the tenant and the newest certificate of a connected service.

    Raises the errors of the workflow before a key is created.
    """
    with database.tenant_tx(tenant_id) as tx:
        row, known, newest = tx.tenants.get(), tx.services.get(service), tx.services.leaf(service)
    if row is None:
        raise TenantUnknown
    refuse_unconnectable(row.state, kind, None if known is None else known.kind)
    if known is None or known.state is not ServiceState.CONNECTED or newest is None:
        return row, None
    return row, newest.certificate_pem


def _read_request(file: Path) -> str:
    try:
        with file.open(encoding="ascii") as stream:
            text = stream.read(LONGEST + 1)
    except (OSError, UnicodeDecodeError) as failed:
        raise FolderRefused(f"{file} cannot be read", "specify a PKCS #10 request in PEM with --csr") from failed
    requested_key(text)
    return text


def _offer(settings: Settings) -> Offer:
    return Offer(settings.crypto_https_url, settings.crypto_kmip_address)


def _files(  # noqa: PLR0913, PLR0917 - the contents of a folder
    folder: CredentialStore,
    kind: ServiceKind,
    service: str,
    offer: Offer,
    leaf: ServiceCertificateRow,
    chain: str,
    *,
    own_key: bool,
) -> dict[str, str]:
    """Return file name → text; the certificate is last, so that a folder with a certificate is complete."""
    presented, root = certificates(leaf.certificate_pem, chain)
    files = {AUTHORITY: root}
    if own_key:
        if not folder.holds_key_of(leaf.certificate_pem):
            raise Superseded("the certificate is for a key that is no longer in the folder", "run the command again")
        files |= configuration(kind, service, str(folder.path), offer, presented + folder.key_pem())
    return files | {CERTIFICATE: presented}


def _show(console: Console, document: dict[str, Any]) -> None:
    if "certificate" in document:
        console.print(
            document["certificate"] + document["chain"], markup=False, highlight=False, end="", soft_wrap=True
        )
        return
    until = document["certificate_not_after"][:19].replace("T", " ")
    console.print(
        Text(f"{document['service_id']} of {document['tenant_id']} is connected, certificate until {until} UTC")
    )
    if document["renewed_by_hand"]:
        console.print(
            Text(
                "The certificate is not renewed automatically: the service stops at its end. Issue the next one "
                "before, with the same command, and install it; an alert is sent when a sixth of the lifetime is left. "
                "If the key may be compromised, disconnect the service, which revokes the certificate at once."
            )
        )
    console.print(Text(f"https  {document['https']}\nkmip   {document['kmip']}"))
    for path in document["files"]:
        console.print(Text(f"wrote  {path}"), soft_wrap=True)
