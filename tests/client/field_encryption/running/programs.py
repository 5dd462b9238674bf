"""Runs programs as a user does, plain and under `openkcm run`."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import psycopg

from config import secrets
from config.secrets import Role, ensure_secret
from core.protected_fields import parse_field
from database import commands as protecting
from openkcm.contract.protected_fields import Mode, Store
from tests.contracts.authorities import p256
from tests.crypto_service.core.world import Home
from tests.crypto_service.running.process import Service

REPOSITORY = Path(__file__).resolve().parents[4]
DEMO = REPOSITORY / "tests" / "client" / "field_encryption" / "demo"
OPENKCM = str(Path(sys.executable).with_name("openkcm"))


def client_folder(home: Home, name: str, service: Service, folder: Path) -> Path:
    """Connect a service and write its files as `openkcmctl service connect --out` does."""
    home.connect(name)
    return home.folder(folder, name, p256(), service.https)


def blocks(document: str, language: str) -> list[str]:
    """Return the code of a document in a language."""
    page = (REPOSITORY / "docs" / document).read_text(encoding="utf-8")
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```", page, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for block in found]


@dataclass
class Program:
    store: ClassVar[Store] = Store.POSTGRESQL
    conninfo: str
    folder: Path
    place: Path
    home: Home

    @property
    def app(self) -> Path:
        """A copy of the applications outside of this repository."""
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

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, with additional environment variables."""
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
        return self.run(sys.executable, *command)

    def protected(self, *command: str, folder: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
        return self.run(*self.command(sys.executable, *command, folder=folder), **more)

    def command(self, *command: str, folder: Path | None = None, options: tuple[str, ...] = ()) -> list[str]:
        return [OPENKCM, "run", "--folder", str(folder or self.folder), *options, "--", *command]

    def start(self, *command: str, options: tuple[str, ...] = (), **more: str) -> subprocess.Popen[str]:
        """Start Python under `openkcm run` with pipes to the test."""
        return subprocess.Popen(
            self.command(sys.executable, *command, options=options),
            cwd=self.app,
            env=self.environment() | more,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def execute(self, statements: str) -> list[tuple[Any, ...]]:
        """Run statements without the encryption, which return the stored values."""
        with psycopg.connect(self.conninfo) as owner:
            cursor = owner.execute(statements.encode())
            return cursor.fetchall() if cursor.description else []

    def operator(self, *words: str) -> dict[str, Any]:
        """Run a command as the tenant's operator and return its document."""
        field, folder = self.home.world.field, self.place / "operator"
        ensure_secret(folder, secrets.database_password(Role.OPERATOR), field.server.passwords["operator"])
        ensure_secret(folder, secrets.context_key(Role.OPERATOR), field.key(Role.OPERATOR).hex())
        ran = self.run(
            *(sys.executable, "-m", "cli", *words, "--json"),
            OPENKCM_DATABASE_URL=field.url,
            OPENKCM_SECRETS_DIR=str(folder),
            OPENKCM_STATE_DIR=str(self.place / "state"),
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        document: dict[str, Any] = json.loads(ran.stdout)
        return document

    def operator_runs(self, command: str) -> None:
        """Run an operator command of a document for the tenant of the test."""
        openkcm, *words = command.split()
        assert (openkcm, words[2:4]) == ("openkcmctl", ["acme-corp-12345", "clinic"])
        self.operator(*[self.home.tenant_id if word == "acme-corp-12345" else word for word in words])

    def run_example(self, script: str, command: str) -> subprocess.CompletedProcess[str]:
        """Run a document's `app.py` with its shell command."""
        (self.app / "app.py").write_text(script)
        words = command.split()
        assert words[:2] == ["openkcm", "run"]
        assert words[-3:] == ["--", "python", "app.py"]
        return self.protected("app.py", DATABASE=self.conninfo)

    def protect(
        self,
        place: str,
        *,
        home: Home | None = None,
        service: str = "clinic",
        plaintext_allowed: bool = False,
        **modes: Mode,
    ) -> None:
        """Add fields to a service's list; `__` represents the dot of a path."""
        home = home or self.home
        with home.world.field.open("operator", max_size=1).tenant_tx(home.tenant_id) as tx:
            for path, mode in modes.items():
                wanted = parse_field(
                    self.store, place, path.replace("__", "."), mode, plaintext_allowed=plaintext_allowed
                )
                protecting.protect(tx, service, wanted, "operator")

    def assert_own_tests_pass(self, name: str) -> None:
        """Run an application's own tests plain and protected, and assert that the same number passes."""
        arguments = "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(self.app), str(self.app / name)
        plain, protected = self.plain(*arguments), self.protected(*arguments)
        assert plain.returncode == 0, plain.stdout
        assert protected.returncode == 0, protected.stdout + protected.stderr
        count = plain.stdout.rpartition(" passed")[0].split()[-1]
        assert f"{count} passed" in protected.stdout


class MongoProgram(Program):
    """`conninfo` is the address of a server."""

    store = Store.MONGODB

    def environment(self) -> dict[str, str]:
        own = {"PRACTICE_DATABASE": self.conninfo}
        return {k: v for k, v in os.environ.items() if not k.startswith("OPENKCM_")} | own
