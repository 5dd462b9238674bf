"""Input of the delivery that a user requests."""

from typing import Annotated

from pydantic import Field, StringConstraints

from core.messages.base import StepInput

TargetId = Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]


class DeliverInput(StepInput):
    """A test message to a target, or another attempt of an unsent message."""

    target_id: TargetId
    message_id: str | None = Field(None, description="the message to attempt again; none: a test")
