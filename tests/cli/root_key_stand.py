"""The operator's commands over a real database, with a gateway that does to its rows what the workflows do."""

import asyncio
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import typer
from typer.testing import CliRunner, Result

import cli.boundaries
import cli.coverage
import cli.leaving
import cli.protection
import cli.root_key
import cli.rotate
import cli.tenant
from cli import output
from cli.access import Question
from config import secrets
from config.sealing import unseal
from config.secrets import Role
from config.settings import Settings
from database.connection import Database
from database.interfaces import RewrappedRow, SealedRootKeyRow, TenantTransaction, WantedRotation
from devstack.secrets import ensure_secrets
from tenancy.approval_errors import ApprovalRequired
from tenancy.approvals import Action
from tenancy.authorities import AuthorityState
from tenancy.boundaries import CheckResult
from tenancy.errors import OpenKcmError
from tenancy.examination import run_of
from tenancy.examination_errors import BreachNotCleared, ExaminationFailed
from tenancy.ids import l2_key, root_key
from tenancy.leaving_messages import LeaveRequest
from tenancy.lifecycle import DECRYPTS, Move
from tenancy.locks import LockReason
from tenancy.messages import StandingMove
from tenancy.policy import TenantPolicy
from tenancy.root_keys import Credentials, PlatformPlace, Problem
from tenancy.rotation_errors import KeyVersionInUse
from tenancy.rotation_messages import RotateRequest
from tests.database.builders import (
    a_connected_service,
    a_provisioned_tenant,
    a_service_key,
    an_authority,
    an_examination,
)
from tests.database.fixtures import Field
from workflows.gateway import UpdateRefused

ACME = "acme-corp-12345"
KEY_ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
ROLE_ARN = "arn:aws:iam::111122223333:role/openkcm"

AWS = ("--provider", "aws-kms", "--key-arn", KEY_ARN)
HSM = ("--provider", "pkcs11", "--token", "acme", "--key", "root")
BAO = ("--provider", "openbao", "--address", "https://bao.acme.example:8200", "--key", "root")
PLATFORM = ("--provider", "platform")

SECRET = "hunter2-must-never-be-seen"


def refused(error: OpenKcmError) -> UpdateRefused:
    return UpdateRefused(error.code, error.message, error.hint)


