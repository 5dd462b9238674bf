"""Sections about encrypted data, keys and the root key."""

from collections.abc import Sequence

from compliance.reports.render import formatting as say
from compliance.reports.render.document import Cell, Column, Figure, Figures, KeyValueTable, Section, Subsection, Table
from openkcm.verification.reports.evaluation import COVERAGE, KEYS, ROOT_KEY
from openkcm.verification.reports.model import CoveredService, InventoryKey, Report, RootKeyEvent

_LEVELS = {
    "L1": "Root key",
    "L2": "Tenant key",
    "L3": "Service keys",
    "CA": "Tenant CA",
}
_MODES = {
    "platform": "Held by the platform",
    "aws-kms": "Held by the customer in AWS KMS (BYOK)",
    "pkcs11": "Held by the customer in an HSM (HYOK)",
    "openbao": "Held by the customer in a key server (HYOK)",
}
_WAYS = {
    "programs": "its programs encrypt fields",
    "requests": "it requests encryption from OpenKCM",
    "data-keys": "with data keys under its service key",
    "kmip-keys": "with keys fetched over KMIP",
}
_PLACES = 12


def coverage(report: Report) -> Section:
    """Return the encrypted data of each service and its keys."""
    services = report.stated.coverage
    shown = services[: say.SHOWN]
    return Section(
        "coverage",
        COVERAGE,
        "Each connected service with its listed or encrypted data, the keys that encrypt it, and the remaining gaps."
        " The customer defines which data is sensitive; the programs themselves report part of how they encrypt.",
        (
            Table(
                "Services and their data",
                (
                    Column("Service", 2.2),
                    Column("Protected data", 3.1),
                    Column("How", 2.3),
                    Column("Keys", 3.4),
                    Column("Uses, 30 days", 1.5, number=True),
                    Column("Verdict", 2.2),
                ),
                tuple(_service(one) for one in shown),
                empty="No service was connected when the report was created.",
                more=say.more(len(shown), len(services), "the signed document has all"),
            ),
        ),
    )


def _service(one: CoveredService) -> tuple[Cell, ...]:
    places = list(one.protected[:_PLACES])
    if len(one.protected) > _PLACES:
        places.append(f"and {len(one.protected) - _PLACES:,} more")
    covered = one.complete and not one.gaps
    lacking = "Unknown" if one.is_unknown else "Gaps"
    verdict = Cell("Covered", tone="good") if covered else Cell(lacking, "; ".join(one.gaps), "warn")
    return (
        say.code(one.service, f"{one.kind}, {one.state}"),
        say.plain(", ".join(places)),
        say.plain("; ".join(_WAYS.get(way, way) for way in one.ways)),
        say.plain(one.under),
        Cell(f"{one.operations_30_days:,}", f"last {one.last_used}" if one.last_used else ""),
        verdict,
    )


def keys(report: Report) -> Section:
    """Return the key inventory with cryptoperiods."""
    stated = report.stated
    by_level: dict[str, list[InventoryKey]] = {level: [] for level in _LEVELS}
    for key in stated.keys:
        by_level.setdefault(key.level, []).append(key)
    return Section(
        "keys",
        KEYS,
        "Every key of the tenant when the report was created, with its state and its cryptoperiod (NIST SP 800-57"
        " part 1, sections 5.3 and 6.2). A key in use after the end of its cryptoperiod is marked overdue.",
        (
            KeyValueTable(
                (
                    ("Tenant key", Cell(f"rotated every {say.count(stated.tenant_key_days, 'day')} by policy")),
                    ("Service keys", Cell(f"rotated every {say.count(stated.service_key_days, 'day')} by policy")),
                    ("Revoked KMIP keys", _revoked(readable=stated.revoked_keys_readable)),
                    ("Audit records", _resources(recorded=stated.resources_recorded)),
                    ("Overdue", _overdue(stated.keys)),
                )
            ),
        ),
        tuple(_level(level, found) for level, found in by_level.items()),
    )


