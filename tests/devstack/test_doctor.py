"""Findings of `python -m devstack doctor` about the machine and the metrics of the crypto service."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from config.settings import Settings
from devstack.doctor import _crypto, examine
from tests.devstack.unprivileged import ordinary_user
from tests.ports import free_port

pytestmark = pytest.mark.integration


@contextmanager
def metrics_server(page: str) -> Iterator[Settings]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Settings(crypto_metrics_port=server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("page", "finding"),
    [
        ("openkcm_crypto_ready 2.0\nopenkcm_crypto_audit_dead_letter_records_total 0.0\n", None),
        ("# a comment\nopenkcm_crypto_ready 0.0\n", "none of its processes is ready"),
        (
            "openkcm_crypto_ready 2.0\nopenkcm_crypto_audit_dead_letter_records_total 3.0\n",
            "audit records were moved to undeliverable.jsonl",
        ),
        (
            "openkcm_crypto_ready 2.0\nopenkcm_crypto_audit_shipping_failing_seconds 7.0\n",
            "the database does not accept its audit records",
        ),
    ],
)
def test_doctor_reports_problems_in_the_metrics_of_the_crypto_service(page: str, finding: str | None) -> None:
    with metrics_server(page) as settings:
        assert _crypto(settings) == finding


@pytest.fixture
def unreadable(tmp_path: Path) -> Iterator[Path]:
    """A folder that its user cannot read, nor an ordinary user if the tests run as root."""
    folder = tmp_path / "unreadable"
    folder.mkdir(mode=0)
    with ordinary_user():
        yield folder
    folder.chmod(0o700)


def test_doctor_reports_folders_that_it_cannot_read(unreadable: Path) -> None:
    problems = [one for one in examine(Settings(state_dir=unreadable)) if not one.ok]
    assert [one.name for one in problems if "ermission denied" in one.detail] == ["state folder", "secrets", "servers"]
    assert all(one.hint.startswith("run as") for one in problems if one.name in {"state folder", "secrets", "servers"})

    elsewhere = examine(Settings(state_dir=Path("/usr/openkcm-none"), secrets_dir=unreadable))
    assert [one.detail for one in elsewhere if one.name == "secrets"] == [f"{unreadable}: permission denied"]
    assert {"database", "crypto"} <= {one.name for one in elsewhere}


def test_doctor_reports_every_component_of_a_stopped_stack(tmp_path: Path) -> None:
    problems = {one.name: one.detail for one in examine(Settings(state_dir=tmp_path)) if not one.ok}

    servers = {"database", "vault", "temporal", "worker", "marketplace", "crypto", "dashboard", "codec"}
    assert servers <= set(problems)
    assert problems["database"] == "postgres is stopped"


def test_doctor_reports_one_port_given_to_two_components(tmp_path: Path) -> None:
    taken = free_port()
    hosts = {"marketplace_host": "10.0.0.1", "dashboard_host": "10.0.0.2"}
    for settings, conflicts in (
        (Settings(state_dir=tmp_path, codec_port=taken, crypto_kmip_port=taken), ["given to crypto and to codec"]),
        (Settings(state_dir=tmp_path, vault_port=taken - 1, codec_port=taken), ["given to openbao and to codec"]),
        (Settings(state_dir=tmp_path, marketplace_port=taken, dashboard_port=taken, **hosts), []),
    ):
        found = [one for one in examine(settings) if one.name == f"port {taken}"]
        assert [one.detail for one in found if not one.ok] == conflicts
        assert all("_PORT" in one.hint for one in found)


def test_doctor_reports_an_unreachable_metrics_endpoint() -> None:
    assert _crypto(Settings(crypto_metrics_port=free_port())) == "its metrics endpoint does not respond"
