"""The receivers of announcements, as real servers."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.ports import free_port
from tests.stories import receivers


class Mailbox(receivers.Mailbox):
    """A mailbox that answers each mail with `answer`."""

    answer = "250 taken"

    def __init__(self) -> None:
        self.recipients: list[str] = []
        super().__init__(free_port())  # reserved, since it has the same port when it is opened again

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        await super().handle_DATA(server, session, envelope)
        self.recipients += envelope.rcpt_tos
        return self.answer


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    box = Mailbox()
    yield box
    box.close()


@pytest.fixture
def callback() -> Iterator[receivers.CallbackReceiver]:
    receiver = receivers.CallbackReceiver()
    yield receiver
    receiver.close()


@pytest.fixture
def unused_port() -> Iterator[int]:
    """Return a port that refuses connections: bound for the test, without a listener."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]
