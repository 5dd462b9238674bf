"""The service as `python -m crypto_service`, and clients with certificates of a real tenant CA."""

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
from pathlib import Path
from typing import Any

from cryptography import x509

from config import secrets
from config.secrets import Role, ensure_secret
from crypto_service.kmip.codec import ttlv
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from tests.contracts.authorities import p256
from tests.crypto_service.authority import key_pem, pem
from tests.crypto_service.core.world import Home, World
from tests.crypto_service.https.wire import Wire, post
from tests.crypto_service.kmip.messages import batch_item, message
from tests.crypto_service.kmip.scene import Answered
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
            "OPENKCM_CRYPTO_METRICS_HOST": "127.0.0.2",
            "OPENKCM_CRYPTO_METRICS_PORT": str(self.metrics),
            "OPENKCM_SHUTDOWN_GRACE_SECONDS": "3",
        }
        self.journals = folder / "state" / "crypto"

    def start(self, setting: str = "OPENKCM_CRYPTO_PROCESSES", value: str = "2") -> None:
        with (self._folder / "crypto.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "crypto_service"],
                cwd=REPOSITORY,
                env=self._environment | {setting: value},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while self.page("/readyz")[0] != 200:
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
        """Kill parent and children."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)

    def request_stop(self) -> None:
        assert self._process is not None
        self._process.terminate()

    def terminate(self) -> int:
        assert self._process is not None
        self.request_stop()
        return self._process.wait(30)

    def page(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.2:{self.metrics}{path}", timeout=2) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()
        except OSError:
            return 0, ""

    def log(self) -> str:
        return (self._folder / "crypto.log").read_text(encoding="utf-8")


@dataclass
class Client:
    """One persistent connection of a service."""

    port: int
    tls: ssl.SSLContext
    wire: Wire | None = None

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.wire is None:
            plain = socket.create_connection(("127.0.0.1", self.port), timeout=30)
            self.wire = Wire(self.tls.wrap_socket(plain, server_hostname="localhost"))
        self.wire.send(post(path, json.dumps(body).encode()))
        try:
            answer = self.wire.reply()
        except EOFError as ended:
            raise ConnectionResetError from ended
        return answer.status, answer.json

    def close(self) -> None:
        if self.wire is not None:
            self.wire.socket.close()
            self.wire = None


class KmipClient:
    """One connection of a service to the KMIP port."""

    def __init__(self, port: int, tls: ssl.SSLContext) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._socket = tls.wrap_socket(plain, server_hostname="localhost")
        self._file = self._socket.makefile("rb")

    def ask(self, operation: int, *payload: Item) -> Answered:
        """Return the answer; raise OSError when the connection ends first."""
        self._socket.sendall(ttlv.encode(message(batch_item(operation, *payload))))
        head = self._file.read(8)
        data = head + self._file.read(int.from_bytes(head[4:], "big"))
        if len(data) < 8:
            raise ConnectionResetError
        [item] = ttlv.decode(data).all(Tag.BATCH_ITEM)
        return Answered(item)

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def connect_service(home: Home, name: str, folder: Path) -> ssl.SSLContext:
    """Connect a service of a tenant with a new private key; return the TLS context of its client."""
    home.connect(name)
    key, file = p256(), folder / f"{home.tenant_id}-{name}.pem"
    file.write_text(key_pem(key) + home.issue(name, 2, key) + "\n" + home.authority.chain_pem)
    _, root = x509.load_pem_x509_certificates(home.authority.chain_pem.encode())
    tls = ssl.create_default_context(cadata=pem(root))
    tls.load_cert_chain(file)
    return tls
