"""`openkcmctl doctor` names each part of an installation that does not work, and what to do."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.installation import _greet_postgresql, _validity
from config import secrets
from config.settings import LOOPBACK, Settings
from core.errors.platform import DatabaseLoginRefused, SchemaOutdated
from core.errors.tls import TlsFault
from core.names import CANARY_TENANT_ID
from database.postgres.access import encrypted_address
from tests.cli.test_doctor import application
from tests.core.errors.tls_server import server
from tests.database.builders import an_authority, an_event
from tests.database.fixtures import Field
from tests.database.schemas import outdate
from tests.ports import free_ports
from tests.production.topology.certificates import CertificateAuthority
from workflows.client.workflow_client import WorkflowClient

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("command")]  # it sets the environment

PORTS = ("MARKETPLACE_PORT", "DASHBOARD_PORT", "CRYPTO_HTTPS_PORT", "CRYPTO_KMIP_PORT")
Checks = dict[str, dict[str, object]]
Examine = Callable[..., tuple[int, Checks]]


@pytest.fixture
def examine(monkeypatch: pytest.MonkeyPatch) -> Examine:
    """Return a function that runs the command with other settings and returns its status and checks by name."""

    def examine(**changed: object) -> tuple[int, Checks]:
        for name, value in changed.items():
            monkeypatch.setenv(f"OPENKCM_{name}", str(value))
        done = CliRunner().invoke(application(), ["doctor", "--json"])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        document = json.loads(done.stdout[done.stdout.index("{\n") :])
        return done.exit_code, {check["name"]: check for check in document["checks"]}

    for name, port in zip(PORTS, free_ports(4), strict=True):
        monkeypatch.setenv(f"OPENKCM_{name}", str(port))
    return examine


@contextmanager
def http_server(status: int, body: str) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with HTTPServer((LOOPBACK, 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running.server_address[1]
        running.shutdown()
        thread.join()


def test_servers_are_checked_and_missing_processes_are_named(examine: Examine) -> None:
    status, checks = examine()
    assert status == 1
    assert {name for name, check in checks.items() if check["ok"]} == {
        *("database", "key server", "workflow service", "worker")
    }
    for name, setting in (("marketplace", "marketplace_base_url"), ("dashboard", "base_url")):
        assert "connection refused" in str(checks[name]["detail"])
        assert str(checks[name]["hint"]).endswith(f"the setting {setting}")
    # With the canary tenant of another test, the ports are checked; without, the error says that it is missing.
    assert not any(check["ok"] for name, check in checks.items() if "crypto service" in name)
    assert any("crypto service" in name for name in checks)


@pytest.fixture(scope="module")
def authority(services_field: Field, tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    """Return a CA that the canary tenant's rows name as the root of the platform."""
    made = CertificateAuthority(tmp_path_factory.mktemp("authority") / "root.pem")
    row = an_authority()._replace(chain_pem=made.file.read_text(encoding="ascii"))
    with services_field.open("worker", max_size=1).tenant_tx(CANARY_TENANT_ID) as tx:
        tx.tenants.request(an_event(CANARY_TENANT_ID))
        tx.certificates.record_authority(row)
    return made


def test_addresses_behind_load_balancers_are_checked(
    examine: Examine, authority: CertificateAuthority, tmp_path: Path
) -> None:
    folders = {}
    for name, lifetime in (
        ("valid", timedelta(days=1)),
        ("late", timedelta(seconds=50)),
        ("expired", timedelta(-0.001)),
    ):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        authority.issue("server", folders[name], LOOPBACK, lifetime=lifetime)
    refusal = json.dumps({"reasons": ["database_unavailable", "\x1b[31m", 7]})
    with (
        http_server(503, refusal) as marketplace,
        http_server(200, "{}") as dashboard,
        server(folders["valid"]) as valid,
        server(folders["late"]) as late,
        server(folders["expired"]) as expired,
    ):
        addresses = {
            "MARKETPLACE_BASE_URL": f"http://{LOOPBACK}:{marketplace}",
            "BASE_URL": f"http://{LOOPBACK}:{dashboard}/",
            "CRYPTO_NAMES": json.dumps([LOOPBACK]),
        }
        _, checks = examine(**addresses, CRYPTO_HTTPS_PUBLIC_PORT=valid, CRYPTO_KMIP_PUBLIC_PORT=expired)
        _, more = examine(**addresses, CRYPTO_HTTPS_PUBLIC_PORT=late, CRYPTO_KMIP_PUBLIC_PORT=marketplace)
    assert str(checks["marketplace"]["detail"]).endswith("/readyz returns 503 database_unavailable")
    assert checks["dashboard"]["ok"]
    assert checks["crypto service HTTPS"]["ok"]
    assert checks["certificate of crypto service HTTPS"]["ok"]
    assert str(checks["certificate of crypto service HTTPS"]["detail"]).endswith(f"for {LOOPBACK}")
    assert str(checks["crypto service KMIP"]["detail"]).endswith(TlsFault.EXPIRED)
    assert not more["certificate of crypto service HTTPS"]["ok"]
    assert str(more["crypto service KMIP"]["detail"]).endswith(TlsFault.NO_TLS)


