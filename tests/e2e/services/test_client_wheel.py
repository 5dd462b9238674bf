"""The client as customers install it: the built wheel in a fresh environment, without a package of the server."""

import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import psycopg
import pytest

from tests.e2e.connected import connect
from tests.e2e.stack import ROOT, Stack

MOST_PACKAGES = 12
MOST_MEGABYTES = 40
_SERVER = ("core", "config", "vault", "database", "activities", "workflows", "worker", "cli", "devstack")
ENCRYPT = """
import sys
from openkcm.sdk.client import Client
with Client.from_folder(sys.argv[1]) as client:
    sealed = client.encrypt(b"Jane Roe", resource="orders/1")
    assert client.decrypt(str(sealed), resource="orders/1") == b"Jane Roe"
    print(sealed)
"""
WRITE = """
import os, psycopg
with psycopg.connect(os.environ["DATABASE"], autocommit=True) as connection:
    connection.execute("INSERT INTO notes VALUES (1, 'secret')")
    print(*connection.execute("SELECT text FROM notes WHERE id = 1").fetchone())
"""


class Installation:
    """A virtual environment outside the repository."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=True)
        self.folder = folder
        self.python = str(folder / "bin" / "python")

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        bare = {name: value for name, value in os.environ.items() if not name.startswith(("OPENKCM_", "PYTHON"))}
        return subprocess.run(
            words, cwd=self.folder, env=bare | environment, capture_output=True, text=True, timeout=300, check=False
        )

    def command(self, *words: str, **environment: str) -> str:
        """Run a command that must succeed; return its output."""
        done = self.run(*words, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def openkcm(self, *words: str, **environment: str) -> str:
        return self.command(str(self.folder / "bin" / "openkcm"), *words, **environment)

    def install(self, what: str) -> None:
        # The lock's versions, without its hashes: pip takes hashes for all of an installation or for none.
        lock = (ROOT / "requirements" / "test.lock").read_text(encoding="utf-8")
        constraints = self.folder / "constraints.txt"
        constraints.write_text("\n".join(re.findall(r"^[^ ]+==[^ ]+", lock, re.MULTILINE)), encoding="utf-8")
        self.command(self.python, "-m", "pip", "install", "--quiet", "--constraint", str(constraints), what)

    def packages(self) -> set[str]:
        listed = json.loads(self.command(self.python, "-m", "pip", "list", "--format", "json"))
        return {one["name"] for one in listed} - {"pip", "setuptools", "wheel"}

    def megabytes(self) -> float:
        files = [file for file in (self.folder / "lib").rglob("*") if file.is_file() and not file.is_symlink()]
        ours = [file for file in files if not {"pip", "setuptools", "pkg_resources"} & set(file.parts)]
        return sum(file.stat().st_size for file in ours) / 1e6


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the client, built from the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder))
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT / "client")], check=True, timeout=300)
    (built,) = folder.glob("openkcm-*.whl")
    return built


def test_base_install_is_small_and_encrypts_over_https(stack: Stack, tenant: str, wheel: Path, tmp_path: Path) -> None:
    service = connect(stack, tenant, "microservice", "orders", tmp_path / "orders")
    fresh = Installation(tmp_path / "fresh")
    fresh.install(str(wheel))

    assert len(fresh.packages()) <= MOST_PACKAGES
    assert fresh.megabytes() <= MOST_MEGABYTES
    assert fresh.command(fresh.python, "-c", ENCRYPT, str(service.folder)).startswith("okcm:")
    for package in _SERVER:
        assert f"No module named '{package}'" in fresh.run(fresh.python, "-c", f"import {package}").stderr
    refused = fresh.run(str(fresh.folder / "bin" / "openkcm"), "--version")
    assert (refused.returncode, "pip install 'openkcm[cli]'" in refused.stderr) == (1, True)


def test_command_protects_a_stock_application_and_verifies_an_export_offline(
    stack: Stack, tenant: str, database: str, wheel: Path, tmp_path: Path
) -> None:
    service = connect(stack, tenant, "postgresql", "notes-db", tmp_path / "notes")
    stack.command("service", "protect-field", tenant, "notes-db", "public.notes", "text")
    stack.command("audit", "export", tenant, "--out", str(tmp_path / "audit.jsonl"))
    stack.command("audit", "public-key", "--out", str(tmp_path / "key.pem"))
    fresh = Installation(tmp_path / "fresh")
    fresh.install(f"{wheel}[cli,postgresql]")

    assert fresh.openkcm("--version") == "openkcm 0.1.0\n"
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute("CREATE TABLE notes (id int PRIMARY KEY, text text)")
        words = ("run", "--folder", str(service.folder), "--", fresh.python, "-c", WRITE)
        assert fresh.openkcm(*words, DATABASE=database) == "secret\n"
        assert owner.execute("SELECT text LIKE 'okcm:c1:%' FROM notes").fetchone() == (True,)
    verdict = fresh.openkcm("audit", "verify", str(tmp_path / "audit.jsonl"), "--json")
    assert json.loads(verdict)["intact"] is True
    assert "No module named 'core'" in fresh.run(fresh.python, "-c", "import core").stderr
