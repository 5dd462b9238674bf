"""The service as operators run it, `python -m crypto`, and clients with certificates of a real tenant authority."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from config import secrets
from config.secrets import Role, ensure_secret
from database.interfaces import LeafRow
from tenancy.services import ServiceKind
from tests.contracts.authorities import p256, request
from tests.crypto.core.world import Home, World
from tests.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[3]


class Service:
    def __init__(self, world: World, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.https, self.kmip, self.metrics = free_port(), free_port(), free_port()
        server, secret = world.field.server, folder / "secrets"
        ensure_secret(secret, secrets.database_password(Role.CRYPTO), server.passwords["crypto"])
        ensure_secret(secret, secrets.context_key(Role.CRYPTO), server.context_keys["crypto"].hex())
        ensure_secret(secret, secrets.vault_secret(Role.CRYPTO), (world.vault.folder / "crypto.secret").read_text())
        ensure_secret(secret, secrets.BOUNDARY_IDENTITY, world.vault.identity_pem)
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENKCM_")} | {
            "OPENKCM_STATE_DIR": str(folder / "state"),
            "OPENKCM_SECRETS_DIR": str(secret),
            "OPENKCM_DATABASE_URL": world.field.url,
            "OPENKCM_VAULT_ADDRESS": world.vault.url,
            "OPENKCM_CRYPTO_HTTPS_PORT": str(self.https),
            "OPENKCM_CRYPTO_KMIP_PORT": str(self.kmip),
            "OPENKCM_CRYPTO_METRICS_PORT": str(self.metrics),
            "OPENKCM_DRAIN_SECONDS": "3",
        }
        self.journals = folder / "state" / "crypto"

    def start(self, setting: str = "OPENKCM_CRYPTO_PROCESSES", value: str = "2") -> None:
        with (self._folder / "crypto.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "crypto"],
                cwd=REPOSITORY,
                env=self._environment | {setting: value},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while self.page("/healthz")[0] != 200:
            assert self.alive, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def children(self) -> list[int]:
        assert self._process is not None
        path = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(pid) for pid in path.read_text(encoding="ascii").split()]

    def kill(self) -> None:
        """End parent and children without warning."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)

    def terminate(self) -> int:
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(30)

    def page(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}{path}", timeout=2) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()
        except OSError:
            return 0, ""

    def log(self) -> str:
        return (self._folder / "crypto.log").read_text(encoding="utf-8")


@dataclass
class Client:
    """One connection of a service, kept open."""

    port: int
    tls: ssl.SSLContext
    stream: ssl.SSLSocket | None = None

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.stream is None:
            plain = socket.create_connection(("127.0.0.1", self.port), timeout=10)
            self.stream = self.tls.wrap_socket(plain, server_hostname="localhost")
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        self.stream.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._receive()
        top, _, answer = received.partition(b"\r\n\r\n")
        length = int(top.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        while len(answer) < length:
            answer += self._receive()
        return int(top.split(b" ", 2)[1]), json.loads(answer)

    def is_closed(self, seconds: float) -> bool:
        assert self.stream is not None
        self.stream.settimeout(seconds)
        try:
            return self.stream.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def _receive(self) -> bytes:
        assert self.stream is not None
        data = self.stream.recv(65536)
        if not data:
            raise ConnectionResetError
        return data


def connect_service(home: Home, name: str, folder: Path) -> ssl.SSLContext:
    """Connect a service of a tenant with a key of its own; return what its client needs for TLS."""
    key, world = p256(), home.world
    home.connect(name)
    leaf = world.authorities.issue(home.authority, home.tenant_id, name, request(key), timedelta(hours=1))
    certificate = x509.load_pem_x509_certificate(leaf.certificate_pem.encode())
    dates = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    with world.worker.tenant_tx(home.tenant_id) as tx:
        tx.services.connect(name, ServiceKind.MICROSERVICE)
        tx.services.record_leaf(
            LeafRow(leaf.serial, name, 2, "request-2", leaf.certificate_pem, *dates, home.authority.serial)
        )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / f"{home.tenant_id}-{name}.pem"
    file.write_bytes(private + (leaf.certificate_pem + "\n" + home.authority.chain_pem).encode())
    root = home.authority.chain_pem.strip().rpartition("-----BEGIN CERTIFICATE-----")
    tls = ssl.create_default_context(cadata=root[1] + root[2])
    tls.load_cert_chain(file)
    return tls