def test_load_balancer_that_sends_the_proxy_protocol_to_an_http_process_is_named(examine: Examine) -> None:
    """uvicorn answers a PROXY header with 400 and closes the connection."""
    with http_server(400, "Invalid HTTP request received.") as port:
        _, checks = examine(MARKETPLACE_BASE_URL=f"http://{LOOPBACK}:{port}")
    assert "instead of the PROXY protocol" in str(checks["marketplace"]["hint"])


def test_refused_login_and_outdated_schema_are_named(
    examine: Examine, services_field: Field, settings: Settings, tmp_path: Path
) -> None:
    for role_file in settings.secrets.iterdir():
        secrets.ensure_secret(tmp_path / "secrets", role_file.name, role_file.read_text(encoding="ascii"))
    (tmp_path / "secrets" / "vault-operator").write_text("wrong", encoding="ascii")
    migrate_again = outdate(services_field)
    try:
        status, checks = examine(SECRETS_DIR=tmp_path / "secrets", TEMPORAL_PORT=free_ports(1)[0])
    finally:
        migrate_again()
    assert status == 1
    assert "this version needs" in str(checks["database"]["detail"])
    assert checks["database"]["hint"] == SchemaOutdated.hint
    assert "rejected the request" in str(checks["key server"]["detail"])
    assert checks["workflow service"]["hint"]


def test_password_that_the_database_rejects_is_named(examine: Examine, settings: Settings, tmp_path: Path) -> None:
    for role_file in settings.secrets.iterdir():
        secrets.ensure_secret(tmp_path / "secrets", role_file.name, role_file.read_text(encoding="ascii"))
    (tmp_path / "secrets" / secrets.database_password(secrets.Role.OPERATOR)).write_text("wrong", encoding="ascii")
    status, checks = examine(SECRETS_DIR=tmp_path / "secrets")
    assert status == 1
    for name in ("database", "crypto service"):
        assert checks[name]["detail"] == DatabaseLoginRefused.message
        assert checks[name]["hint"] == DatabaseLoginRefused.hint
    assert checks["key server"]["ok"]


def test_https_address_that_this_host_does_not_trust_is_named(
    examine: Examine, authority: CertificateAuthority, tmp_path: Path
) -> None:
    authority.issue("server", tmp_path, LOOPBACK)
    with server(tmp_path) as port:
        _, checks = examine(BASE_URL=f"https://{LOOPBACK}:{port}")
    assert str(checks["dashboard"]["detail"]).endswith(TlsFault.UNKNOWN_CA)


def test_certificates_of_servers_are_read_in_their_protocols(authority: CertificateAuthority, tmp_path: Path) -> None:
    authority.issue("server", tmp_path, LOOPBACK, lifetime=timedelta(days=1))
    with server(tmp_path, b"S") as postgres, server(tmp_path) as others, server(None, b"N") as unencrypted:
        found = [
            *_validity("database", LOOPBACK, postgres, _greet_postgresql),
            *_validity("key server", LOOPBACK, others),
            *_validity("database", LOOPBACK, unencrypted, _greet_postgresql),
        ]
    assert [(check.name, check.ok) for check in found] == [
        ("certificate of database", True),
        ("certificate of key server", True),
        ("certificate of database", False),
    ]
    assert all(check.detail.endswith(f"for {LOOPBACK}") for check in found if check.ok)
    assert found[-1].hint


@pytest.mark.parametrize(
    ("parameters", "address"),
    [
        ("sslmode=verify-full&sslrootcert=/etc/ca.pem", ("db.example", 5432)),
        ("sslmode=require&port=6432", ("db.example", 6432)),
        ("sslmode=prefer", None),
        ("", None),
    ],
)
def test_certificate_of_a_database_with_tls_is_read(parameters: str, address: tuple[str, int] | None) -> None:
    assert encrypted_address(f"postgresql://db.example/openkcm?{parameters}") == address


async def test_address_of_temporal_with_tls_is_that_of_its_profile(
    authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", "temporal.example:7233")
    monkeypatch.setenv("TEMPORAL_TLS_SERVER_CA_CERT_PATH", str(authority.file))
    assert (await WorkflowClient.connect(None, 180)).encrypted_address == ("temporal.example", 7233)
    assert (await WorkflowClient.connect("temporal.example:7233", 180)).encrypted_address is None


def test_options_of_the_comparison_need_it() -> None:
    for words in (["--repair"], ["--tenant", "acme"]):
        assert CliRunner().invoke(application(), ["doctor", *words]).exit_code == 2