@dataclass
class FakeGateway:
    """Refuses as the entity does; `fails` is what the next request meets, `finds` what a preflight finds."""

    worker: Database
    intake_pem: str
    fails: OpenKcmError | None = None
    finds: Sequence[Problem] = ()
    opened: list[Credentials] = dataclasses.field(default_factory=list)
    asked: list[str] = dataclasses.field(default_factory=list)
    left: list[LeaveRequest] = dataclasses.field(default_factory=list)
    rotations: list[RotateRequest] = dataclasses.field(default_factory=list)
    walls: dict[str, Sequence[CheckResult]] = dataclasses.field(default_factory=dict)
    unexamined: set[str] = dataclasses.field(default_factory=set)
    examinations: int = 1

    async def change_standing(self, tenant_id: str, move: StandingMove) -> None:
        self._ask(f"{move} {tenant_id}")
        try:
            with self.worker.tenant_tx(tenant_id) as tx:
                row = tx.tenants.lock()
                if move is StandingMove.LOCK and tx.policy.get().wants_two_for(Action.LOCK):
                    raise ApprovalRequired(Action.LOCK)
                if move is StandingMove.LOCK:
                    tx.tenants.hold(LockReason.SWITCH)
                elif move is StandingMove.CLEAR_BREACH:
                    newest = tx.boundaries.examination()
                    if newest is None or not newest.passed:
                        raise BreachNotCleared
                    tx.tenants.release(LockReason.BREACH)
                elif move is not StandingMove.UNLOCK:
                    tx.tenants.move(Move(move))
                elif row.state not in DECRYPTS:
                    tx.tenants.release(LockReason.SWITCH)
        except OpenKcmError as illegal:
            raise refused(illegal) from None

    async def change_policy(self, tenant_id: str, policy: TenantPolicy) -> None:
        self._ask(f"policy {tenant_id}")
        with self.worker.tenant_tx(tenant_id) as tx:
            if tx.policy.get().wants_two_for(Action.CHANGE_POLICY):
                raise refused(ApprovalRequired(Action.CHANGE_POLICY))
            tx.policy.set(policy)

    async def check_boundaries(self, tenant_id: str, region: str, *, anew: bool = False) -> str:
        self._ask(f"check {tenant_id} in {region}{' anew' * anew}")
        if tenant_id in self.unexamined:
            raise ExaminationFailed
        self.examinations += 1
        run = run_of(str(self.examinations))
        with self.worker.tenant_tx(tenant_id) as tx:
            an_examination(tx, *self.walls.get(tenant_id, ()), run=run, at=datetime.now(UTC))
        return run

    async def offboard(self, tenant_id: str, request: LeaveRequest) -> None:
        self._ask(f"offboard {tenant_id}")
        self.left.append(request)
        grace = timedelta() if request.now else timedelta(seconds=request.grace_seconds or 30 * 86400)
        with self.worker.tenant_tx(tenant_id) as tx:
            tx.leaving.begin(grace)

    async def restore(self, tenant_id: str) -> None:
        self._ask(f"restore {tenant_id}")
        try:
            with self.worker.tenant_tx(tenant_id) as tx:
                tx.leaving.restore()
        except OpenKcmError as illegal:
            raise refused(illegal) from None

    async def preflight_root_key(self, tenant_id: str, request_id: str) -> None:
        self._ask(f"preflight {tenant_id}")
        with self.worker.tenant_tx(tenant_id) as tx:
            self._open(tx, request_id)
            tx.root_keys.found(request_id, self.finds)

    async def change_root_key(self, tenant_id: str, request_id: str) -> None:
        self._ask(f"change {tenant_id}")
        with self.worker.tenant_tx(tenant_id) as tx:
            self._open(tx, request_id)
            number = begin(tx, request_id)
            tx.root_keys.found(request_id, self.finds)
            if self.finds:
                tx.root_keys.abandon(number, self.finds[0].code)
            else:
                wraps = [(row, b"wrapped anew") for row in tx.root_keys.unstaged(number, 100)]
                tx.root_keys.stage(number, wraps)
                tx.tenants.lock()
                assert tx.root_keys.switch(number)
        if self.finds:
            raise UpdateRefused(
                self.finds[0].code,
                "the root key was not changed and the former one is in force",
                f"openkcm root-key show {tenant_id} says what was found",
            )

    async def roll_authority(self, tenant_id: str) -> None:
        self._ask(f"roll {tenant_id}")
        with self.worker.tenant_tx(tenant_id) as tx:
            made = replace(an_authority("0c0d"), key_version=2, state=AuthorityState.PREPARED)
            tx.certificates.record_authority(made)
            tx.certificates.activate(made.serial)

    async def rotate_keys(self, tenant_id: str, request: RotateRequest) -> None:
        self._ask(f"rotate {tenant_id}")
        self.rotations.append(request)
        wanted = WantedRotation(request.tenant_key, request.services, request.service, request.compromised)
        with self.worker.tenant_tx(tenant_id) as tx:
            number, newest = len(tx.rotations.all()) + 1, tx.keys.get(l2_key(tenant_id))
            assert newest is not None
            tx.rotations.begin(number, wanted, newest.version)
            if request.tenant_key:
                tx.rotations.rotated(number, newest.version + 1)
            for service, version in tx.rotations.unprepared(number, TenantPolicy()):
                tx.rotations.prepare(
                    number, replace(a_service_key(tenant_id, service, version), l2_version=newest.version + 1)
                )
            tx.rotations.activate(number)
            outdated = tx.rotations.outdated(100)
            tx.rotations.rewrap(number, [RewrappedRow(row, b"wrapped anew", newest.version + 1) for row in outdated])
            assert tx.rotations.retire_tenant_key(number)
            tx.rotations.end(number)

    async def retire_service_key(self, tenant_id: str, service: str, version: int) -> None:
        self._ask(f"retire {tenant_id} {service} {version}")
        try:
            with self.worker.tenant_tx(tenant_id) as tx:
                objects = tx.rotations.destroy(service, version)
        except OpenKcmError as wrong:
            raise refused(wrong) from None
        if objects:
            raise refused(KeyVersionInUse(service, version, f"objects sealed under it: {objects}"))

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.fails is not None:
            raise self.fails

    def _open(self, tx: TenantTransaction, request_id: str) -> None:
        request = tx.root_keys.requested(request_id)
        if isinstance(request.place, PlatformPlace):
            assert request.sealed is None
        else:
            assert request.sealed is not None
            self.opened.append(unseal(self.intake_pem, tx.tenant_id, request_id, request.sealed))


