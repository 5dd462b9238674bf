"""Retention of every table: deleted after a time, archived, or limited by what it records.

`OPENKCM_RETENTION_DAYS` changes the days of a table (config/settings.py), never below the minimum that the database
enforces (`okcm.retention_rules`). docs/retention.md is generated from this module, and a test compares it with the
schema: a table that is missing here fails.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import NamedTuple


class Retention(NamedTuple):
    """The retention of a table: `days` is its default and `minimum` the least that a setting may choose."""

    grows_with: str
    days: int
    minimum: int
    reason: str


class Limit(NamedTuple):
    """Why a table needs no deletion: what limits its rows, and why they stay."""

    rows: str
    reason: str


_YEAR = 400
"""A year and the time of its audit: an annual audit finds the whole period (PCI DSS 4.0, 10.5.1, requires a year)."""
LONGEST_PERIOD = 1100
"""The longest period of a compliance report, in days; a report reads the tables below over its period."""

DELETED: Mapping[str, Retention] = MappingProxyType(
    {
        "approval": Retention(
            "requests for approval, with their votes",
            LONGEST_PERIOD,
            400,
            "pages show the decisions of three years; the audit stream has each of them",
        ),
        "boundary_result": Retention(
            "attacks of the daily isolation assessments",
            14,
            14,
            "the signed line of the assessment contains a digest of the attacks and stays; the results of a breach and "
            "of the activation check stay as well",
        ),
        "boundary_clause": Retention(
            "signed lines of the daily isolation assessments", _YEAR, 90, "a year and the time of its audit"
        ),
        "dashboard_session": Retention(
            "sign-ons to the dashboard",
            30,
            30,
            "an ended session authorizes nothing, and for a month an old cookie is distinguished from a forged one; "
            "the audit stream has the sign-on",
        ),
        "enrolment": Retention(
            "enrolments of agents",
            _YEAR,
            30,
            "a used attestation is rejected for as long as its row is kept, and it expires long before",
        ),
        "join_token": Retention(
            "join tokens", _YEAR, 30, "a token expires after at most a day; the audit stream has its creation and use"
        ),
        "marketplace_event": Retention(
            "events of the marketplace",
            _YEAR,
            90,
            "a repeated event is recognized for as long as it is kept; the last enable or disable of a tenant stays, "
            "so that an older event changes nothing",
        ),
        "operation_step": Retention(
            "operations of tenants and services",
            90,
            30,
            "progress of operations; the audit stream has their results, and the newest operation of a tenant stays",
        ),
        "outbox": Retention(
            "notifications",
            90,
            30,
            "the audit stream has each delivery and each dead letter; a message that is still attempted stays",
        ),
        "protection_use": Retention(
            "days and places of field encryption", LONGEST_PERIOD, 400, "reports show it over their period"
        ),
        "report": Retention(
            "compliance reports",
            _YEAR,
            90,
            "the customer downloads the signed file; the audit stream has its digest, and a new report can be made for "
            "the same period",
        ),
        "root_key_change": Retention(
            "changes of the root key",
            LONGEST_PERIOD,
            400,
            "reports show it over their period; the newest change stays",
        ),
        "root_key_request": Retention(
            "preflights and requests to change the root key",
            90,
            30,
            "a request contains no credentials after the worker has taken them; the audit stream has its result",
        ),
        "rotation": Retention(
            "rotations of keys",
            LONGEST_PERIOD,
            400,
            "reports show it over their period; the newest rotation that succeeded stays",
        ),
        "service_certificate": Retention(
            "certificates of services, one every two days for each service",
            _YEAR,
            90,
            "counted from the expiry of the certificate: an expired one needs no entry in a CRL (RFC 5280, 3.3); the "
            "audit stream has its serial, and the newest certificate of a service stays",
        ),
        "service_request": Retention(
            "requests for certificates",
            _YEAR,
            90,
            "counted from the last certificate for the request: no later certificate can refer to it",
        ),
        "usage_batch": Retention(
            "deliveries of usage counters",
            90,
            90,
            "recognizes a batch that is delivered again; the write-ahead log keeps none for so long",
        ),
        "usage_day": Retention(
            "days, services, operations and error codes", LONGEST_PERIOD, 400, "reports show it over their period"
        ),
        "usage_hour": Retention(
            "hours, services, operations and error codes",
            90,
            30,
            "for courses on pages; `usage_day` has the sums",
        ),
        "usage_minute": Retention(
            "minutes with requests of services",
            90,
            30,
            "details for the analysis of incidents; `usage_day` has the sums",
        ),
        "usage_month": Retention(
            "months, services, operations and error codes",
            LONGEST_PERIOD,
            400,
            "for periods of many months on pages, which read older ones from `usage_day`",
        ),
    }
)
"""Tables whose rows are deleted, in the order of the deletion: results of isolation assessments precede their lines."""

AUDIT_DAYS = LONGEST_PERIOD
AUDIT_MINIMUM = 90
"""PCI DSS 4.0, 10.5.1: the last three months are available for analysis at once, older records from an archive."""

ARCHIVED: Mapping[str, str] = MappingProxyType(
    {
        "audit_event": "records of the audit stream: a signed archive file contains them before they are deleted",
        "audit_hour": "numbers of audit records for each hour, event, service, operation and outcome: deleted with the "
        "records that they count",
        "audit_signed_head": "signed checkpoints of the audit stream: deleted with the records that they cover; the "
        "file contains the one at its end",
    }
)
"""Tables of the audit streams (setting `audit_retention_days`)."""

LIMITED: Mapping[str, Limit] = MappingProxyType(
    {
        "agent": Limit(
            "50 for each service", "instances without contact for 30 days are deleted by the crypto service"
        ),
        "approval_vote": Limit("the persons of an approval", "deleted with its approval"),
        "audit_archive": Limit("a few for each tenant and month", "evidence of each archive file; it must stay"),
        "audit_head": Limit("one for each tenant", "the end of the stream"),
        "audit_key": Limit("one for each version of the signing key", "verifies every signature by that version"),
        "backfill": Limit("a fixed number for each service", "the crypto service deletes the oldest"),
        "cache_change": Limit("the changes of ten minutes", "the crypto service deletes older ones"),
        "certificate_authority": Limit(
            "one for each CA rotation of a tenant, about one a year", "verifies certificates after their expiry"
        ),
        "certificate_revocation_list": Limit("one for each CA", "a new CRL replaces the last one"),
        "context_key": Limit("one for each role, two during a replacement", "signs the contexts of transactions"),
        "destruction": Limit("the keys of one offboarding", "evidence of the destruction"),
        "discovery": Limit("one for each service", "the kind of a service that the marketplace announced"),
        "isolation_assessment": Limit("one for each tenant", "the newest daily assessment, and when the next is due"),
        "key": Limit("three for each tenant", "the keys in use"),
        "key_fingerprint": Limit(
            "one for each rotation of a tenant key, at most twelve a year",
            "detects a destroyed key that is restored under another name",
        ),
        "key_probe": Limit("one for each tenant", "the ciphertext of the isolation assessment"),
        "managed_object": Limit("objects of the customer", "the customer's data: only the customer deletes it"),
        "notification_target": Limit("ten for each tenant", "the receivers of its notifications"),
        "process_report": Limit("one for each process", "a report without a successor is deleted after ten minutes"),
        "protected_field": Limit("500 for each service", "the list of encrypted fields"),
        "protection": Limit("one for each service", "the version of the list"),
        "root_key": Limit(
            "one for each root key that a key administrator registers",
            "service keys refer to it; credentials are deleted when it is retired",
        ),
        "route": Limit("one for each tenant", "the keys and CAs in use"),
        "schema_migration": Limit("one for each migration", "the version of the schema"),
        "service": Limit("one for each name of a service", "its keys decrypt the customer's data"),
        "service_key": Limit(
            "one for each rotation of a service key, at most one a week",
            "objects refer to it; the wrap is deleted when the version is destroyed (NIST SP 800-57 part 1, 8.3.5)",
        ),
        "shred_certificate": Limit("one for each tenant", "the erasure certificate"),
        "tenant": Limit("one for each tenant", "an id is never used again"),
        "tenant_policy": Limit("one for each tenant", "the policy in force"),
    }
)
"""Tables that keep their rows; an offboarding erases those of its tenant, as docs/offboarding.md says."""


def days_of(chosen: Mapping[str, int]) -> Mapping[str, int]:
    """Return the days of each table in `DELETED`; `chosen` replaces defaults.

    Raises:
        ValueError: a name is no such table, or its days are below the minimum.
    """
    for table, days in chosen.items():
        rule = DELETED.get(table)
        if rule is None:
            raise ValueError(f"{table} has no retention in days; the tables are {', '.join(DELETED)}")
        if days < rule.minimum:
            raise ValueError(f"{table}: at least {rule.minimum} days")
    return {table: chosen.get(table, rule.days) for table, rule in DELETED.items()}


def archive_cutoff(now: datetime, days: int) -> datetime:
    """Return the time before which audit records are archived: the start of a month, so that files are few."""
    return (now - timedelta(days=days)).astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
