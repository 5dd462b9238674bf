"""The rows of usage counters; part of `rows`, and handed out by `interfaces` like those."""

from dataclasses import dataclass, field
from datetime import date, datetime

from core.services import CryptoOperation
from core.usage import Latency


@dataclass(frozen=True, slots=True)
class UsesRow:
    """Uses of one minute that ended alike: `refusal` is the code of the error, empty for what was answered.

    `latency` tells of those that were timed, which can be fewer than `count`.
    """

    minute: datetime
    service: str
    operation: CryptoOperation
    refusal: str
    count: int
    bytes: int
    latency: Latency = field(default_factory=Latency)


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What one service did in one minute; `refused` of `count` were refused."""

    minute: datetime
    service: str
    operation: CryptoOperation
    count: int
    refused: int
    bytes: int


@dataclass(frozen=True, slots=True)
class UsageTotalRow:
    """What one service did in a time; `last_minute` is the newest minute of it that has something."""

    service: str
    operation: CryptoOperation
    count: int
    refused: int
    last_minute: datetime


@dataclass(frozen=True, slots=True)
class UsageSum:
    """Uses of one service and operation that ended alike, over a day or several; see `UsesRow`."""

    service: str
    operation: CryptoOperation
    refusal: str
    count: int
    bytes: int
    latency: Latency = field(default_factory=Latency)


@dataclass(frozen=True, slots=True)
class UsageDay:
    """One UTC day's sum."""

    day: date
    used: UsageSum


@dataclass(frozen=True, slots=True)
class DayCount:
    """How many uses of one `part` (a service or an operation) there were on one UTC day, refused ones included."""

    day: date
    part: str
    count: int


@dataclass(frozen=True, slots=True)
class AnsweredDay:
    """How many uses of one service and operation were answered on one UTC day."""

    service: str
    day: date
    operation: CryptoOperation
    count: int
