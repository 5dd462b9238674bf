"""`openkcmctl setup` on real servers: secrets of another host, and a replacement that is killed at many moments."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from config.secrets import (
    BOUNDARY_IDENTITY,
    BOUNDARY_PUBLIC_KEY,
    CODEC_TOKEN,
    DATABASE_ADMIN,
    OIDC_CLIENT_SECRET,
    ROLES,
    VAULT_ADMIN,
    context_key,
    ensure_secret,
    ensure_secrets,
    read_database_password,
    read_secret,
    vault_secret,
)
from core.errors.platform import DatabaseUnavailable, VaultRefused
from database.connection.database import Database
from devstack.servers.postgres import PostgresServer
from tests.database.builders import a_provisioned_tenant
from tests.ports import free_port
from tests.vault.server import Server, start
from vault.auth.client import VaultSession
from vault.auth.tenant_tokens import TenantTokens

ROOT = Path(__file__).parents[3]
ACME = "acme"
CHANGES = ("database", "vault")
LEAST_KILLS = 3
CHECKED = ("worker", "operator")
EVERYTHING = {*(f"database-{role}" for role in CHECKED), *(f"vault-{role}" for role in ROLES), "tenant token"}


class KillingRelay:
    """A TCP relay to a server. It can kill its client when that has sent a number of messages."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._lock = threading.Lock()
        self._left = 0
        self._kill: Callable[[], object] = lambda: None
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, messages: int, kill: Callable[[], object]) -> None:
        """Kill the client with its n-th message. An even one still reaches the server, without a response."""
        with self._lock:
            self._left, self._kill, self._forwards = messages, kill, not messages % 2

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # ends the thread
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=[near], daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, socket.create_connection(self._target) as far:
            responses = threading.Thread(target=self._carry, args=[far, near, lambda: True], daemon=True)
            responses.start()
            self._carry(near, far, self._passes)
            responses.join()

    @staticmethod
    def _carry(source: socket.socket, sink: socket.socket, passes: Callable[[], bool]) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if passes():
                    sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def _passes(self) -> bool:
        with self._lock:
            self._left -= 1
            if self._left:
                return True
            self._kill()
            return self._forwards


@dataclass
class Installation:
    """Separate servers with `openkcmctl` on a host, whose secrets are in `folder`."""

    folder: Path
    database_url: str
    key_server: Server
    relays: dict[str, KillingRelay]

    def start(self, *words: str, folder: Path | None = None) -> subprocess.Popen[str]:
        name = urlsplit(self.database_url).path
        environment = {
            "OPENKCM_STATE_DIR": str(self.folder.parent / "state"),
            "OPENKCM_SECRETS_DIR": str(folder or self.folder),
            "OPENKCM_DATABASE_URL": f"postgresql://{self.relays['database'].address}{name}",
            "OPENKCM_VAULT_ADDRESS": f"http://{self.relays['vault'].address}",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "cli", "setup", *words, "--json"],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if not name.startswith("OPENKCM_")} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> None:
        process = self.start(*words)
        _, log = process.communicate(timeout=120)
        assert process.returncode == 0, log

    def error(self, *words: str, folder: Path) -> str:
        process = self.start(*words, folder=folder)
        shown, log = process.communicate(timeout=120)
        assert process.returncode, log
        code: str = json.loads(shown)["error"]["code"]
        return code

    def kill_until_it_ends(self, server: str, option: str, check: Callable[[], None]) -> int:
        """Run a setup again and again, killed later each time, until it ends; return how often it was killed."""
        step = random.randint(6, 10)  # noqa: S311 - no key; the seed is that of pytest
        for killed, message in enumerate(count(random.randint(1, step), step)):  # noqa: S311 - likewise
            process = self.start(server, option)
            self.relays[server].arm(message, process.kill)
            _, log = process.communicate(timeout=120)
            self.relays[server].arm(0, lambda: None)
            check()
            if process.returncode == 0:
                return killed
            assert process.returncode == -9, log
        raise AssertionError


