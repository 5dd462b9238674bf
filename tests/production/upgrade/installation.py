"""Embedded servers, HAProxy, and two hosts with all processes, each of which runs one of two releases."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psycopg
from psycopg.conninfo import conninfo_to_dict

from config.secrets import DATABASE_ADMIN, ensure_secret, ensure_secrets
from config.settings import LOOPBACK
from devstack.servers.base import Server
from devstack.servers.openbao import OpenBaoServer
from devstack.servers.postgres import PostgresServer
from devstack.servers.temporal import TemporalServer, program
from tests import programs
from tests.ports import free_ports
from tests.production import haproxy
from tests.production.topology.hosts import Program, Supervisor
from tests.production.topology.installation import PRODUCT, REGION
from tests.production.topology.servers import wait_for
from tests.production.upgrade.releases import Release
from worker.versioning import DEPLOYMENT

HOSTS = {"app1": "127.0.0.2", "app2": "127.0.0.3"}
ORDER = ("worker", "crypto", "marketplace", "dashboard", "codec")
"""The order of docs/upgrading.md, after database and key server."""
_NOTICE_SECONDS = 3
"""Longer than HAProxy takes to notice that an instance is not ready."""


class Installation:
    def __init__(self, folder: Path, supervisor: Supervisor, release: Release) -> None:
        self.folder, self._supervisor = folder, supervisor
        self.secrets = folder / "secrets"
        names = ("postgres", "vault", "temporal", "ui", "temporal_metrics", "https", "kmip", "marketplace")
        own = ("crypto_https", "crypto_kmip", "crypto_metrics", "marketplace", "dashboard", "codec", "worker_metrics")
        reserved = free_ports(len(names) + len(own))
        self._ports = dict(zip(names, reserved, strict=False))
        self._own_ports = dict(zip(own, reserved[len(names) :], strict=True))
        self.releases = dict.fromkeys(HOSTS, release)
        self._servers: list[Server] = []

    @property
    def kmip_address(self) -> str:
        return f"localhost:{self._ports['kmip']}"

    @property
    def marketplace_url(self) -> str:
        return f"http://{LOOPBACK}:{self._ports['marketplace']}"

    @property
    def temporal_address(self) -> str:
        return f"{LOOPBACK}:{self._ports['temporal']}"

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the operator's command, and the common part of the hosts'."""
        return {
            "regions": [REGION],
            "database_url": f"postgresql://{LOOPBACK}:{self._ports['postgres']}/openkcm",
            "vault_address": f"http://{LOOPBACK}:{self._ports['vault']}",
            "temporal_port": self._ports["temporal"],
            "crypto_https_public_port": self._ports["https"],
            "crypto_kmip_public_port": self._ports["kmip"],
            "secrets_dir": str(self.secrets),
            "state_dir": str(self.folder / "operator"),
            "marketplace_port": self._ports["marketplace"],
            "oidc_metadata_url": "https://sign-on.example/.well-known/openid-configuration",
        }

    def operate(self, *words: str) -> dict[str, Any]:
        """Run a command of the release on the first host; see `operate_from`."""
        return self.operate_from(self.releases["app1"].folder, *words)

    def operate_from(self, tree: Path, *words: str) -> dict[str, Any]:
        """Run the operators' or the development command of a release with `--json` and return its document."""
        module = "devstack" if words[0] == "enable" else "cli"
        done = subprocess.run(
            [sys.executable, "-m", module, *words, "--json"],
            cwd=tree,
            env=_environment(tree, self.settings),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def superuser(self) -> psycopg.Connection:
        """Connect to the database as its superuser."""
        return psycopg.connect(self._postgres.admin_conninfo, autocommit=True)

    def temporal(self, *words: str) -> str:
        """Run Temporal's command as docs/upgrading.md does."""
        command = [str(program()), *words, "--address", self.temporal_address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def current(self) -> str:
        """The build id of the current version of the workers."""
        shown = self.temporal("worker", "deployment", "describe", "--name", DEPLOYMENT, "--output", "json")
        return str(json.loads(shown)["routingConfig"]["currentVersionBuildID"])

    # ── start ────────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Start servers, load balancer and all processes, and wait until each is ready."""
        ports = self._ports
        ensure_secrets(self.secrets)
        self._postgres = PostgresServer(self.folder, ports["postgres"])
        self._servers = [
            self._postgres,
            OpenBaoServer(self.folder, ports["vault"], self.secrets),
            TemporalServer(self.folder, ports["temporal"], ports["ui"], ports["temporal_metrics"]),
        ]
        for server in self._servers:
            server.niceness = 0
            server.prepare()
            server.start()
        for server in self._servers:
            server.wait_ready(90)
        administrator = conninfo_to_dict(self._postgres.admin_conninfo)
        ensure_secret(self.secrets, DATABASE_ADMIN, f"{administrator['user']}:{administrator['password']}")
        self.operate_from(self.releases["app1"].folder, "setup", "database")
        self._start_balancer()
        for host in HOSTS:
            for process in ORDER:
                self._supervisor.start(self._program(host, process))
        for host in HOSTS:
            for process in ORDER:
                self.wait_ready(host, process)

    def stop(self) -> None:
        for one in self._supervisor.programs.values():
            one.wanted = False
        for one in reversed(self._supervisor.programs.values()):
            if one.process is not None:
                one.process.kill()
                one.process.wait()
        for server in reversed(self._servers):
            server.stop()

    def replace(self, host: str, process: str, release: Release) -> None:
        """Stop a process as a service manager does, start that of a release, and wait until it is ready."""
        one = self._supervisor.programs[f"{process}@{host}"]
        one.terminate()
        self.releases[host] = release
        fresh = self._program(host, process)
        one.folder, one.environment = fresh.folder, fresh.environment
        one.start()
        self.wait_ready(host, process)

    def wait_ready(self, host: str, process: str) -> None:
        """Wait until a process reports that it is ready."""
        wait_for(f"{process} on {host}, see {self.folder}/logs", lambda: self._is_ready(host, process))

    def _is_ready(self, host: str, process: str) -> bool:
        port = self._own_ports[{"crypto": "crypto_metrics", "worker": "worker_metrics"}.get(process, process)]
        path = {"worker": "/metrics", "codec": "/healthz"}.get(process, "/readyz")
        try:
            answer = httpx2.get(f"http://{HOSTS[host]}:{port}{path}", timeout=5, trust_env=False)
            if answer.status_code == 404:  # a former release
                answer = httpx2.get(f"http://{HOSTS[host]}:{port}/healthz", timeout=5, trust_env=False)
        except httpx2.HTTPError:
            return False
        ready = [line for line in answer.text.splitlines() if line.startswith("openkcm_worker_ready{")]
        return answer.status_code == 200 and (process != "worker" or bool(ready and ready[0].endswith(" 1")))

    def _program(self, host: str, process: str) -> Program:
        release, address = self.releases[host], HOSTS[host]
        listening = ("marketplace_host", "crypto_host", "dashboard_host", "codec_host")
        metrics = ("worker_metrics_host", "crypto_metrics_host")
        state = self.folder / host / process
        state.mkdir(parents=True, exist_ok=True)
        own = dict.fromkeys((*listening, *metrics), address) | {
            f"{name}_port": port for name, port in self._own_ports.items()
        }
        own |= {
            "state_dir": str(state),
            "crypto_proxy_networks": [f"{LOOPBACK}/32"],
            "crypto_processes": 1,
            "shutdown_notice_seconds": _NOTICE_SECONDS,
        }
        if release.build_id is not None:
            own["worker_build_id"] = release.build_id
        (self.folder / "logs").mkdir(exist_ok=True)
        return Program(
            f"{process}@{host}",
            None,
            [sys.executable, "-m", PRODUCT[process]],
            release.folder,
            self.folder / "logs" / f"{process}@{host}.log",
            _environment(release.folder, self.settings | own),
        )

    def _start_balancer(self) -> None:
        own = self._own_ports
        has_readiness = all(release.build_id for release in self.releases.values())
        crypto_check = f"check port {own['crypto_metrics']} send-proxy-v2"
        services = {
            "https": self._service("https", "/readyz", own["crypto_https"], crypto_check),
            "kmip": self._service("kmip", "/readyz", own["crypto_kmip"], crypto_check),
            "marketplace": self._service("marketplace", "/readyz" if has_readiness else "/healthz", own["marketplace"]),
        }
        file = self.folder / "haproxy.cfg"
        file.write_text(haproxy.configuration(services), encoding="utf-8")
        command, environment = programs.program("haproxy", "usr/sbin/haproxy")
        log = self.folder / "logs" / "haproxy.log"
        log.parent.mkdir(exist_ok=True)
        self._supervisor.start(Program("haproxy", None, [command, "-f", file], self.folder, log, environment))

    def _service(self, name: str, path: str, port: int, options: str = "check") -> haproxy.Service:
        servers = {host: f"{address}:{port}" for host, address in HOSTS.items()}
        return haproxy.Service(f"{LOOPBACK}:{self._ports[name]}", path, servers, options)


def _environment(tree: Path, settings: Mapping[str, object]) -> dict[str, str]:
    """Return the environment of a process of a release, whose packages precede those of the virtual environment."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OPENKCM_")}
    values = {
        f"OPENKCM_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in settings.items()
    }
    return inherited | values | {"PYTHONPATH": f"{tree}:{tree / 'client/src'}"}


@contextmanager
def installation(folder: Path, release: Release) -> Iterator[Installation]:
    """Run everything with one release."""
    with Supervisor() as supervisor:
        started = Installation(folder, supervisor, release)
        try:
            started.start()
            yield started
        finally:
            started.stop()