def _revoked(*, readable: bool) -> Cell:
    return Cell("services may get them until they are destroyed, by policy" if readable else "services cannot get them")


def _resources(*, recorded: bool) -> Cell:
    return Cell("name the resource or object of each key operation" if recorded else "count key operations by service")


def _overdue(found: Sequence[InventoryKey]) -> Cell:
    late = sum(key.overdue for key in found)
    if late:
        return Cell(f"{late:,} of {say.count(len(found), 'key')}", tone="warn")
    return Cell("none", tone="good" if found else "none")


def _level(level: str, found: Sequence[InventoryKey]) -> Subsection:
    title = _LEVELS.get(level, level)
    # Overdue keys first: they require action, and a long list must not omit them.
    ordered = sorted(found, key=lambda key: not key.overdue)
    shown = ordered[: say.SHOWN]
    return Subsection(
        f"{title} ({level})",
        (
            Table(
                f"{title}, level {level}",
                (
                    Column("Key", 2.7),
                    Column("State", 1.6),
                    Column("Purpose and algorithm", 2.5),
                    Column("Holder", 2.8),
                    Column("Created", 1.55),
                    Column("Due", 1.9),
                    Column("Last used", 1.55),
                ),
                tuple(_key(key) for key in shown),
                empty=f"No key of this level existed when the report was created ({title.lower()}).",
                more=say.more(len(shown), len(found), "overdue ones first; the signed document has all"),
            ),
        ),
    )


def _key(key: InventoryKey) -> tuple[Cell, ...]:
    period = "" if key.cryptoperiod_days is None else f"after {say.count(key.cryptoperiod_days, 'day')}"
    due = say.iso(key.due_at)
    return (
        say.code(key.name, f"version {key.version}"),
        say.plain(key.state),
        say.plain(key.purpose, key.algorithm),
        say.plain(key.holder),
        say.iso(key.created_at),
        Cell(f"{due.text} overdue", period, "warn") if key.overdue else Cell(due.text, period, due.tone),
        say.iso(key.last_used_at),
    )


def root_key(report: Report) -> Section:
    """Return the holder of the root key, and the measured times from its revocation to the lock."""
    stated, counted = report.stated, report.counted
    measured = [event.seconds for event in counted.root_key if event.seconds is not None]
    shown = counted.root_key[-say.LISTED :]
    figures = (
        Figure(f"{len(measured):,}", "Revocations measured", "from the first rejection to the lock"),
        Figure(f"{max(measured):,.1f} s" if measured else say.DASH, "Slowest", "no decryption afterwards"),
        Figure(f"{counted.root_key_total:,}", "Events", "in the period"),
    )
    return Section(
        "root-key",
        ROOT_KEY,
        "The holder of the root key can stop all use of the tenant's keys. The table lists its events in the period,"
        " and the time from the first rejection by the provider to the lock of the tenant.",
        (
            KeyValueTable(
                (
                    ("Custody", Cell(_MODES.get(stated.root_key_mode, stated.root_key_mode))),
                    ("Holder", say.plain(stated.root_key_holder)),
                    ("Tenant", Cell(stated.state, "state when the report was created")),
                )
            ),
            Figures(figures),
            Table(
                "Events of the root key",
                (
                    Column("Record", 1.4, number=True),
                    Column("When (UTC)", 2.4),
                    Column("What", 4.4),
                    Column("By", 2.2),
                    Column("Outcome", 1.3),
                    Column("To lock", 1.1, number=True),
                ),
                tuple(_event(one) for one in reversed(shown)),
                empty="No event of the root key in this period: no preflight, change, revocation or restoration.",
                more=say.more(len(shown), counted.root_key_total, say.NEWEST),
            ),
        ),
    )


def _event(one: RootKeyEvent) -> tuple[Cell, ...]:
    moment = one.moment
    return (
        Cell(f"{moment.seq:,}"),
        Cell(say.at(moment.at)),
        Cell(moment.words, moment.subject),
        say.plain(moment.actor, moment.actor_kind),
        say.outcome(moment.outcome),
        say.seconds(one.seconds),
    )
