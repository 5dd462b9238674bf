"""`openkcmctl audit forward`: forward a tenant's audit stream to an HTTPS endpoint or a syslog server."""

import hashlib
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import typer
from rich.text import Text

from cli.connections import Tenant, operator_database, parse_any_tenant_id
from compliance.audit.forwarding.batches import Form, StateFile
from compliance.audit.forwarding.forwarder import Forwarding, Progress
from compliance.audit.forwarding.sinks import open_receiver
from config.settings import load_settings
from core.correlation import correlated
from openkcm.cli import output
from openkcm.logging import configure_logs

_SHOWN_EVERY = 2.0


def stream(  # noqa: PLR0913 - one parameter an option
    tenant: Tenant,
    *,
    to: Annotated[str, typer.Option(help="https://…, syslog+tls://HOST:PORT or syslog+tcp://127.0.0.1:PORT.")],
    form: Annotated[Form, typer.Option("--format", help="openkcm: records with their hashes; ocsf.")] = Form.OPENKCM,
    token_file: Annotated[Path | None, typer.Option(help="File with the bearer token for HTTPS.")] = None,
    ca: Annotated[Path | None, typer.Option(help="The receiver's CA in PEM; default: the system's CAs.")] = None,
    state: Annotated[Path | None, typer.Option(help="File for the progress; default: in state_dir.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Follow new records until interrupted.")] = False,
    as_json: output.AsJson = False,
) -> None:
    """Forward a tenant's audit stream: at least once, in order, from the last acknowledged record."""
    tenant_id, settings = parse_any_tenant_id(tenant), load_settings()
    receiver = open_receiver(to, token_file, ca)
    destination_hash = hashlib.sha256(f"{to}\n{form}".encode()).hexdigest()[:12]
    file = StateFile(state or settings.state_dir / "audit-streams" / f"{tenant_id}-{destination_hash}.json")
    configure_logs(settings.log_format, "audit-stream")
    stop, shown = threading.Event(), 0.0

    def show_progress(at: Progress) -> None:
        nonlocal shown
        if not as_json and (not at.behind or time.monotonic() - shown > _SHOWN_EVERY):
            output.progress.print(Text(f"acknowledged up to record {at.seq}, {at.behind} behind"))
            shown = time.monotonic()

    with (
        correlated(f"command/{uuid4().hex}"),
        _stop_on_signals(stop),
        file.held(),
        operator_database(settings) as database,
    ):
        forwarding = Forwarding(
            database,
            receiver,
            file,
            file.read(tenant_id, to, form),
            socket.gethostname(),
            stop,
            show_progress,
        )
        forwarding.run(follow=follow)
    document = {
        "tenant_id": tenant_id,
        "to": to,
        "format": form,
        "sent": forwarding.sent,
        "acknowledged": forwarding.state.seq,
        "state": str(file.path),
    }
    summary = f"{to}: {forwarding.sent} records, acknowledged up to record {forwarding.state.seq}"
    output.answer(document, as_json=as_json, show=lambda console: console.print(Text(summary), soft_wrap=True))


@contextmanager
def _stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """Let SIGTERM and SIGINT end the forwarding between two batches, so that its end is recorded."""
    before = {
        signum: signal.signal(signum, lambda _signum, _frame: stop.set()) for signum in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
