import os
import socket

import pytest

from devstack.ports import free_port, holder, is_free, require_free
from tenancy.errors import ComponentFailed

pytestmark = pytest.mark.integration


def test_the_holder_of_a_port_is_named() -> None:
    port = free_port()
    with socket.socket() as held:
        held.bind(("127.0.0.1", port))
        held.listen()

        assert not is_free(port)
        assert holder(port).endswith(f"(pid {os.getpid()})")
        with pytest.raises(ComponentFailed):
            require_free(port, "codec_port")

    assert is_free(port)


def test_a_free_port_is_none_the_kernel_gives_to_connections() -> None:
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))

        assert free_port() < int(connection.getsockname()[1])
