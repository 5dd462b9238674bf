"""How the running product is broken and mended again: a line of its source, the database, a policy of the key server.

Each breach is one thing that somebody could do by mistake or on purpose, told by what it opens. It names the checks of
which at least one must find it; that others do as well is reported and not asked for.
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
from tests.stories.stack import Stack
from vault.auth.client import VaultSession
from vault.setup import SETUP

STARTUP = Path(__file__).parent / "startup"
BREACHED = "BREACHED"
"""The variable by which processes find the file that says what is altered; see startup/sitecustomize.py."""


@dataclass(frozen=True)
class Source:
    """Modules of a process have another text: by module, what is written there and what stands there instead."""

    process: str
    edits: Mapping[str, Sequence[tuple[str, str]]]


@dataclass(frozen=True)
class Rows:
    """Statements of a superuser, and those that undo them; `{tenant}` stands for the tenant that is looked at."""

    do: str
    undo: str


@dataclass(frozen=True)
class Function:
    """A function of the database has another body."""

    name: str
    edits: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Policy:
    """A policy of the key server has another text, and `more` behind it."""

    name: str
    edits: Sequence[tuple[str, str]]
    more: str = ""


@dataclass(frozen=True)
class Written:
    """An administrator of the key server writes to a path; `undo` reverts it, and `made` is a key to delete then."""

    path: str
    do: Mapping[str, object]
    undo: Mapping[str, object] | None = None
    made: str = ""


How = Source | Rows | Function | Policy | Written


@dataclass(frozen=True)
class Breach:
    """`how`: everything that is done, in this order; `service`: the tenant needs one, connected before or after it."""

    name: str
    opens: str
    how: Sequence[How]
    caught_by: frozenset[str]
    service: Literal["none", "before", "after"] = "none"


_ADMINISTRATOR = 'path "transit/*" { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }'


@dataclass
class Ground:
    """The installation that is broken; each breach is looked for at a tenant of its own, because it locks it."""

    stack: Stack
    file: Path
    tenant: str = ""
    _tenants: int = 0
    _setup: VaultSession = field(init=False)

    def __post_init__(self) -> None:
        secret = self.stack.settings.state_dir / "openbao" / "setup-secret-id"
        self._setup = VaultSession(self.stack.settings.vault_url, SETUP, secret.read_text(encoding="utf-8").strip())
        # Whoever may write policies may do anything in the end; this is an administrator from here on.
        path = f"sys/policies/acl/openkcm-{SETUP}"
        policy = str((self._setup.read(path) or {})["policy"])
        self._setup.write(path, {"policy": f"{policy}\n{_ADMINISTRATOR}"})

    def settle(self) -> None:
        """Bring a new tenant, with a service of its own, into the installation."""
        self._tenants += 1
        self.tenant = f"broken-{self._tenants}"
        self.stack.enable(self.tenant, f"Broken {self._tenants}")

    def examine(self) -> dict[str, str]:
        """Examine the tenant by the command; return the outcome of each check by its name."""
        done = self.stack.run("isolation", "check", self.tenant, "--json")
        document = json.loads(done.stdout)
        assert "checks" in document, done.stdout + done.stderr
        assert (done.returncode == 0) is document["passed"]
        return {check["name"]: check["outcome"] for check in document["checks"]}

    @contextmanager
    def broken(self, how: Sequence[How]) -> Iterator[None]:
        """Break it for as long as the block lasts."""
        with ExitStack() as mends:
            for one in how:
                mends.callback(self._break(one))
            yield

    def _break(self, how: How) -> Callable[[], None]:
        match how:
            case Source():
                self._alter(how)
                return lambda: self._mend(how.process)
            case Rows():
                self._execute(how.do)
                return lambda: self._execute(how.undo)
            case Function():
                with self.stack.owner() as administrator:
                    answer = administrator.execute("select pg_get_functiondef(%s::regproc)", [how.name]).fetchone()
                before = str(answer and answer[0])
                self._execute(_edited(before, how.edits))
                return lambda: self._execute(before)
            case Policy():
                path = f"sys/policies/acl/{how.name}"
                policy = str((self._setup.read(path) or {})["policy"])
                self._setup.write(path, {"policy": f"{_edited(policy, how.edits)}\n{how.more}"})
                return lambda: self._write(path, {"policy": policy})
            case Written():
                self._write(how.path, how.do)
                return lambda: self._revert(how)

    def connect(self) -> None:
        """Connect a service of the tenant's, by the command."""
        folder = self.file.parent / self.tenant
        self.stack.command(
            *("service", "connect", self.tenant, "--kind", "microservice", "--name", "records", "--out", str(folder))
        )

    def _write(self, path: str, fields: Mapping[str, object]) -> None:
        self._setup.write(path.replace("{tenant}", self.tenant), dict(fields))

    def _revert(self, how: Written) -> None:
        if how.undo is not None:
            self._write(how.path, how.undo)
        if how.made:
            self._write(f"transit/keys/{how.made}/config", {"deletion_allowed": True})
            self._setup.delete(f"transit/keys/{how.made}")

    def _alter(self, how: Source) -> None:
        self.file.write_text(json.dumps({module: list(edits) for module, edits in how.edits.items()}))
        self._start_anew(how.process)

    def _mend(self, process: str) -> None:
        self.file.write_text("")
        self._start_anew(process)

    def _start_anew(self, process: str) -> None:
        """Kill a process of the stack and return when the one that its supervisor starts instead is ready."""
        before = self.stack.pids()[process]
        os.kill(before, signal.SIGKILL)

        def ready() -> bool:
            (found,) = (one for one in self.stack.command("status")["components"] if one["name"] == process)
            return found["state"] == "ready" and found["pid"] not in (None, before)

        wait_until(ready, lambda: f"{process} did not come back: {self.stack.command('status')}")

    def _execute(self, statements: str) -> None:
        with self.stack.owner() as administrator:
            literal = sql.Literal(self.tenant).as_string(administrator)
            administrator.execute(statements.replace("{tenant}", literal).encode())


def _edited(text: str, edits: Sequence[tuple[str, str]]) -> str:
    for old, new in edits:
        assert text.count(old) == 1, f"it does not have this once: {old}"
        text = text.replace(old, new)
    return text
