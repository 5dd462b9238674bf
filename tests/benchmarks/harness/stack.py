"""A separate stack for each benchmark, controlled with the `openkcm` command, as a user would."""

import json
import os
import random
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from config import secrets
from config.secrets import Role, read_secret
from config.settings import CONFIG_VARIABLE, LOOPBACK, PREFIX, Settings, load_settings
from database.connection.database import Database
from tests.commands import command_line

_UP_SECONDS = 120
_PORTS = (
    "postgres_port",
    "temporal_port",
    "temporal_ui_port",
    "temporal_metrics_port",
    "marketplace_port",
    "codec_port",
    "worker_metrics_port",
    "crypto_https_port",
    "crypto_kmip_port",
    "crypto_metrics_port",
    "dashboard_port",
)
_BELOW_EPHEMERAL = (20000, 32000)
"""Below the ephemeral ports of the kernel, so that a free port stays free until it is used."""


class Stack:
    """`with Stack() as stack:` runs the whole product in a temporary folder on free ports."""

    def __init__(self, **settings: float | str) -> None:
        """`settings` are additional settings of the product, besides ports and folder."""
        self.folder = Path(tempfile.mkdtemp(prefix="openkcm-bench-"))
        # PostgreSQL rejects root and runs as an unprivileged user, which must be able to reach its folder.
        self.folder.chmod(0o711)
        self._before = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
        self.settings = self._configure(settings)

    def __enter__(self) -> Self:
        print(f"starting a stack in {self.folder}", flush=True)
        try:
            self.openkcm("up", timeout=_UP_SECONDS)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def openkcm(self, *arguments: str, timeout: float = 60, ends: int | None = 0) -> Any:
        """Run the command and return its JSON document; raise RuntimeError unless it exits with `ends` (None: any)."""
        done = subprocess.run(
            [*command_line(arguments), "--json"],
            cwd=self.folder,
            capture_output=True,
            check=False,
            text=True,
            timeout=timeout,
        )
        if ends is not None and done.returncode != ends:
            raise RuntimeError(f"openkcm {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def pids(self) -> dict[str, int]:
        """Return the process id of each running component."""
        components = self.openkcm("status", ends=None)["components"]
        return {part["name"]: part["pid"] for part in components if part["pid"] is not None}

    def database(self, role: Role) -> Database:
        """Return the database with the role of one of the product's processes."""
        return Database(self.settings.postgres_url, role, *database_secrets(self.settings, role))

    def _configure(self, wanted: Mapping[str, float | str]) -> Settings:
        vault, *ports = free_ports(len(_PORTS))
        lines = [f'state_dir = "{self.folder / "state"}"', f"vault_port = {vault}"]
        lines += [f"{name} = {port}" for name, port in zip(_PORTS, ports, strict=True)]
        lines += [f"{name} = {json.dumps(value)}" for name, value in wanted.items()]
        file = self.folder / "openkcm.toml"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        for name in self._before:
            del os.environ[name]
        os.environ[CONFIG_VARIABLE] = str(file)
        return load_settings()

    def _remove(self) -> None:
        try:
            self.openkcm("down", timeout=_UP_SECONDS)
        finally:
            del os.environ[CONFIG_VARIABLE]
            os.environ.update(self._before)
        shutil.rmtree(self.folder, ignore_errors=True)


def database_secrets(settings: Settings, role: Role) -> tuple[str, bytes]:
    """Return a role's password and context key."""
    password = read_secret(settings.secrets, secrets.database_password(role))
    return password, bytes.fromhex(read_secret(settings.secrets, secrets.context_key(role)))


def free_ports(number: int) -> list[int]:
    """Return `number` + 1 free ports; the port after the first is free as well (OpenBao's cluster port)."""
    first = _first_free(pair=True)
    found = [first]
    while len(found) <= number:
        port = _first_free(pair=False)
        if port not in {first + 1, *found}:
            found.append(port)
    return found


def _first_free(*, pair: bool) -> int:
    while True:
        port = random.randint(*_BELOW_EPHEMERAL)  # noqa: S311 - spreads parallel runs, not secret
        if _is_free(port) and (not pair or _is_free(port + 1)):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True
