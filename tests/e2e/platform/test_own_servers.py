"""The product with existing servers: PostgreSQL by URL, key server by address, Temporal by its profile."""

import json
import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from config.secrets import DATABASE_ADMIN, VAULT_ADMIN, ensure_secret, read_secret
from devstack.servers.postgres import PostgresServer
from devstack.servers.temporal import TemporalServer
from tests.e2e.stack import document_of, run_openkcm
from tests.ports import free_ports
from tests.vault.server import start as start_openbao


class Operator:
    """Runs `openkcm` with a settings file."""

    def __init__(self, folder: Path, settings: dict[str, object], environment: dict[str, str]) -> None:
        file = folder / "openkcm.toml"
        file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
        self._environment = os.environ | environment | {"OPENKCM_CONFIG": str(file)}

    def run(self, *words: str) -> dict[str, object]:
        return document_of(run_openkcm(self._environment, *words, "--json"))

    def examine(self) -> dict[str, bool]:
        """Return the results of `openkcmctl doctor`; `run` would start the command of the development stack."""
        command = [sys.executable, "-m", "cli", "doctor", "--json"]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        checks = json.loads(done.stdout)["checks"]
        assert done.returncode == (0 if all(check["ok"] for check in checks) else 1), done.stderr
        return {check["name"]: check["ok"] for check in checks}

    def refused(self, *words: str, **settings: str) -> dict[str, str]:
        """Return the error of a command that must fail; `settings` replace those of the file."""
        replaced = {f"OPENKCM_{name.upper()}": value for name, value in settings.items()}
        done = run_openkcm(self._environment | replaced, *words, "--json")
        assert done.returncode != 0
        error: dict[str, str] = json.loads(done.stdout)["error"]
        return error


@pytest.fixture
def operator(tmp_path: Path, temporal: TemporalServer):
    # Not the shared PostgreSQL: `setup database` sets the passwords of its roles.
    postgres = PostgresServer(tmp_path / "postgres", free_ports(1)[0])
    postgres.prepare()
    postgres.start()
    postgres.wait_ready(60)
    admin = conninfo_to_dict(postgres.admin_conninfo)
    with psycopg.connect(postgres.admin_conninfo, dbname="postgres", autocommit=True) as superuser:
        superuser.execute("create role installer login createrole createdb password 'of the installer'")
    (tmp_path / "key-server").mkdir()
    key_server = start_openbao(tmp_path / "key-server", bare=True)
    token = key_server.admin().request("POST", "auth/token/create", {"ttl": "1h"})["auth"]["client_token"]
    secrets = tmp_path / "secrets"
    ensure_secret(secrets, DATABASE_ADMIN, "installer:of the installer")
    ensure_secret(secrets, VAULT_ADMIN, token)
    marketplace, codec, metrics, https, kmip, crypto_metrics, dashboard = free_ports(7, neighbours=0)
    settings = {
        "state_dir": str(tmp_path / "state"),
        "secrets_dir": str(secrets),
        "regions": ["eu-own-1"],
        "database_url": f"postgresql://{admin['host']}:{admin['port']}/own_{uuid4().hex}",
        "vault_address": key_server.url,
        "temporal": "profile",
        "marketplace_port": marketplace,
        "codec_port": codec,
        "worker_metrics_port": metrics,
        "crypto_https_port": https,
        "crypto_kmip_port": kmip,
        "crypto_metrics_port": crypto_metrics,
        "dashboard_port": dashboard,
    }
    running = Operator(tmp_path, settings, {"TEMPORAL_ADDRESS": temporal.address})
    yield running
    running.run("down")
    key_server.kill()
    postgres.stop()


def test_a_tenant_becomes_ready_on_existing_servers_of_the_operator(operator, tmp_path: Path):
    assert operator.run("setup", "database")["applied"]
    operator.run("setup", "vault")
    up = operator.run("up")
    started = {component["name"] for component in up["components"] if component["pid"]}
    assert started == {"worker", "marketplace", "crypto", "dashboard", "codec"}
    tenant = f"own-{uuid4().hex[:8]}"
    enabled = operator.run("enable", tenant, "--organization", "Own", "--region", "eu-own-1", "--wait")
    assert enabled["state"] == "active"

    assert operator.run("setup", "database")["applied"] == []
    operator.run("setup", "vault")
    assert operator.run("tenant", "show", tenant)["state"] == "active"

    # A second host that has the administrators' access and nothing else.
    for name in (DATABASE_ADMIN, VAULT_ADMIN):
        ensure_secret(tmp_path / "empty", name, read_secret(tmp_path / "secrets", name))
    for server in ("database", "vault"):
        error = operator.refused("setup", server, secrets_dir=str(tmp_path / "empty"))
        assert error["code"] == "secrets_differ"
        assert "already set up" in error["message"]
    assert {path.name for path in (tmp_path / "empty").iterdir()} == {DATABASE_ADMIN, VAULT_ADMIN}
    second = f"own-{uuid4().hex[:8]}"
    assert (
        operator.run("enable", second, "--organization", "Own", "--region", "eu-own-1", "--wait")["state"] == "active"
    )
    assert operator.run("isolation", "check", tenant)["passed"] is True

    # The documented replacement of all secrets; the processes run until their restart in step 3.
    operator.run("setup", "secrets", "--add")
    for server in ("database", "vault"):
        operator.run("setup", server, "--add")
    assert operator.run("isolation", "check", tenant)["passed"] is True
    operator.run("down")
    operator.run("up")
    for server in ("database", "vault", "secrets"):
        operator.run("setup", server, "--replace")
    third = f"own-{uuid4().hex[:8]}"
    assert operator.run("enable", third, "--organization", "Own", "--region", "eu-own-1", "--wait")["state"] == "active"
    for server in ("database", "vault"):
        operator.run("setup", server)

    examined = operator.examine()
    assert all(examined.values()), examined
    assert {"database", "worker", "marketplace", "dashboard", "certificate of crypto service KMIP"} <= set(examined)
    operator.run("down")
    stopped = {"marketplace", "dashboard", "crypto service HTTPS", "crypto service KMIP"}
    assert {name for name, ok in operator.examine().items() if not ok} - {"worker"} == stopped
