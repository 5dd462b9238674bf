"""A proxy before the real server that records requests and, like Vault, can ignore inline authentication."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import urllib3

_INLINE = "x-vault-inline-auth-"


@dataclass
class Gateway:
    url: str
    seen: list[str] = field(default_factory=list)
    """Method and path of every request, in order."""


@contextmanager
def gateway(server_url: str, *, inline_auth: bool) -> Iterator[Gateway]:
    pool = urllib3.PoolManager(retries=False, timeout=5)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            counting.seen.append(f"{self.command} {self.path.removeprefix('/v1/')}")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() != "host" and (inline_auth or not name.lower().startswith(_INLINE))
            }
            answer = pool.request(self.command, server_url + self.path, body=body, headers=headers)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in ("date", "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.data)))
            self.end_headers()
            self.wfile.write(answer.data)

        do_GET = do_POST = do_DELETE = do_LIST = _pass_on  # noqa: N815 - http.server's names

        def log_message(self, *_arguments: object) -> None:
            """Log nothing."""

    class Listener(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64  # the number of concurrent connections; a rejected one fails after a second

    listener = Listener(("127.0.0.1", 0), Handler)
    counting = Gateway(f"http://127.0.0.1:{listener.server_port}")
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield counting
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()
        pool.clear()
