"""Runs programs as a user would, plain and under `openkcm run`."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

from config import secrets
from config.secrets import Role, ensure_secret
from database import protecting
from tenancy.client_files import certificates
from tenancy.protection import Mode, Store, parse_field
from tests.crypto.core.world import Home
from tests.crypto.running.process import Service, connect_service

REPOSITORY = Path(__file__).resolve().parents[3]
DEMO = REPOSITORY / "tests" / "hooks" / "demo"
OPENKCM = str(Path(sys.executable).with_name("openkcm"))


def client_folder(home: Home, name: str, service: Service, folder: Path) -> Path:
    """Connect a service and lay down its files as `openkcm service connect --out` does."""
    folder.mkdir()
    connect_service(home, name, folder)
    pem = (folder / f"{home.tenant_id}-{name}.pem").read_text()
    key, rest = pem.split("-----END PRIVATE KEY-----\n")
    leaf, _, chain = rest.partition("-----END CERTIFICATE-----\n")
    presented, root = certificates(f"{leaf}-----END CERTIFICATE-----\n", chain.strip() + "\n")
    (folder / "client.key").write_text(f"{key}-----END PRIVATE KEY-----\n")
    (folder / "client.pem").write_text(presented)
    (folder / "ca.pem").write_text(root)
    (folder / "client.toml").write_text(f'https = "https://localhost:{service.https}"\n')
    return folder


@dataclass
class Program:
    conninfo: str
    folder: Path
    place: Path
    home: Home

    @property
    def app(self) -> Path:
        """The applications, away from this repository."""
        app = self.place / "app"
        if not app.exists():
            shutil.copytree(DEMO, app)
        return app

    def environment(self) -> dict[str, str]:
        parts = psycopg.conninfo.conninfo_to_dict(self.conninfo)
        url = (
            f"postgresql+psycopg://{quote(str(parts['user']))}:{quote(str(parts.get('password', '')))}"
            f"@{parts['host']}:{parts['port']}/{parts['dbname']}"
        )
        own = {"CLINIC_DATABASE": self.conninfo, "SHOP_DATABASE": url}
        return {k: v for k, v in os.environ.items() if not k.startswith("OPENKCM_")} | own

    def _run(self, command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.app,
            env=self.environment() | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def plain(self, *command: str) -> subprocess.CompletedProcess[str]:
        return self._run([sys.executable, *command])

    def protected(self, *command: str, folder: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
        return self._run(self.command(sys.executable, *command, folder=folder), **more)

    def command(self, *command: str, folder: Path | None = None, options: tuple[str, ...] = ()) -> list[str]:
        return [OPENKCM, "run", "--folder", str(folder or self.folder), *options, "--", *command]

    def start(self, *command: str, options: tuple[str, ...] = (), **more: str) -> subprocess.Popen[str]:
        """Start Python under `openkcm run`, which a test talks with."""
        return subprocess.Popen(
            self.command(sys.executable, *command, options=options),
            cwd=self.app,
            env=self.environment() | more,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def operator(self, *words: str) -> dict[str, Any]:
        """Run a command as the tenant's operator and return its document."""
        field, folder = self.home.world.field, self.place / "operator"
        ensure_secret(folder, secrets.database_password(Role.OPERATOR), field.server.passwords["operator"])
        ensure_secret(folder, secrets.context_key(Role.OPERATOR), field.key(Role.OPERATOR).hex())
        ran = self._run(
            [OPENKCM, *words, "--json"],
            OPENKCM_DATABASE_URL=field.url,
            OPENKCM_SECRETS_DIR=str(folder),
            OPENKCM_STATE_DIR=str(self.place / "state"),
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        document: dict[str, Any] = json.loads(ran.stdout)
        return document

    def checks(self, name: str) -> tuple[str, ...]:
        """Return the arguments of Python that run an application's own tests."""
        return "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(self.app), str(self.app / name)


class MongoProgram(Program):
    """`conninfo` is the address of a server."""

    def environment(self) -> dict[str, str]:
        own = {"PRACTICE_DATABASE": self.conninfo}
        return {k: v for k, v in os.environ.items() if not k.startswith("OPENKCM_")} | own

    def protect(self, home: Home, service: str, place: str, **modes: Mode) -> None:
        """Put fields on a service's list; `__` stands for the dot of a path."""
        operator = home.world.field.open("operator", max_size=1)
        with operator.tenant_tx(home.tenant_id) as tx:
            for path, mode in modes.items():
                wanted = parse_field(Store.MONGODB, place, path.replace("__", "."), mode, plain_allowed=False)
                protecting.protect(tx, service, wanted, "operator")
