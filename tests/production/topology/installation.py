"""The processes of the product on two hosts, started in the order of docs/production.md."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx2

from config.secrets import (
    DATABASE_ADMIN,
    OIDC_CLIENT_SECRET,
    VAULT_ADMIN,
    database_password,
    ensure_secret,
    read_secret,
)
from database.postgres.access import PROCESSES, login
from tests.e2e.stack import document_of, run_openkcm
from tests.production.topology.hosts import BALANCER, CLIENTS, Supervisor
from tests.production.topology.servers import (
    BALANCERS,
    DASHBOARD_PORT,
    DATABASE,
    HTTPS_PORT,
    KMIP_PORT,
    MARKETPLACE_PORT,
    POSTGRES_PORT,
    TEMPORAL_PORT,
    VAULT,
    Servers,
    wait_for,
)
from tests.programs import give, program, unpacked, unprivileged

REGION = "eu-drill-1"
SIGN_ON_PORT = 9000
DASHBOARD, SIGN_ON = f"http://{BALANCER}:{DASHBOARD_PORT}", f"http://{CLIENTS}:{SIGN_ON_PORT}"
PRODUCT = {
    "worker": "worker",
    "marketplace": "marketplace",
    "crypto": "crypto_service",
    "dashboard": "dashboard",
    "codec": "worker.codec_server",
}
"""The processes of each application host, with their modules."""
_JOURNAL_DISK = "48m"


class Installation(Servers):
    """The servers, and what the operator installs."""

    @property
    def kmip_address(self) -> str:
        return f"{BALANCER}:{KMIP_PORT}"

    @property
    def marketplace_url(self) -> str:
        return f"http://{BALANCER}:{MARKETPLACE_PORT}"

    def start_product(self) -> None:
        """Set up the servers, copy the secrets to two hosts, and start all processes."""
        self.operate("setup", "database")
        self.operate("setup", "vault")
        time.sleep(1)  # the period begins with the next second
        self.set_up_at = datetime.now(UTC)
        self._start_identity_provider()
        for host in ("app1", "app2"):
            folder = self.folder / host
            shutil.copytree(self.secrets, folder / "secrets")
            for name in (DATABASE_ADMIN, VAULT_ADMIN):
                (folder / "secrets" / name).unlink()
            self._mount(folder / "crypto", _JOURNAL_DISK)
            self._start_pooler(host)
            for process in PRODUCT:
                self._start_process(host, process)
        for host in ("app1", "app2"):
            for process, port, path in (
                ("crypto", 17465, "/readyz"),
                ("marketplace", 18080, "/readyz"),
                ("dashboard", 18501, "/readyz"),
                ("codec", 18081, "/healthz"),
            ):
                url = f"http://{self.hosts[host].address}:{port}{path}"
                wait_for(f"{process} on {host}", lambda url=url: self._status(url) == 200)
            wait_for(f"worker on {host}", lambda host=host: self.worker_is_ready(host))

    def worker_is_ready(self, host: str) -> bool:
        """Return whether the worker of a host reports that tenants can be provisioned."""
        with suppress(httpx2.HTTPError):
            text = httpx2.get(f"http://{self.hosts[host].address}:17464/metrics", timeout=5).text
            return any(line.startswith("openkcm_worker_ready") and line.endswith(" 1") for line in text.splitlines())
        return False

    def clock_from(self, file: Path) -> dict[str, str]:
        """Return the environment of a program whose clock differs from the machine's by the seconds in a file."""
        folder = unpacked("faketime") or Path("/")
        library = next(folder.glob("usr/lib/*/faketime/libfaketimeMT.so.1"))
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def is_ready(self, host: str) -> bool:
        """Return whether the crypto service of a host is ready."""
        return self._status(f"http://{self.hosts[host].address}:17465/readyz") == 200

    def is_alive(self, host: str, port: int) -> bool:
        """Return whether the health check at a port of a host succeeds."""
        return self._status(f"http://{self.hosts[host].address}:{port}/healthz") == 200

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings of the operator's command, and the common part of the hosts'."""
        ca = str(self.ca.file)
        return {
            "regions": [REGION],
            "database_url": f"postgresql://{BALANCER}:{POSTGRES_PORT}/{DATABASE}?sslmode=verify-full&sslrootcert={ca}",
            "vault_address": VAULT,
            "vault_ca_file": ca,
            "temporal": "profile",
            "crypto_names": [BALANCER],
            "crypto_https_public_port": HTTPS_PORT,
            "crypto_kmip_public_port": KMIP_PORT,
            "base_url": DASHBOARD,
            "secrets_dir": str(self.secrets),
            "state_dir": str(self.folder / "operator"),
            "marketplace_host": BALANCER,
            "marketplace_port": MARKETPLACE_PORT,
            "oidc_metadata_url": f"{SIGN_ON}/.well-known/openid-configuration",
        }

    def operate(self, *words: str) -> dict[str, Any]:
        """Run `openkcmctl` (or the marketplace simulator) with `--json` and return its document."""
        file = self.folder / "operator.toml"
        if not file.exists():
            _write_settings(file, self.settings)
        return document_of(run_openkcm(os.environ | self._environment(file), *words, "--json"))

    def discrepancies(self) -> list[dict[str, Any]]:
        """Return what differs between the logs of the key server's nodes and the audit streams since the setup."""
        logs = [word for n in (1, 2, 3) for word in ("--vault-log", str(self.folder / f"openbao{n}" / "audit.log"))]
        words = [
            "audit",
            "reconcile",
            "--all",
            "--since",
            self.set_up_at.strftime("%Y-%m-%dT%H:%M:%S"),
            *logs,
            "--json",
        ]
        done = run_openkcm(os.environ | self._environment(self.folder / "operator.toml"), *words)
        document = json.loads(done.stdout)
        found: list[dict[str, Any]] = [
            *document["platform"],
            *(one for t in document["tenants"] for one in t["differences"]),
        ]
        return [one for one in found if one["severity"] != "notice"]

    def failed_checks(self) -> list[dict[str, Any]]:
        """Return the failed checks of `openkcmctl doctor`; `run_openkcm` would start that of the development stack."""
        environment = os.environ | self._environment(self.folder / "operator.toml")
        command = [sys.executable, "-m", "cli", "doctor", "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return [check for check in json.loads(done.stdout)["checks"] if not check["ok"]]

    def _environment(self, settings: Path) -> dict[str, str]:
        return {
            "OPENKCM_CONFIG": str(settings),
            "TEMPORAL_ADDRESS": f"{BALANCER}:{TEMPORAL_PORT}",
            "TEMPORAL_TLS_SERVER_CA_CERT_PATH": str(self.ca.file),
        }

    def _start_identity_provider(self) -> None:
        ensure_secret(self.secrets, OIDC_CLIENT_SECRET)
        module = "tests.production.topology.identity_provider"
        command = [sys.executable, "-m", module, CLIENTS, str(SIGN_ON_PORT), DASHBOARD, self.secrets]
        self._start("identity provider", None, command)

    def _start_process(self, host: str, process: str) -> None:
        folder, address = self.folder / host, self.hosts[host].address
        file = folder / "openkcm.toml"
        if not file.exists():
            listening = {f"{name}_host": address for name in ("marketplace", "crypto", "dashboard", "codec")}
            balancers = [f"{self.hosts[name].address}/32" for name in BALANCERS]
            metrics = {f"{name}_metrics_host": address for name in ("worker", "crypto")}
            own = {
                "secrets_dir": str(folder / "secrets"),
                "state_dir": str(folder / "state"),
                "database_url": f"postgresql://127.0.0.1:6432/{DATABASE}",
                "crypto_proxy_networks": balancers,
                "proxy_networks": balancers,
                "crypto_processes": 1,
                "shutdown_notice_seconds": 4,
                "marketplace_port": 18080,
            }
            _write_settings(file, self.settings | listening | metrics | own)
        environment = self._environment(file)
        if process == "crypto":
            environment["OPENKCM_STATE_DIR"] = str(folder / "crypto")
        command = [sys.executable, "-m", PRODUCT[process]]
        self._start(f"{process}@{host}", host, command, environment=environment)

    def _start_pooler(self, host: str) -> None:
        folder = self.folder / host / "pgbouncer"
        folder.mkdir(mode=0o755)
        users = folder / "users"
        users.write_text(
            "".join(f'"{login(role)}" "{read_secret(self.secrets, database_password(role))}"\n' for role in PROCESSES),
            encoding="utf-8",
        )
        file = folder / "pgbouncer.ini"
        file.write_text(
            f"""
[databases]
* = host={BALANCER} port={POSTGRES_PORT}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = 6432
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
default_pool_size = 20
max_client_conn = 500
ignore_startup_parameters = options
server_tls_sslmode = verify-full
server_tls_ca_file = {self.ca.file}
server_connect_timeout = 3
server_login_retry = 1
""",
            encoding="utf-8",
        )
        pgbouncer, environment = program("pgbouncer", "usr/sbin/pgbouncer", folder / "package")
        give(unprivileged(), folder, users, file)
        for path in (users, file):
            path.chmod(0o600)
        self._start(f"pgbouncer@{host}", host, [pgbouncer, file], environment=environment, unprivileged=True)


@contextmanager
def servers(folder: Path) -> Iterator[Installation]:
    """Start the servers in an empty folder, which the unprivileged user can enter."""
    with Supervisor() as supervisor:
        started = Installation(folder, supervisor)
        try:
            started.start_servers()
            yield started
        finally:
            started.end()


@contextmanager
def installation(folder: Path) -> Iterator[Installation]:
    """Start everything, as `servers`."""
    with servers(folder) as started:
        started.start_product()
        yield started


def _write_settings(file: Path, settings: Mapping[str, object]) -> None:
    file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()), encoding="utf-8")
