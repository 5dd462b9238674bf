"""A mail server that receives notifications."""

import asyncio
from typing import Any

from activities.notifications import SigningSecrets, TargetSender, WebhookSender
from tests.e2e import receivers
from tests.ports import free_port


class Mailbox(receivers.Mailbox):
    """A mailbox that responds to each mail with `answer`, and not at all to a recipient with a word of `silent`.

    It rejects the next mails with the responses in `rejections`, one each.
    """

    answer = "250 taken"

    def __init__(self) -> None:
        self.recipients: list[str] = []
        self.silent: set[str] = set()
        self.rejections: list[str] = []
        super().__init__(free_port())  # reserved, because a restart uses the same port

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        if any(word in address for word in self.silent):
            await asyncio.sleep(60)
        envelope.rcpt_tos.append(address)
        return "250 ok"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        if self.rejections:
            return self.rejections.pop(0)
        await super().handle_DATA(server, session, envelope)
        self.recipients += envelope.rcpt_tos
        return self.answer


def no_targets() -> TargetSender:
    """Return a sender to targets that permits no connection."""
    never = SigningSecrets(lambda *_: None, lambda *_: "")
    return TargetSender(WebhookSender(lambda *_: False, "https://cmk.openkcm.io"), None, never)
