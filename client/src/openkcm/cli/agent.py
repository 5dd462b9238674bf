"""`openkcm agent`: manage one service's certificate. It runs at the customer, without database and settings."""

import os
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from openkcm.agent.agent import Agent
from openkcm.agent.attestation import JOIN_TOKEN_VARIABLE, JWT_VARIABLE, proofs_from
from openkcm.agent.config import AgentConfig, folder_seen_as
from openkcm.agent.enrolment_client import EnrolmentClient
from openkcm.agent.reload import Command, NoReload, PidFile, Reload
from openkcm.agent.schedule import ServerClock
from openkcm.agent.signals import SignalWaiter
from openkcm.cli.version import installed_version
from openkcm.contract.client_files import parse_folder
from openkcm.contract.names import parse_service_name
from openkcm.contract.services import ServiceKind
from openkcm.credentials.store import CredentialStore
from openkcm.logging import configure_logs

_STDIN = "-"


def register(app: typer.Typer) -> None:
    app.command("agent")(agent)


def agent(  # noqa: PLR0913 - one parameter for each option
    *,
    url: Annotated[str, typer.Option(help="URL of the control endpoint")],
    service: Annotated[str, typer.Option(help="Name of the service within its tenant")],
    kind: Annotated[ServiceKind, typer.Option(help="Service type")],
    out: Annotated[Path, typer.Option(help="Folder for key, certificate and configuration")],
    join_token_file: Annotated[
        str | None,
        typer.Option(help=f"File with a join token, - for standard input; default: {JOIN_TOKEN_VARIABLE}"),
    ] = None,
    jwt_file: Annotated[
        str | None, typer.Option(help=f"File with a JWT of the platform, - for standard input; default: {JWT_VARIABLE}")
    ] = None,
    ca_file: Annotated[Path | None, typer.Option(help="PEM file of the CAs to trust for the control endpoint")] = None,
    mounted_as: Annotated[
        str | None, typer.Option(help="Path of the folder as the service sees it, if different")
    ] = None,
    reload_pid_file: Annotated[
        Path | None, typer.Option(help="File with the id of the process to signal after a change")
    ] = None,
    reload_signal: Annotated[str, typer.Option(help="Name of the signal to send")] = "HUP",
    reload_command: Annotated[str | None, typer.Option(help="Command to run after a change, without a shell")] = None,
    once: Annotated[bool, typer.Option("--once", help="Do the work that is due and exit")] = False,
    wait: Annotated[float, typer.Option(help="With --once: seconds to wait for a certificate")] = 180.0,
    log_format: Annotated[str, typer.Option(help="Log format: json or console")] = "json",
) -> None:
    """Enrol a service, renew its certificate and notify the service."""
    if log_format not in {"json", "console"}:
        raise typer.BadParameter("the log format is json or console")
    if join_token_file is not None and jwt_file is not None:
        raise typer.BadParameter("give one attestation")
    if reload_pid_file is not None and reload_command is not None:
        raise typer.BadParameter("give --reload-pid-file or --reload-command, not both")
    configure_logs(log_format, "agent")
    name, given = parse_service_name(service), join_token_file or jwt_file
    seen_as = parse_folder(folder_seen_as(out, mounted_as))
    proofs = proofs_from(None if given in {None, _STDIN} else Path(str(given)), os.environ, stdin=given == _STDIN)
    reload: Reload = NoReload()
    if reload_pid_file is not None:
        reload = PidFile(reload_pid_file, reload_signal)
    elif reload_command is not None:
        reload = Command(reload_command, os.environ)
    folder, clock, signals = CredentialStore(out, None, name), ServerClock(), SignalWaiter()
    control = EnrolmentClient(url, clock, ca_file)
    os.umask(0o077)
    with folder.held():
        signals.listen()
        one = Agent(
            AgentConfig(name, kind, installed_version(), seen_as),
            folder,
            control,
            proofs,
            reload=reload,
            clock=clock,
            signals=signals,
        )
        with closing(control), closing(one):
            if once:
                one.once(wait)
            else:
                one.run()
