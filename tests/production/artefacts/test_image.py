"""The image of deploy/image, built and started: processes have few rights, and its SBOM names what it contains."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx2
import psycopg
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from psycopg.conninfo import conninfo_to_dict

from config.secrets import DATABASE_ADMIN, VAULT_ADMIN, ensure_secret
from config.settings import Settings
from devstack.servers.postgres import PostgresServer
from devstack.servers.temporal import TemporalServer
from scripts.sbom import sbom
from tests.concurrency import wait_until
from tests.ports import free_ports
from tests.production.artefacts.containers import Container, Image, Mount
from tests.production.artefacts.hardening import without_executable_memory
from tests.production.artefacts.processes import NAMES, ROOT, module_of, secrets_of, stop_seconds
from tests.vault.server import start as start_openbao

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
LOCK = (ROOT / "requirements" / "production.lock").read_text(encoding="utf-8")
PYTHON = "/opt/openkcm/bin/python"
OPTIONAL = {"callback-secret", "smtp-password"}
SIGN_ON = "https://sign-on.example.com/.well-known/openid-configuration"


def debian_sources() -> list[Path]:
    """Return apt's list of this host if it is for the release of the image, else nothing."""
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("debian.*"))]
    return [file for file in files if file.is_file() and re.search(r"\btrixie\b", file.read_text())][:1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    assert os.geteuid() == 0, "the image is built and its containers are started as root"
    folder = tmp_path_factory.mktemp("image")
    command = [ROOT / "deploy" / "image" / "build.sh", folder, *debian_sources()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def image(built: Path) -> Image:
    return Image.unpack(built / "oci", VERSION, built / "root")


@pytest.mark.integration  # starts a process
def test_hadolint_has_no_finding_and_finds_a_mistake(tmp_path):
    containerfile = ROOT / "deploy" / "image" / "Containerfile"
    wrong = tmp_path / "Containerfile"
    wrong.write_text(containerfile.read_text().replace("debian:trixie-slim", "debian:latest"))
    results = [
        subprocess.run(["hadolint", file], env=ENVIRONMENT, check=False, capture_output=True, text=True)
        for file in (containerfile, wrong)
    ]
    assert (results[0].returncode, results[0].stdout) == (0, "")
    assert "DL3007" in results[1].stdout


ENVIRONMENT = os.environ | {"PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"}


def test_sbom_of_installed_packages_is_valid_and_repeatable(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    status = tmp_path / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text(
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.41-12\n\n"
        "Package: removed\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n"
    )
    site = tmp_path / "opt/openkcm/lib/python3.13/site-packages"
    for name, license_line in (("Some_Package", "License-Expression: MIT OR Apache-2.0"), ("other", "License: BSD")):
        (site / f"{name}-1.0.dist-info").mkdir(parents=True)
        metadata = f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{license_line}\n"
        (site / f"{name}-1.0.dist-info" / "METADATA").write_text(metadata)
    made = sbom(tmp_path, "1.2.3")
    assert made == sbom(tmp_path, "1.2.3")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(made) is None
    document = json.loads(made)
    assert {component["purl"] for component in document["components"]} == {
        "pkg:deb/debian/libc6@2.41-12?arch=amd64",
        "pkg:pypi/some-package@1.0",
        "pkg:pypi/other@1.0",
    }
    assert document["metadata"]["component"]["version"] == "1.2.3"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(made.replace('"library"', '"part"')) is not None


@pytest.mark.full
def test_sbom_names_every_package_of_the_image_and_no_development_part(built, image):
    text = (built / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    packages = {component["purl"].partition("@")[0].partition("/")[2] for component in json.loads(text)["components"]}
    (site,) = image.root.glob("opt/openkcm/lib/python*/site-packages")
    installed = {
        file.name.partition("-")[0].lower().replace("_", "-").replace(".", "-") for file in site.glob("*.dist-info")
    }
    assert installed <= packages
    assert {"openkcm", "openkcm-tenant-controller"} <= installed
    locked = set(re.findall(r"^([a-z0-9-]+)==", LOCK, re.MULTILINE))
    assert installed - {"openkcm", "openkcm-tenant-controller"} <= locked
    assert {"debian/libc6", "debian/python3", "debian/ca-certificates"} <= packages
    assert not [
        name for name in ("devstack", "tests", "scripts", "pytest", "pip", "setuptools") if (site / name).exists()
    ]
    assert not [name for name in ("gcc", "git", "make", "pip3", "curl") if (image.root / "usr/bin" / name).exists()]


@pytest.mark.full
def test_a_container_has_no_right_that_it_does_not_need(image, tmp_path):
    assert image.user == (10001, 10001)
    assert image.command == [PYTHON, "-m", "worker"]
    special = subprocess.run(
        ["find", image.root, "-xdev", "-type", "f", "(", "-perm", "/6000", "-o", "-perm", "-0002", ")"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert special.stdout == ""
    attack = (
        "import mmap, os, pathlib, socket\n"
        "assert os.getuid() == os.getgid() == 10001 and os.getgroups() in ([], [10001])\n"
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "assert 'CapBnd:\\t0000000000000000' in status and 'NoNewPrivs:\\t1' in status, status\n"
        "for path in ('/opt/openkcm/x', '/etc/x', '/var/lib/openkcm/x', '/usr/bin/x'):\n"
        "    try:\n"
        "        open(path, 'w')\n"
        "    except OSError:\n"
        "        continue\n"
        "    raise SystemExit(path)\n"
        "open('/tmp/x', 'w')\n"
        "for attempt in (\n"
        "    lambda: os.chown('/tmp/x', 10001, 10001),\n"
        "    lambda: os.unshare(os.CLONE_NEWUSER),\n"
        "    lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),\n"
        "    lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC),\n"
        "    lambda: os.kill(os.getppid() or 2, 0),\n"
        "):\n"
        "    try:\n"
        "        attempt()\n"
        "    except OSError:\n"
        "        continue\n"
        "    raise SystemExit('allowed')\n"
        "print('no right')\n"
    )
    container = image.start(tmp_path, "attacker", without_executable_memory([PYTHON, "-c", attack]))
    assert container.wait(60) == (0, "no right\n")


@pytest.mark.full
def test_a_process_without_secrets_reports_what_is_missing(image, tmp_path):
    variables = {"OPENKCM_OIDC_METADATA_URL": SIGN_ON}
    started = [
        image.start(tmp_path, name, [PYTHON, "-m", module_of(process)], variables=variables)
        for name, process in NAMES.items()
    ]
    for container in started:
        status, log = container.wait(300)
        assert status != 0
        assert re.search(r"the secret [\w.-]+ cannot be read: no such file", log), log
        assert "hint: put it into /var/lib/openkcm/secrets with mode 0600" in log


class Installation:
    """Existing servers, the secrets of the setup, and containers of the image."""

    def __init__(self, folder: Path, image: Image, settings: dict[str, object], temporal: str) -> None:
        self.folder, self.image, self.settings = folder, image, settings
        self.secrets = folder / "secrets"
        self._variables = {"TEMPORAL_ADDRESS": temporal}
        self._file = folder / "openkcm.toml"
        self._file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))

    def run(self, name: str, command: list[str], secrets: Path, *, writable: bool = False) -> Container:
        state = self.folder / f"state-{name}"
        state.mkdir()
        os.chown(state, *self.image.user)
        mounts = [
            Mount(self._file, "/etc/openkcm/openkcm.toml"),
            Mount(secrets, "/var/lib/openkcm/secrets", writable),
            Mount(state, "/var/lib/openkcm", writable=True),
        ]
        mounts.sort(key=lambda one: one.destination)
        return self.image.start(self.folder, name, without_executable_memory(command), mounts, self._variables)

    def set_up(self, server: str, occasion: str, *, writable: bool) -> Container:
        command = ["/opt/openkcm/bin/openkcmctl", "setup", server]
        return self.run(f"setup-{server}-{occasion}", command, self.secrets, writable=writable)

    def secrets_for(self, process: str) -> Path:
        """Return a volume with the files of a process."""
        folder = self.folder / f"secrets-{process.replace(' ', '-')}"
        folder.mkdir(mode=0o755)
        for name in {*secrets_of(process)} - OPTIONAL:
            shutil.copy(self.secrets / name, folder / name)
        as_volume(folder, self.image.user[1])
        return folder


def as_volume(folder: Path, group: int) -> None:
    """Give the files of a folder the owner and mode that a volume of Kubernetes has: of root, readable by the group."""
    for file in folder.iterdir():
        os.chown(file, 0, group)
        file.chmod(0o440)
    os.chown(folder, 0, group)
    folder.chmod(0o750)


@pytest.fixture
def installation(image: Image, tmp_path: Path, temporal: TemporalServer) -> Iterator[Installation]:
    tmp_path.chmod(0o755)
    postgres = PostgresServer(tmp_path / "postgres", free_ports(1)[0])  # the setup sets the passwords of its roles
    postgres.prepare()
    postgres.start()
    postgres.wait_ready(60)
    admin = conninfo_to_dict(postgres.admin_conninfo)
    with psycopg.connect(postgres.admin_conninfo, dbname="postgres", autocommit=True) as superuser:
        superuser.execute("create role installer login createrole createdb password 'of the installer'")
    (tmp_path / "key-server").mkdir()
    key_server = start_openbao(tmp_path / "key-server", bare=True)
    token = key_server.admin().request("POST", "auth/token/create", {"ttl": "1h"})["auth"]["client_token"]
    ports = dict(
        zip(
            ("marketplace", "codec", "worker_metrics", "crypto_https", "crypto_kmip", "crypto_metrics", "dashboard"),
            free_ports(7, neighbours=0),
            strict=True,
        )
    )
    settings: dict[str, object] = {
        "database_url": f"postgresql://{admin['host']}:{admin['port']}/image_{uuid4().hex}",
        "vault_address": key_server.url,
        "temporal": "profile",
        "regions": ["eu-image-1"],
        "oidc_metadata_url": SIGN_ON,
        "crypto_processes": 1,
    } | {f"{name}_port": port for name, port in ports.items()}
    running = Installation(tmp_path, image, settings, temporal.address)
    ensure_secret(running.secrets, DATABASE_ADMIN, "installer:of the installer")
    ensure_secret(running.secrets, VAULT_ADMIN, token)
    yield running
    key_server.kill()
    postgres.stop()


@pytest.mark.full
def test_every_process_runs_from_the_image_with_its_secrets_only(installation):
    for path in (installation.secrets, *installation.secrets.iterdir()):
        os.chown(path, *installation.image.user)
    for server in ("database", "vault"):
        status, log = installation.set_up(server, "first", writable=True).wait(300)
        assert status == 0, log
    # Before an upgrade, the Job of the chart has the files as a volume, which it cannot change.
    as_volume(installation.secrets, installation.image.user[1])
    for server in ("database", "vault"):
        status, log = installation.set_up(server, "upgrade", writable=False).wait(300)
        assert status == 0, log

    containers: dict[str, Container] = {}
    try:
        for name, process in NAMES.items():
            command = [PYTHON, "-m", module_of(process)]
            containers[name] = installation.run(name, command, installation.secrets_for(process))
        checks = {
            "worker": ("worker_metrics", "/metrics", "openkcm_worker_ready 1"),
            "marketplace": ("marketplace", "/readyz", ""),
            "crypto": ("crypto_metrics", "/readyz", ""),
            "dashboard": ("dashboard", "/readyz", ""),
            "codec": ("codec", "/healthz", ""),
        }
        for name, (port, path, expected) in checks.items():
            address = f"http://127.0.0.1:{installation.settings[f'{port}_port']}{path}"
            container = containers[name]
            wait_until(lambda: answers(address, expected) or container.process.poll() is not None, seconds=180)  # noqa: B023 - called in this iteration
            assert container.process.poll() is None, container.log
        for container in containers.values():
            container.terminate()
        for name, container in containers.items():
            status, log = container.wait(stop_seconds(Settings()))
            assert status == 0, (name, log)
            assert "Traceback" not in log, (name, log)
    finally:
        for container in containers.values():
            container.end()


def answers(address: str, expected: str) -> bool:
    try:
        response = httpx2.get(address, timeout=5)
    except httpx2.HTTPError:
        return False
    return response.status_code == 200 and expected in response.text
