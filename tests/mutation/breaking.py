"""Breaches of the running product and their repair: in its source, its database or a policy of the key server.

Each breach is one mistake or attack with its effect. It names isolation checks; at least one of them must detect it.
Further checks may detect it as well.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from psycopg import sql

from tests.concurrency import wait_until
from tests.e2e.stack import Stack
from vault.auth.client import VaultSession
from vault.setup import SETUP

STARTUP = Path(__file__).parent / "startup"
BREACHED = "BREACHED"
"""The environment variable with the path of the file of edits; see startup/sitecustomize.py."""


@dataclass(frozen=True)
class Source:
    """Edits of the source of a process: for each module, pairs of old and new text."""

    process: str
    edits: Mapping[str, Sequence[tuple[str, str]]]


@dataclass(frozen=True)
class Rows:
    """Statements of a superuser, and those that revert them; `{tenant}` is replaced by the id of the tenant."""

    do: str
    undo: str


@dataclass(frozen=True)
class Function:
    """Edits of a function of the database."""

    name: str
    edits: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Policy:
    """Edits of a policy of the key server, and the text `more` that is appended."""

    name: str
    edits: Sequence[tuple[str, str]]
    more: str = ""


@dataclass(frozen=True)
class KeyServerWrite:
    """A write of an administrator of the key server; `undo` reverts it, and the key `created_key` is then deleted."""

    path: str
    do: Mapping[str, object]
    undo: Mapping[str, object] | None = None
    created_key: str = ""


Change = Source | Rows | Function | Policy | KeyServerWrite


@dataclass(frozen=True)
class Breach:
    """`changes` in their order, and whether the tenant needs a service that is connected before or after them."""

    name: str
    effect: str
    changes: Sequence[Change]
    detected_by: frozenset[str]
    service: Literal["none", "before", "after"] = "none"


_ADMINISTRATOR = 'path "transit/*" { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }'


@dataclass
class BrokenInstallation:
    """The installation under test; each breach is checked at a separate tenant, because it locks the tenant."""

    stack: Stack
    file: Path
    tenant: str = ""
    _tenants: int = 0
    _setup: VaultSession = field(init=False)

    def __post_init__(self) -> None:
        secret = self.stack.settings.state_dir / "openbao" / "setup-secret-id"
        self._setup = VaultSession(self.stack.settings.vault_url, SETUP, secret.read_text(encoding="utf-8").strip())
        # A role that writes policies can give itself every right, so it becomes an administrator here.
        path = f"sys/policies/acl/openkcm-{SETUP}"
        policy = str((self._setup.read(path) or {})["policy"])
        self._setup.write(path, {"policy": f"{policy}\n{_ADMINISTRATOR}"})

    def enable_tenant(self) -> None:
        """Enable a new tenant."""
        self._tenants += 1
        self.tenant = f"broken-{self._tenants}"
        self.stack.enable(self.tenant, f"Broken {self._tenants}")

    def check_isolation(self) -> dict[str, str]:
        """Run the isolation checks of the tenant by the command; return the outcome of each check by its name."""
        done = self.stack.run("isolation", "check", self.tenant, "--json")
        document = json.loads(done.stdout)
        assert "checks" in document, done.stdout + done.stderr
        assert (done.returncode == 0) is document["passed"]
        return {check["name"]: check["outcome"] for check in document["checks"]}

    @contextmanager
    def broken(self, changes: Sequence[Change]) -> Iterator[None]:
        """Apply the changes and revert them after the block."""
        with ExitStack() as repairs:
            for change in changes:
                repairs.callback(self._apply(change))
            yield

    def _apply(self, change: Change) -> Callable[[], None]:
        """Apply a change and return the function that reverts it."""
        match change:
            case Source():
                self._edit_source(change)
                return lambda: self._restore_source(change.process)
            case Rows():
                self._execute(change.do)
                return lambda: self._execute(change.undo)
            case Function():
                with self.stack.owner() as administrator:
                    answer = administrator.execute("select pg_get_functiondef(%s::regproc)", [change.name]).fetchone()
                before = str(answer and answer[0])
                self._execute(_edited(before, change.edits))
                return lambda: self._execute(before)
            case Policy():
                path = f"sys/policies/acl/{change.name}"
                policy = str((self._setup.read(path) or {})["policy"])
                self._setup.write(path, {"policy": f"{_edited(policy, change.edits)}\n{change.more}"})
                return lambda: self._write(path, {"policy": policy})
            case KeyServerWrite():
                self._write(change.path, change.do)
                return lambda: self._revert(change)

    def connect(self) -> None:
        """Connect a service of the tenant by the command."""
        folder = self.file.parent / self.tenant
        self.stack.command(
            *("service", "connect", self.tenant, "--kind", "microservice", "--name", "records", "--out", str(folder))
        )

    def _write(self, path: str, fields: Mapping[str, object]) -> None:
        self._setup.write(path.replace("{tenant}", self.tenant), dict(fields))

    def _revert(self, change: KeyServerWrite) -> None:
        if change.undo is not None:
            self._write(change.path, change.undo)
        if change.created_key:
            self._write(f"transit/keys/{change.created_key}/config", {"deletion_allowed": True})
            self._setup.delete(f"transit/keys/{change.created_key}")

    def _edit_source(self, change: Source) -> None:
        self.file.write_text(json.dumps({module: list(edits) for module, edits in change.edits.items()}))
        self._restart(change.process)

    def _restore_source(self, process: str) -> None:
        self.file.write_text("")
        self._restart(process)

    def _restart(self, process: str) -> None:
        """Kill a process of the stack and return when its replacement by the supervisor is ready."""
        before = self.stack.pids()[process]
        os.kill(before, signal.SIGKILL)

        def ready() -> bool:
            (found,) = (one for one in self.stack.components() if one["name"] == process)
            return found["state"] == "ready" and found["pid"] not in (None, before)

        wait_until(ready, lambda: f"{process} did not restart: {self.stack.components()}")

    def _execute(self, statements: str) -> None:
        with self.stack.owner() as administrator:
            literal = sql.Literal(self.tenant).as_string(administrator)
            administrator.execute(statements.replace("{tenant}", literal).encode())


def _edited(text: str, edits: Sequence[tuple[str, str]]) -> str:
    for old, new in edits:
        assert text.count(old) == 1, f"the text must contain this once: {old}"
        text = text.replace(old, new)
    return text
