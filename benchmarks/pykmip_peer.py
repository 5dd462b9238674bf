"""PyKMIP's server, with certificates of its own: the peer that the crypto service is measured beside."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from benchmarks.stack import free_ports

# PyKMIP's own program reads /etc; the class takes everything as arguments. Its ciphers must be named: by default it
# speaks none that a current OpenSSL still has for this key.
_PROGRAM = """
import sys
from kmip.services.server import KmipServer
folder, port = sys.argv[1:]
server = KmipServer(
    hostname="127.0.0.1", port=int(port), certificate_path=f"{folder}/server.pem", key_path=f"{folder}/server.key",
    ca_path=f"{folder}/ca.pem", auth_suite="TLS1.2", config_path=None, log_path=f"{folder}/server.log",
    policy_path=folder, enable_tls_client_auth=True,
    tls_cipher_suites="TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    logging_level="WARNING", database_path=f"{folder}/pykmip.db",
)
with server:
    server.serve()
"""
_START_SECONDS = 20.0


@dataclass(frozen=True)
class Peer:
    port: int
    tls: ssl.SSLContext


@contextmanager
def pykmip_server(folder: Path) -> Iterator[Peer]:
    """Run the server in a process of its own until the end of the block."""
    _write_certificates(folder)
    port = free_ports(1)[0]
    with (folder / "output.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _PROGRAM, str(folder), str(port)],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    tls = ssl.create_default_context(cafile=folder / "ca.pem")
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    tls.load_cert_chain(folder / "client.pem", folder / "client.key")
    try:
        _wait(port, process, folder)
        yield Peer(port, tls)
    finally:
        # It waits for its clients on SIGTERM, and the process it keeps for its policies does not end with it.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def _wait(port: int, process: "subprocess.Popen[bytes]", folder: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PyKMIP did not start: {(folder / 'output.log').read_text()[-2000:]}") from None
            time.sleep(0.1)
        else:
            return


def _write_certificates(folder: Path) -> None:
    ca_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "peer CA")])
    ca = _certificate(name, ca_key.public_key(), name, ca_key, None)
    (folder / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    for role, usage in (("server", ExtendedKeyUsageOID.SERVER_AUTH), ("client", ExtendedKeyUsageOID.CLIENT_AUTH)):
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        leaf = _certificate(subject, key.public_key(), name, ca_key, usage)
        (folder / f"{role}.pem").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        os.close(os.open(folder / f"{role}.key", os.O_CREAT | os.O_WRONLY, 0o600))
        (folder / f"{role}.key").write_bytes(private)


def _certificate(
    subject: x509.Name,
    public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    signer: ec.EllipticCurvePrivateKey,
    usage: x509.ObjectIdentifier | None,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=2))
        .add_extension(x509.BasicConstraints(ca=usage is None, path_length=None), critical=True)
    )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False).add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False
        )
    return builder.sign(signer, hashes.SHA256())
