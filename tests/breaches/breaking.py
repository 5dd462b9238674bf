"""How the running product is broken and mended again: a line of its source, the database, a policy of the key server.

Each breach is one thing that somebody could do by mistake or on purpose, told by what it opens. It names the checks of
which at least one must find it; that others do as well is reported and not asked for.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from psycopg import sql

from tests.stories.stack import Stack, wait_until
from vault.session import VaultSession
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
    """A policy of the key server has another text."""

    name: str
    edits: Sequence[tuple[str, str]]


How = Source | Rows | Function | Policy


@dataclass(frozen=True)
class Breach:
    name: str
    opens: str
    how: How
    caught_by: frozenset[str]


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

    def settle(self) -> None:
        """Bring a new tenant, with a service of its own, into the installation."""
        self._tenants += 1
        self.tenant = f"broken-{self._tenants}"
        self.stack.enable(self.tenant, f"Broken {self._tenants}")

    def examine(self) -> dict[str, str]:
        """Examine the tenant by the command; return the outcome of each check by its name."""
        done = self.stack.run("check-boundaries", self.tenant, "--json")
        document = json.loads(done.stdout)
        assert "checks" in document, done.stdout + done.stderr
        assert done.returncode == (0 if document["passed"] else 1)
        return {check["name"]: check["outcome"] for check in document["checks"]}

    @contextmanager
    def broken(self, how: How) -> Iterator[None]:
        """Break it for as long as the block lasts."""
        mend = self._break(how)
        try:
            yield
        finally:
            mend()

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
                before = str(self._setup.read(path)["policy"])
                self._setup.write(path, {"policy": _edited(before, how.edits)})
                return lambda: self._setup.write(path, {"policy": before})

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
