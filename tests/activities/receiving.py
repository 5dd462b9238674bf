"""A mail server that receives announcements."""

from typing import Any

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