def begin(tx: TenantTransaction, request_id: str) -> int:
    """Admit the key of a request and begin the change to it, as step 1 does; return the change's number."""
    request, number = tx.root_keys.requested(request_id), len(tx.root_keys.changes()) + 1
    if isinstance(request.place, PlatformPlace):
        tx.root_keys.begin(number, request.place.provider, root_key("eu-west-1"), None)
        return number
    tx.root_keys.admit(SealedRootKeyRow(request_id, request.place, "ciphertext under the tenant's L2"))
    tx.root_keys.prove(request_id, b"wrapped", hashlib.sha256(b"probe").digest())
    tx.root_keys.begin(number, request.place.provider, request.place.name, request_id)
    return number


@dataclass
class Desk:
    """The operator's terminal: commands in, documents and exit statuses out."""

    field: Field
    gateway: FakeGateway
    folder: Path
    tenant_id: str = ACME

    @property
    def worker(self) -> Database:
        return self.gateway.worker

    def invoke(self, *words: str, typed: str | None = None) -> Result:
        """Run a command as a person does who is not at a terminal."""
        app = typer.Typer()
        app.callback()(lambda: None)
        cli.root_key.register(app, self._ask)
        cli.rotate.register(app, self._ask)
        cli.tenant.register(app, self._ask)
        cli.leaving.register(app, self._ask)
        cli.boundaries.register(app, self._ask)
        cli.coverage.register(app)
        cli.protection.register(app)
        # A console keeps the width it was made with, which under xdist is the terminal's.
        with patch.object(output.people, "_width", 300):
            return CliRunner().invoke(app, list(words), input=typed)

    def run(self, *words: str, status: int = 0, typed: str | None = None) -> Any:
        """Run a command as a script does and return its document; a refusal is raised as `cli.__main__` gets it."""
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
        """Return every row of every table, as a thief of the database reads them."""
        with self.field.administrator() as administrator:
            tables = administrator.execute("select tablename from pg_tables where schemaname = 'okcm'").fetchall()
            return "\n".join(
                str(row) for (table,) in tables for row in administrator.execute(f"select * from okcm.{table}")
            )

    def _ask(self, settings: Settings, question: Question) -> None:
        assert settings.database_url == self.field.url
        asyncio.run(question(self.gateway))


@pytest.fixture
def secrets_folder(field, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The operator's secrets; the environment names them, the database and a folder for the state."""
    folder = tmp_path / "secrets"
    secrets.ensure_secret(folder, secrets.database_password(Role.OPERATOR), field.server.passwords["operator"])
    secrets.ensure_secret(folder, secrets.context_key(Role.OPERATOR), field.key("operator").hex())
    ensure_secrets(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENKCM_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("OPENKCM_SECRETS_DIR", str(folder))
    monkeypatch.setenv("OPENKCM_DATABASE_URL", field.url)
    return folder


@pytest.fixture
def desk(field, secrets_folder: Path, tmp_path: Path) -> Desk:
    worker = field.open("worker")
    a_provisioned_tenant(worker, ACME)
    with worker.tenant_tx(ACME) as tx:
        tx.tenants.move(Move.ACTIVATE)
    a_connected_service(field, ACME)
    return Desk(field, FakeGateway(worker, secrets.read_secret(secrets_folder, secrets.INTAKE_KEY)), tmp_path)


def at_a_terminal(words: Sequence[str], typed: Sequence[str], temporal_port: int) -> tuple[int, str]:
    """Run a command at a terminal; return its exit status and all that is shown, with what the terminal echoes.

    Each answer is typed after its question: what comes before is echoed by any terminal.
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
        with suppress(OSError):  # a terminal whose last program has ended
            while read := os.read(outer, 4096):
                shown += read
                if left and shown.rstrip(b"\r\n").endswith(b": "):
                    os.write(outer, f"{left.pop(0)}\n".encode())
    os.close(outer)
    return running.returncode, shown.decode()


def hold_by_root_key(desk: Desk, health: str = "root_key_disabled") -> None:
    """Let the tenant's own root key fail, and lock the tenant for it."""
    desk.run("root-key", "change", ACME, *HSM, "--credentials", desk.credentials(pin="1234"))
    with desk.worker.tenant_tx(ACME) as tx:
        current = tx.root_keys.current()
        assert current is not None
        tx.root_keys.report(current.root_key_id, health)
        tx.tenants.hold(LockReason.ROOT_KEY)
