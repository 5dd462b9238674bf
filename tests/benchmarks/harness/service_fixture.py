"""A stack with one tenant and connected services for the benchmarks of the crypto service, and their requests."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import closed_loop as load
from tests.benchmarks.harness import kmip_messages
from tests.benchmarks.harness.open_loop import Listener
from tests.benchmarks.harness.stack import Stack


@contextmanager
def connected_stack(tenant_id: str, kind: str, **settings: float | str) -> Iterator[tuple[Stack, Path]]:
    """Yield the stack and the folder with the service's key, certificate and configuration."""
    with Stack(**settings) as stack:
        stack.openkcm("enable", tenant_id, "--organization", "Bench Corp", "--region", "eu-west-1", "--wait")
        yield stack, connect(stack, tenant_id, kind, "bench")


def connect(stack: Stack, tenant_id: str, kind: str, service: str) -> Path:
    """Connect a service and return its folder, as `connected_stack` does."""
    folder = stack.folder / f"service-{service}"
    stack.openkcm("service", "connect", tenant_id, "--kind", kind, "--name", service, "--out", str(folder))
    return folder


def listeners(stack: Stack, folder: Path, *, encrypts: bool = False) -> tuple[Listener, ...]:
    """Create a ciphertext over HTTPS and a key with a ciphertext over KMIP; return the requests that use them.

    They decrypt over HTTPS (with `encrypts` they also encrypt), and get the key and decrypt over KMIP.
    """
    https, kmip = stack.settings.crypto_https_port, stack.settings.crypto_kmip_port
    client = folder / "client.pem", folder / "client.key"

    def ask(port: int, protocol: Any, request: bytes) -> bytes:
        return load.one(load.Target(port, request, protocol, folder / "ca.pem", client))

    plain = {"resource": "bench/record/1", "plaintext": base64.b64encode(bytes(64)).decode()}
    encrypting = https_request("/v1/encrypt", plain)
    answer = json.loads(ask(https, "http", encrypting).partition(b"\r\n\r\n")[2])
    decrypting = https_request("/v1/decrypt", {"resource": plain["resource"], "ciphertext": answer["ciphertext"]})
    identifier = kmip_messages.found_identifier(ask(kmip, "ttlv", kmip_messages.create()))
    ask(kmip, "ttlv", kmip_messages.activate(identifier))
    encrypted = ask(kmip, "ttlv", kmip_messages.encrypt(identifier, bytes(64)))
    over_https = (encrypting, decrypting) if encrypts else (decrypting,)
    over_kmip = kmip_messages.get(identifier), kmip_messages.decrypt(identifier, encrypted)
    return Listener("https", "http", https, folder, over_https), Listener("kmip", "ttlv", kmip, folder, over_kmip)


def https_request(path: str, body: Any) -> bytes:
    """Return a request with a JSON body."""
    data = json.dumps(body)
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n{data}"
    ).encode()
