"""The Usage page as a file: CSV as RFC 4180 has it, in UTF-8, every day by itself."""

import csv
import io
from collections.abc import Sequence

from core.usage import Latency
from dashboard.views.usage_period import Period
from database.usage import UsageDay

HEADER = (
    "day_utc",
    "service",
    "operation",
    "result",
    "requests",
    "bytes",
    "timed_requests",
    "average_ms",
    "p50_within_ms",
    "p95_within_ms",
    "p99_within_ms",
)
ANSWERED = "answered"
"""The result where there is no code of a refusal."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def to_csv(days: Sequence[UsageDay]) -> bytes:
    """Return a header and one row for each day, service, operation and result. Nothing in it is read as a formula."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(HEADER)
    for one in days:
        used = one.used
        words = (used.service, used.operation.value, used.refusal or ANSWERED)
        writer.writerow([one.day.isoformat(), *map(_harmless, words), used.count, used.bytes, *_latency(used.latency)])
    return text.getvalue().encode()


def file_name(tenant_id: str, period: Period) -> str:
    """Return a name that says whose days these are."""
    return f"usage-{tenant_id}-{period.first.isoformat()}-to-{period.last.isoformat()}.csv"


def _harmless(text: str) -> str:
    """Return text that a spreadsheet shows instead of working it out."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _latency(latency: Latency) -> list[str | int]:
    times = (latency.average(), *(latency.within(percent) for percent in (50, 95, 99)))
    # Empty where nothing was timed; `inf` where it was longer than the buckets tell.
    return [latency.timed, *("" if one is None else f"{one / 1000:.3f}" for one in times)]
