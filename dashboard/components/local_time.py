"""The local time of the reader beside UTC, for a single moment that matters: `17:36:04 UTC (18:36 local)`.

Tables and charts show UTC only. The browser reports its time zone, which may be missing or false: it changes what is
shown beside UTC and nothing else.
"""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import streamlit as st


def with_local_time(time: datetime, zone: str | None, now: datetime) -> str:
    """Return a time in UTC with the clock of `zone`, an IANA name, beside it.

    The date is shown unless it is today's; the local date only if it differs. A zone that is missing, unknown or equal
    to UTC at that time adds nothing.
    """
    utc = time.astimezone(UTC)
    day = "" if utc.date() == now.astimezone(UTC).date() else f"{_day(utc)} {utc:%Y}, "
    shown = f"{day}{utc:%H:%M:%S} UTC"
    local = _local(utc, zone)
    if local is None or local.utcoffset() == utc.utcoffset():
        return shown
    local_day = "" if local.date() == utc.date() else f"{_day(local)}, "
    return f"{shown} ({local_day}{local:%H:%M} local)"


def shown_time(time: datetime, now: datetime) -> str:
    """Return a time in UTC with the clock of the reader's browser beside it, as Markdown.

    Its colons are escaped: for `:36:`, which may be an emoji, a page loads 260 KB of scripts and draws the text again.
    """
    return with_local_time(time, st.context.timezone, now).replace(":", "\\:")


def _day(time: datetime) -> str:
    return f"{time.day} {time:%b}"


def _local(utc: datetime, zone: str | None) -> datetime | None:
    """Return the time in a zone that a browser has named; None for a name that is no zone of this machine."""
    try:
        return utc.astimezone(ZoneInfo(zone or ""))
    except (LookupError, ValueError, OSError, OverflowError):
        return None
