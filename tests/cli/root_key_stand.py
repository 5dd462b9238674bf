"""The operator's commands on a real database, with the fake workflow client of the dashboard's tests."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import typer
from typer.testing import CliRunner, Result

import cli.certificates
import cli.isolation
import cli.root_keys.commands
import cli.rotation
import cli.services.commands
import cli.tenants.commands
import cli.tenants.notifications
from cli.connections import Question
from config.settings import Settings
from core.tenants.locks import LockReason
from database.connection.database import Database
from openkcm.errors import OpenKcmError
from tests.dashboard.gateways.workflow_gateway import FakeGateway
from tests.dashboard.scene import ACME, KEY_ARN, everything_stored
from tests.database.fixtures import Field
from workflows.client.updates import UpdateRejected
from workflows.client.workflow_client import WorkflowClient

AWS = ("--provider", "aws-kms", "--key-arn", KEY_ARN)
HSM = ("--provider", "pkcs11", "--token", "acme", "--key", "root")
BAO = ("--provider", "openbao", "--address", "https://bao.acme.example:8200", "--key", "root")
PLATFORM = ("--provider", "platform")

SECRET = "hunter2-must-never-be-seen"


def refused(error: OpenKcmError) -> UpdateRejected:
    return UpdateRejected(error.code, error.message, error.hint)


@dataclass
class Awaited:
    """The fake workflow client with asynchronous methods, as the commands call it."""

    gateway: FakeGateway

    def __getattr__(self, name: str) -> Any:
        async def ask(*arguments: Any, **named: Any) -> Any:
            return getattr(self.gateway, name)(*arguments, **named)

        return ask


@dataclass
class OperatorCli:
    """Runs the operator's commands and returns their documents and exit statuses."""

    field: Field
    gateway: FakeGateway
    folder: Path
    tenant_id: str = ACME

    @property
    def worker(self) -> Database:
        return self.gateway.worker

    def invoke(self, *words: str, typed: str | None = None) -> Result:
        """Run a command with text output and without a terminal."""
        app = typer.Typer()
        app.callback()(lambda: None)
        cli.root_keys.commands.register(app, self._ask)
        cli.rotation.register(app, self._ask)
        cli.tenants.commands.register(app, self._ask)
        cli.certificates.register(app, self._ask)
        cli.isolation.register(app, self._ask)
        cli.tenants.notifications.register(app)
        cli.services.commands.register(app)
        return CliRunner().invoke(app, list(words), input=typed)

    def run(self, *words: str, status: int = 0, typed: str | None = None) -> Any:
        """Run a command with --json and return its document; raises the error that `cli.__main__` would get."""
        result = self.invoke(*words, "--json", typed=typed)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == status, result.output
        return json.loads(result.stdout)

    def credentials(self, mode: int = 0o600, **fields: str) -> str:
        """Write a file of credentials and return its name."""
        file = self.folder / "credentials.json"
        file.write_text(json.dumps(fields))
        file.chmod(mode)
        return str(file)

    def everything_stored(self) -> str:
        return everything_stored(self.field)

    def _ask(self, settings: Settings, question: Question) -> None:
        assert settings.database_url == self.field.url
        asyncio.run(question(cast("WorkflowClient", Awaited(self.gateway))))


def at_a_terminal(words: Sequence[str], typed: Sequence[str], temporal_port: int) -> tuple[int, str]:
    """Run a command at a terminal; return its exit status and the output including the echo.

    Each answer is typed after its question, because a terminal echoes earlier input.
    """
    outer, inner = os.openpty()
    environment = dict(os.environ) | {"OPENKCM_TEMPORAL_PORT": str(temporal_port), "COLUMNS": "200"}
    with subprocess.Popen(
        [sys.executable, "-m", "cli", *words],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        env=environment,
        start_new_session=True,
    ) as running:
        os.close(inner)
        shown, left = b"", list(typed)
        with suppress(OSError):  # the last program at the terminal has exited
            while read := os.read(outer, 4096):
                shown += read
                if left and shown.rstrip(b"\r\n").endswith(b": "):
                    os.write(outer, f"{left.pop(0)}\n".encode())
    os.close(outer)
    return running.returncode, shown.decode()


def lock_by_root_key(operator_cli: OperatorCli, health: str = "root_key_disabled") -> None:
    """Record a failed customer root key, and lock the tenant with that reason."""
    operator_cli.run("root-key", "change", ACME, *HSM, "--credentials", operator_cli.credentials(pin="1234"))
    with operator_cli.worker.tenant_tx(ACME) as tx:
        current = tx.root_keys.current()
        assert current is not None
        tx.root_keys.report(current.root_key_id, health)
        tx.tenants.hold(LockReason.ROOT_KEY)
