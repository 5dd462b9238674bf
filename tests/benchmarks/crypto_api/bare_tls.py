"""The cost of mTLS alone: a server on the crypto service's event loop with one fixed response.

No service in Python can be faster. The difference between this server and a peer is the time that is left for the work.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.crypto_api.certificates import write_certificates
from tests.benchmarks.harness.closed_loop import Target
from tests.benchmarks.harness.processes import wait_open
from tests.benchmarks.harness.stack import free_ports

_ANSWER_BYTES = 1500
_PROGRAM = """
import asyncio, ssl, sys
import uvloop

folder, port, size = sys.argv[1:]
answer = b"HTTP/1.1 200 OK\\r\\ncontent-length: %s\\r\\n\\r\\n" % size.encode() + b"x" * int(size)
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain(f"{folder}/server.pem", f"{folder}/server.key")
tls.load_verify_locations(f"{folder}/ca.pem")
tls.verify_mode = ssl.CERT_REQUIRED


class Answering(asyncio.Protocol):
    def connection_made(self, transport):
        self.write = transport.write

    def data_received(self, data):
        self.write(answer)


async def serve():
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", int(port), ssl=tls)
    await server.serve_forever()


uvloop.run(serve())
"""


@contextmanager
def bare_server(folder: Path, request: bytes) -> Iterator[Target]:
    """Run the server in a separate process until the end of the block; yield the target for `request`."""
    write_certificates(folder)
    port = free_ports(1)[0]
    process = subprocess.Popen([sys.executable, "-c", _PROGRAM, str(folder), str(port), str(_ANSWER_BYTES)])
    try:
        wait_open(port, process)
        yield Target(port, request, "http", folder / "ca.pem", (folder / "client.pem", folder / "client.key"))
    finally:
        process.kill()
        process.wait(10)
