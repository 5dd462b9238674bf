import os
import pwd
import secrets
import socket
import subprocess
import sys

import pytest

from core.errors.platform import ComponentFailed
from devstack.servers import ports
from devstack.servers.ports import free_port, holder, is_free, require_free
from tests.devstack.unprivileged import USER_ID, ordinary_user
from tests.ports import free_port as reserved_port

pytestmark = pytest.mark.integration


def test_process_that_holds_a_port_is_named() -> None:
    port = free_port()
    with socket.socket() as held:
        held.bind(("127.0.0.1", port))
        held.listen()

        assert not is_free(port)
        assert holder(port).endswith(f"(pid {os.getpid()})")
        with pytest.raises(ComponentFailed):
            require_free(port, "codec_port")

    assert is_free(port)


def test_invisible_holder_of_a_port_is_described() -> None:
    sender, receiver = socket.socketpair()
    with sender, receiver, socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        assert holder(port) == "a connection that is still open"

        held.listen()
        # Like those of another user, a descriptor that was sent but not received is in no visible folder of /proc.
        socket.send_fds(sender, [b"listener"], [held.fileno()])
        held.close()
        assert holder(port).startswith(f"a process of user {pwd.getpwuid(os.geteuid()).pw_name}")


HIDDEN = f"""
import ctypes, os, socket, sys
if os.geteuid() == 0:
    os.setuid({USER_ID})
held = socket.create_server(("127.0.0.1", 0))
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
print(held.getsockname()[1], flush=True)
sys.stdin.read()
"""


def test_holder_with_hidden_files_is_named_as_probable() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HIDDEN], stdin=pipe, stdout=pipe, text=True) as hidden:
        port = int(hidden.stdout.readline())
        with ordinary_user():
            named = holder(port)
        hidden.stdin.close()
    assert named.startswith("a process of user ")
    assert "that hides its open files, probably " in named
    assert f"(pid {hidden.pid})" in named


def test_free_port_skips_a_port_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:
        taken = reserved_port()
        held.bind(("127.0.0.1", taken))
        first, chance = [taken - ports._LOWEST_PORT], secrets.randbelow
        monkeypatch.setattr(secrets, "randbelow", lambda count: first.pop() if first else chance(count))
        assert free_port() != taken
        assert first == []


def test_free_port_is_outside_the_kernels_range_for_connections() -> None:
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))

        assert free_port() < int(connection.getsockname()[1])


BUSY = """
import socket
files = [open("/dev/null", "rb") for _ in range(200)]
server = socket.create_server(("127.0.0.1", 0))  # behind the other files in /proc
print(server.getsockname()[1], flush=True)
while True:
    for file in files:
        file.close()
    files = [open("/dev/null", "rb") for _ in range(200)]
"""


def test_holder_is_found_while_it_opens_and_closes_files() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        found = {holder(port) for _ in range(40)}
        process.kill()
    assert all(one.endswith(f"(pid {process.pid})") for one in found), found
