"""Where the development marketplace page stands. Nobody is signed in there, so it is no `Seat` and sees no database."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from dashboard.interfaces import MarketplaceSender


@dataclass(frozen=True, slots=True)
class Market:
    """What the page plays the platform's marketplace with; `regions` are those in which OpenKCM is offered."""

    sender: MarketplaceSender
    regions: tuple[str, ...]
    promise_seconds: float
    now: Callable[[], datetime]
