"""Where the development marketplace page stands. Nobody is signed in there, so it is no `Seat` and sees no database."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from storefront.sender import Sender


@dataclass(frozen=True, slots=True)
class Market:
    """What the page plays the platform's marketplace with; `regions` are those in which OpenKCM is offered."""

    sender: Sender
    regions: tuple[str, ...]
    promise_seconds: float
    now: Callable[[], datetime]
