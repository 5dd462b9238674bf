"""Library logs do not appear in the output of a command."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest

from cli.connections import ask_gateway
from config.secrets import ensure_secrets
from config.settings import Settings
from core.errors.platform import TemporalUnavailable
from tests.ports import free_port

pytestmark = pytest.mark.integration  # a process, and a listener on loopback

HEAD = [(":status", "200"), ("content-type", "application/grpc")]


def test_an_unreachable_database_prints_one_error_and_logs_the_rest(tmp_path: Path) -> None:
    ensure_secrets(tmp_path / "secrets")
    (tmp_path / "logs").mkdir()
    environment = {"OPENKCM_STATE_DIR": str(tmp_path), "OPENKCM_DATABASE_URL": f"postgresql://127.0.0.1:{free_port()}"}
    done = subprocess.run(
        [sys.executable, "-m", "cli", "tenant", "list"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["error", "hint"]
    assert "psycopg.pool" in (tmp_path / "logs/command.log").read_text()


def serve_unavailable(server: socket.socket, asked: list[bytes]) -> None:
    """Respond like a Temporal server with a full disk: it is reachable, and clients retry each request."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    peer, _ = server.accept()
    with peer:
        while data := peer.recv(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    asked.append(dict(event.headers)[b":path"])
                    if b"GetSystemInfo" in asked[-1]:
                        connection.send_headers(event.stream_id, HEAD)
                        connection.send_data(event.stream_id, bytes(5))
                        connection.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)
                    else:
                        connection.send_headers(event.stream_id, [*HEAD, ("grpc-status", "14")], end_stream=True)
            peer.sendall(connection.data_to_send())


def test_retries_of_temporals_core_do_not_appear_on_standard_output(capfd) -> None:
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve_unavailable, args=[server, asked], daemon=True).start()
        settings = Settings(temporal_port=server.getsockname()[1])
        with pytest.raises(TemporalUnavailable):
            ask_gateway(settings, lambda gateway: gateway.enable("acme-corp-12345", "eu-west-1", "event-1"))
    assert len(asked) > 6
    assert capfd.readouterr().out == ""
