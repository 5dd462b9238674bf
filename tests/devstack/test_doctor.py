"""What `openkcm doctor` says of the crypto service, from the page the service shows."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from config.settings import Settings
from devstack.doctor import _crypto
from tests.ports import free_port

pytestmark = pytest.mark.integration


@contextmanager
def showing(page: str) -> Iterator[Settings]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

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
        ("openkcm_crypto_ready 2.0\nopenkcm_crypto_set_aside_lines_total 0.0\n", None),
        ("# a comment\nopenkcm_crypto_ready 0.0\n", "none of its processes serves"),
        (
            "openkcm_crypto_ready 2.0\nopenkcm_crypto_set_aside_lines_total 3.0\n",
            "audit records were set aside in undeliverable.jsonl",
        ),
        (
            "openkcm_crypto_ready 2.0\nopenkcm_crypto_delivery_failing_seconds 7.0\n",
            "the database does not take its audit records",
        ),
    ],
)
def test_doctor_says_what_the_crypto_service_shows(page: str, finding: str | None) -> None:
    with showing(page) as settings:
        assert _crypto(settings) == finding


def test_doctor_says_when_nobody_answers() -> None:
    assert _crypto(Settings(crypto_metrics_port=free_port())) == "its metrics do not answer"
