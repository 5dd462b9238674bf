"""`openkcm agent`: look after one service's certificate. It runs at the customer: no database, no settings."""

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


def agent(  # noqa: PLR0913 - one parameter an option
    *,
    url: Annotated[str, typer.Option(help="Address of OpenKCM's control endpoint.")],
    service: Annotated[str, typer.Option(help="The service's name within its tenant.")],
    kind: Annotated[ServiceKind, typer.Option(help="What it is.")],
    out: Annotated[Path, typer.Option(help="Folder for its key, its certificate and its configuration.")],
    join_token_file: Annotated[
        str | None,
        typer.Option(help=f"File with a join token, - for standard input; else the variable {JOIN_TOKEN_VARIABLE}."),
    ] = None,
    jwt_file: Annotated[
        str | None, typer.Option(help=f"File with a JWT of your platform, - for standard input; else {JWT_VARIABLE}.")
    ] = None,
    ca_file: Annotated[Path | None, typer.Option(help="Authorities to trust the control endpoint by, in PEM.")] = None,
    mounted_as: Annotated[
        str | None, typer.Option(help="Where the service itself finds the folder, if not under the same path.")
    ] = None,
    reload_pid_file: Annotated[
        Path | None, typer.Option(help="File with the process to signal after a change.")
    ] = None,
    reload_signal: Annotated[str, typer.Option(help="Which signal it gets.")] = "HUP",
    reload_command: Annotated[str | None, typer.Option(help="Program to run after a change; no shell is used.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Do what is due now and end.")] = False,
    wait: Annotated[float, typer.Option(help="With --once: seconds to wait for a certificate.")] = 180.0,
    log_format: Annotated[str, typer.Option(help="json or console.")] = "json",
) -> None:
    """Get a service its certificate by a proof of which service it is, renew it, and tell the service."""
    if log_format not in {"json", "console"}:
        raise typer.BadParameter("the log is json or console")
    if join_token_file is not None and jwt_file is not None:
        raise typer.BadParameter("give one proof")
    if reload_pid_file is not None and reload_command is not None:
        raise typer.BadParameter("say in one way how the service is told")
    configure_logs(log_format, "agent")
    name, given = parse_service_name(service), join_token_file or jwt_file
    seen_as = parse_folder(folder_seen_as(out, mounted_as))
    proofs = proofs_from(None if given in {None, _STDIN} else Path(str(given)), os.environ, stdin=given == _STDIN)
    reload: Reload = NoReload()
    if reload_pid_file is not None:
        reload = PidFile(reload_pid_file, reload_signal)
    elif reload_command is not None:
        reload = Command(reload_command, os.environ)
    folder, clock, bell = CredentialStore(out, None, name), ServerClock(), SignalWaiter()
    control = EnrolmentClient(url, clock, ca_file)
    os.umask(0o077)
    with folder.held():
        bell.listen()
        one = Agent(
            AgentConfig(name, kind, installed_version(), seen_as),
            folder,
            control,
            proofs,
            reload=reload,
            clock=clock,
            bell=bell,
        )
        with closing(control), closing(one):
            if once:
                one.once(wait)
            else:
                one.run()
