"""PyKMIP's server with its own certificates: the peer of the crypto service."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.crypto_api.certificates import write_certificates
from tests.benchmarks.harness.processes import wait_open
from tests.benchmarks.harness.stack import free_ports

# PyKMIP's own program reads /etc; the class takes all settings as arguments. Its cipher suites must be named: current
# OpenSSL supports none of its defaults for this key.
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


@contextmanager
def pykmip_server(folder: Path) -> Iterator[int]:
    """Run the server in a separate process until the end of the block; yield its port.

    Afterwards `folder` contains `ca.pem`, `client.pem` and `client.key`.
    """
    write_certificates(folder, rsa_leaves=True)  # PyKMIP has cipher suites for RSA only
    port = free_ports(1)[0]
    with (folder / "output.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _PROGRAM, str(folder), str(port)],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_open(port, process)
        yield port
    finally:
        # On SIGTERM, PyKMIP waits for its clients, and its process for policies does not end with it.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
