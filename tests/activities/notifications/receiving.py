"""A mail server that receives notifications."""

from typing import Any

from tests.e2e import receivers
from tests.ports import free_port


class Mailbox(receivers.Mailbox):
    """A mailbox that responds to each mail with `answer`."""

    answer = "250 taken"

    def __init__(self) -> None:
        self.recipients: list[str] = []
        super().__init__(free_port())  # reserved, because a restart uses the same port

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        await super().handle_DATA(server, session, envelope)
        self.recipients += envelope.rcpt_tos
        return self.answer
