"""An installation whose stores are copied and restored while the crypto service runs."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.tenants.lifecycle import State
from tests.concurrency import wait_until
from tests.e2e.clients import Program, start_program
from tests.e2e.connected import connect
from tests.e2e.outages import down
from tests.e2e.stack import Stack
from tests.e2e.tenants import new_tenant
from vault.tenant_locks import TenantLocks

_LONG_SECONDS = 600
"""A deadline for what takes a minute on an idle machine: each look is a new process of the command."""
STORES = ("postgres", "openbao", "temporal")
KEPT, LOCKED, ROTATED, LEAVING, GONE, FRESH = "kept", "locked", "rotated", "leaving", "gone", "fresh"


class Installation:
    """Tenants by their part in the story, a program of each, and copies of the stores by name."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack, self._folder = stack, folder
        self.tenants: dict[str, str] = {}
        self.programs: dict[str, Program] = {}

    # ── tenants ──────────────────────────────────────────────────────────────────────────────────────────────────

    def add_tenant(self, name: str) -> None:
        self.tenants[name] = new_tenant(self.stack, name)
        self.programs[name] = start_program(self.stack, self.tenants[name], self._folder / name)

    def connect_again(self, name: str) -> None:
        """Connect the service of a tenant again; its former data and certificate are lost."""
        service = connect(self.stack, self.tenants[name], "microservice", "second", self._folder / f"{name}-second")
        self.programs[name] = Program(service)
        self.programs[name].prepare()

    def run(self, name: str, *words: str, after: tuple[str, ...] = ()) -> dict[str, Any]:
        """Run a command for a tenant: `run("locked", "tenant", "unlock")`."""
        return self.stack.command(*words, self.tenants[name], *after)

    def state(self, name: str) -> str:
        return self.stack.state(self.tenants[name])

    def wait_state(self, name: str, state: State) -> None:
        wait_until(lambda: self.state(name) == state, lambda: f"{name} is {self.state(name)}", _LONG_SECONDS)

    def wait_recorded(self, name: str, state: State) -> None:
        """Wait until the key server has the state as the lock of a tenant."""
        locks = TenantLocks(self.stack.vault())

        def is_recorded() -> bool:
            found = locks.get(self.tenants[name])
            return found is not None and found.state is state

        wait_until(is_recorded, lambda: f"the key server has {locks.get(self.tenants[name])}", _LONG_SECONDS)

    def wait_works(self, name: str) -> None:
        """Wait until each request of a tenant's service succeeds, also the decryption of its first ciphertext."""
        wait_until(self.programs[name].works, lambda: f"{name}: {self.programs[name].probe()}")

    def assert_served(self, *names: str) -> None:
        """Assert that these tenants are served, and no other tenant is served anything."""
        for name in names:
            self.wait_works(name)
        self.assert_refused(*self.programs.keys() - set(names))

    def assert_refused(self, *names: str) -> None:
        """Assert that every request of these tenants is rejected; the first one may find a closed connection."""
        for name in names:
            program = self.programs[name]
            assert program.refuses_all() or program.refuses_all(), f"{name}: {program.probe()}"

    # ── stores ───────────────────────────────────────────────────────────────────────────────────────────────────

    def back_up(self, name: str) -> None:
        for store in STORES:
            with down(self.stack, store):
                _copy(self._place(store), self._folder / name / store)

    def restore(self, name: str, *stores: str) -> None:
        """Replace stores by a copy; all other processes, also the crypto service with its caches, continue."""
        for store in stores:
            with down(self.stack, store):
                shutil.rmtree(self._place(store))
                _copy(self._folder / name / store, self._place(store))

    def empty_temporal(self) -> None:
        with down(self.stack, "temporal"):
            for file in self._place("temporal").glob("temporal.db*"):
                file.unlink()

    def _place(self, store: str) -> Path:
        return self.stack.settings.state_dir / store

    # ── the doctor ───────────────────────────────────────────────────────────────────────────────────────────────

    def doctor(self, *words: str) -> Mapping[str, set[str]]:
        """Return the kinds of differences by the part of their tenant; the stores agree if it is empty."""
        done = self.stack.run("doctor", "--stores", *words, "--json")
        assert done.returncode in {0, 1}, done.stdout + done.stderr
        document = json.loads(done.stdout)
        assert bool(document["skews"]) == bool(done.returncode), document
        names = {tenant_id: name for name, tenant_id in self.tenants.items()}
        found: dict[str, set[str]] = {}
        for skew in document["skews"]:
            found.setdefault(names.get(skew["tenant_id"], skew["tenant_id"]), set()).add(skew["kind"])
        return found

    def wait_agreed(self) -> None:
        """Wait until the stores agree; workers start missing workflows within a minute."""
        found: dict[str, set[str]] = {}

        def agree() -> bool:
            found.clear()
            found.update(self.doctor())
            return not found

        wait_until(agree, lambda: f"the stores differ: {found}", _LONG_SECONDS)


def _copy(source: Path, target: Path) -> None:
    """Copy a folder with its owners and times."""
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


@contextmanager
def running(folder: Path) -> Iterator[Installation]:
    """Start an installation; stop it at the end."""
    stack = Stack(folder)
    stack.command("up")
    site = Installation(stack, folder)
    try:
        yield site
    finally:
        for program in site.programs.values():
            program.hang_up()
        stack.command("down")
        stack.close()