class Process:
    """The secrets that the processes of a host read at their start."""

    def __init__(self, installation: Installation) -> None:
        folder, self._at = installation.folder, installation
        self._database = {
            role: (read_database_password(folder, role), bytes.fromhex(read_secret(folder, context_key(role))))
            for role in CHECKED
        }
        self._vault = {role: read_secret(folder, vault_secret(role)) for role in ROLES}
        self._identity = read_secret(folder, BOUNDARY_IDENTITY)

    def accepted(self) -> set[str]:
        """Return with which secrets a new connection is accepted."""
        found, server = set(), self._at.key_server
        for role, credentials in self._database.items():
            with (
                suppress(DatabaseUnavailable),
                closing(Database(self._at.database_url, role, *credentials, max_size=1)) as database,
                database.tenant_tx(ACME) as tx,
            ):
                if tx.tenants.get() is not None:
                    found.add(f"database-{role}")
        for role, secret_id in self._vault.items():
            with suppress(VaultRefused):
                VaultSession(server.url, role, secret_id).read("auth/token/lookup-self")
                found.add(f"vault-{role}")
        with suppress(VaultRefused):
            TenantTokens(server.admin(), self._identity).session("acme-corp-1")
            found.add("tenant token")
        return found

    def require_everything(self) -> None:
        assert self.accepted() == EVERYTHING


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    # Not the shared servers: the setup sets the passwords of PostgreSQL's roles.
    folder = tmp_path_factory.mktemp("replaced")
    postgres = PostgresServer(folder / "postgres", free_port())
    postgres.prepare()
    postgres.start()
    postgres.wait_ready(60)
    with psycopg.connect(postgres.admin_conninfo, dbname="postgres", autocommit=True) as superuser:
        superuser.execute("create role installer login createrole createdb password 'of the installer'")
    (folder / "key-server").mkdir()
    key_server = start(folder / "key-server", bare=True)
    token = key_server.admin().request("POST", "auth/token/create", {"ttl": "1h"})["auth"]["client_token"]
    ensure_secret(folder / "secrets", DATABASE_ADMIN, "installer:of the installer")
    ensure_secret(folder / "secrets", VAULT_ADMIN, token)
    address, bao = conninfo_to_dict(postgres.admin_conninfo), urlsplit(key_server.url)
    relays = {
        "database": KillingRelay(str(address["host"]), int(address["port"] or 0)),
        "vault": KillingRelay(str(bao.hostname), int(bao.port or 0)),
    }
    url = f"postgresql://{address['host']}:{address['port']}/replaced"
    made = Installation(folder / "secrets", url, key_server, relays)
    try:
        made.run("database")
        made.run("vault")
        worker = read_secret(made.folder, "database-worker"), bytes.fromhex(read_secret(made.folder, "context-worker"))
        with closing(Database(url, "worker", *worker, max_size=1)) as database:
            a_provisioned_tenant(database, ACME)
        yield made
    finally:
        for relay in relays.values():
            relay.close()
        key_server.kill()
        postgres.stop()


def files_of(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def changed_since(before: dict[str, str], folder: Path) -> set[str]:
    return {name for name, text in before.items() if (folder / name).read_text(encoding="utf-8") != text}


@pytest.mark.integration
def test_setup_with_secrets_of_another_host_writes_no_file(installation: Installation, tmp_path: Path) -> None:
    ensure_secrets(tmp_path)
    for name in (DATABASE_ADMIN, VAULT_ADMIN):
        shutil.copy(installation.folder / name, tmp_path / name)
    for name in (BOUNDARY_PUBLIC_KEY, CODEC_TOKEN):
        (tmp_path / name).unlink()
    before, running = files_of(tmp_path), Process(installation)
    for server in ("database", "vault"):
        assert installation.error(server, folder=tmp_path) == "secrets_differ"
        assert files_of(tmp_path) == before
    running.require_everything()


@pytest.mark.full
def test_killed_replacement_is_completed_by_a_repetition_and_locks_no_process_out(installation: Installation) -> None:
    running, before = Process(installation), files_of(installation.folder)
    running.require_everything()
    for files in (1, 8, 15):
        process = installation.start("secrets", "--add")
        while process.poll() is None and len(changed_since(before, installation.folder)) < files:
            time.sleep(0.0001)
        process.kill()
        process.communicate()
    installation.run("secrets", "--add")
    added = files_of(installation.folder)
    assert before.keys() - changed_since(before, installation.folder) == {
        DATABASE_ADMIN,
        VAULT_ADMIN,
        OIDC_CLIENT_SECRET,
    }
    assert all(added[name].endswith(f"\n{before[name]}") for name in before if added[name].count("\n") == 1)

    kills = [installation.kill_until_it_ends(server, "--add", running.require_everything) for server in CHANGES]
    assert min(kills) >= LEAST_KILLS, kills
    restarted = Process(installation)
    restarted.require_everything()
    kills = [installation.kill_until_it_ends(server, "--replace", restarted.require_everything) for server in CHANGES]
    assert min(kills) >= LEAST_KILLS, kills
    assert running.accepted() == set()
    installation.run("secrets", "--replace")
    Process(installation).require_everything()

    kept = files_of(installation.folder)
    for server in CHANGES:
        installation.run(server)
    assert files_of(installation.folder) == kept
