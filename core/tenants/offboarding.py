"""Rules of offboarding: the grace period, its reminders, and what is kept after the destruction of the keys."""

import re
from datetime import datetime, timedelta

from openkcm.errors import InvalidName
from openkcm.verification.erasure_certificate import Remains

LONGEST_GRACE = timedelta(days=365)
"""A longer timer would fire after the responsible people have changed."""

_LEADS = (timedelta(days=7), timedelta(days=1))
"""Times before the end of the grace period at which the customer is reminded."""

_DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

KEPT = {
    "tenant": "id, region and times, without the organization's name, so that the id is never reused",
    "marketplace_event": "ids and times of the events until their retention ends, without the name, so that no event "
    "is processed again",
    "audit_event": "the audit stream of the tenant, which proves all operations, including this destruction; later its "
    "records are in signed archive files",
    "audit_archive": "the signed statements about the archive files of the audit stream",
    "audit_head": "the newest record of the audit stream",
    "audit_hour": "the number of records of the audit stream in each hour, without their content",
    "audit_signed_head": "the signed checkpoints, which reveal a truncated audit stream",
    "key_fingerprint": "keyed fingerprints of the destroyed tenant key, which detect a restored key",
    "boundary_result": "the results of the isolation checks until their retention ends, without names of persons",
    "isolation_assessment": "the counts of the newest daily isolation assessment, signed",
    "boundary_clause": "the same results for each clause, signed",
    "certificate_authority": "the public certificate of the tenant CA, so that its serial stays known; its key is "
    "destroyed",
    "destruction": "the fingerprints of the destroyed keys and the times of their destruction",
    "shred_certificate": "this statement",
}
"""Table → reason to keep its rows when all other rows are erased."""


def parse_grace(text: str) -> timedelta:
    """Return a grace period such as `30d`, `12h`, `90m` or `20s`.

    Raises:
        InvalidName: the text is no duration, or the duration exceeds a year.
    """
    found = _DURATION.fullmatch(text)
    grace = timedelta() if found is None else timedelta(**{_UNITS[found[2]]: int(found[1])})
    if not timedelta() < grace <= LONGEST_GRACE:
        raise InvalidName("grace period", f"a number and one of s, m, h, d, at most {LONGEST_GRACE.days}d, such as 30d")
    return grace


def reminders(since: datetime, until: datetime) -> tuple[datetime, ...]:
    """Return the times of the reminders of an offboarding, in order; fewer for a short grace period.

    A reminder is sent only in the second half of the grace period, so that it does not repeat the first notification
    at once. A grace period of hours has none.
    """
    grace = until - since
    return tuple(until - lead for lead in _LEADS if lead * 2 <= grace)


def offboarding_number(since: datetime) -> int:
    """Return the number of the offboarding that started at `since`, the same for each of its workflows.

    It is part of the ids of reminders, so a workflow that is started again repeats none of them.
    """
    return int(since.timestamp())


def remains(backup_retention_days: int | None) -> tuple[Remains, ...]:
    """Return what remains after the erasure, and until when.

    `backup_retention_days`: how long the operator keeps backups of PostgreSQL and of the key server; None if unknown.
    """
    backups = (
        "the operator deletes its backups; OpenKCM does not know the retention time, ask the operator"
        if backup_retention_days is None
        else f"{backup_retention_days} days after this statement, when the last earlier backup is deleted"
    )
    return (
        Remains(
            what="earlier backups and snapshots of the key server: they contain the keys, encrypted by its seal key",
            until=backups,
        ),
        Remains(
            what="earlier backups and write-ahead logs of the database: they contain the wrapped service keys, which "
            "can be unwrapped only with a backup of the key server, its seal key and the root key together",
            until=backups,
        ),
        Remains(
            what="deleted rows in the files of the database, and overwritten pages in the files of the key server",
            until="they are overwritten: the next vacuum or compaction",
        ),
        Remains(
            what="workflow histories: ids, and payloads whose key is destroyed",
            until="the retention time of Temporal's namespace ends",
        ),
        Remains(
            what="the data key of workflow payloads in the memory of workers that served the tenant",
            until="each worker's next restart",
        ),
        Remains(
            what="certificates of the tenant's services: OpenKCM rejects them, and they expire",
            until="72 hours after they were issued, or the end that was chosen for an appliance, at most a year later",
        ),
    )
