"""How a tenant leaves: the grace in which it can come back, when it is reminded of that, and what stays afterwards."""

import re
from datetime import datetime, timedelta

from openkcm.errors import InvalidName
from openkcm.verification.erasure_certificate import Remains

LONGEST_GRACE = timedelta(days=365)
"""Longer than this nobody waits for what nobody uses; and a timer that outlives the people who set it surprises."""

_LEADS = (timedelta(days=7), timedelta(days=1))
"""How long before the end a customer is reminded."""

_DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

KEPT = {
    "tenant": "the id, its region and times, without the organization's name: so that the id is never used again",
    "marketplace_event": "ids and times of the events, without the name: so that none is ever taken for a new one",
    "audit_event": "the tenant's stream, which proves what was done, this destruction included",
    "audit_head": "the end of the stream",
    "audit_signed_head": "the signatures by which a stream that was cut short shows",
    "key_fingerprint": "keyed fingerprints of the destroyed tenant key, by which it is found should it come back",
    "boundary_result": "how the tenant's walls held, which names nobody",
    "boundary_clause": "the same, clause by clause and signed",
    "certificate_authority": "the public certificate, by which its serial stays known; its key is destroyed",
    "destruction": "what was destroyed and when, by fingerprints",
    "shred_certificate": "this statement",
}
"""Table → why its rows stay when all others are erased."""


def parse_grace(text: str) -> timedelta:
    """Return a grace such as `30d`, `12h`, `90m` or `20s`.

    Raises:
        InvalidName: it is none, or longer than a year.
    """
    found = _DURATION.fullmatch(text)
    grace = timedelta() if found is None else timedelta(**{_UNITS[found[2]]: int(found[1])})
    if not timedelta() < grace <= LONGEST_GRACE:
        raise InvalidName("grace", f"a number and one of s, m, h, d, at most {LONGEST_GRACE.days}d, such as 30d")
    return grace


def reminders(since: datetime, until: datetime) -> tuple[datetime, ...]:
    """Return when a tenant that leaves is reminded, in order; fewer for a short grace, none for one of hours.

    A reminder comes in the second half of the grace or not at all: what was told at its beginning is not told at once
    again.
    """
    grace = until - since
    return tuple(until - lead for lead in _LEADS if lead * 2 <= grace)


def remains(backup_days: int | None) -> tuple[Remains, ...]:
    """Return what is not gone when everything here is, and until when.

    `backup_days` is how long the operator keeps backups of PostgreSQL and of the key server; None: not known here.
    """
    backups = (
        "as long as the operator keeps backups, which was not told to OpenKCM; ask the operator"
        if backup_days is None
        else f"{backup_days} days after this statement, when the last backup from before is deleted"
    )
    return (
        Remains(
            what="backups and snapshots of the key server from before: they hold the keys, sealed by its seal key",
            until=backups,
        ),
        Remains(
            what="backups and write-ahead logs of the database from before: they hold the wraps; with a backup of "
            "the key server, its seal key and the root key they still open, and with any of these missing they do not",
            until=backups,
        ),
        Remains(
            what="deleted rows in the database's own files, and overwritten pages in those of the key server",
            until="they are overwritten: the next vacuum or compaction",
        ),
        Remains(
            what="workflow histories: ids, and payloads whose key is destroyed",
            until="the retention of Temporal's namespace is over",
        ),
        Remains(
            what="the data key of workflow payloads in the memory of workers that served the tenant",
            until="each worker's next restart",
        ),
        Remains(
            what="certificates of the tenant's services: they open nothing here, and expire by themselves",
            until="72 hours after they were issued",
        ),
    )
