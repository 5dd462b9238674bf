"""The sections on what is encrypted, with which keys, and what became of the root key."""

from collections.abc import Sequence

from compliance.reports.render import formatting as say
from compliance.reports.render.document import Cell, Column, Figure, Figures, KeyValueTable, Section, Subsection, Table
from openkcm.verification.reports.evaluation import COVERAGE, KEYS, ROOT_KEY
from openkcm.verification.reports.model import CoveredService, InventoryKey, Report, RootKeyEvent

_LEVELS = {
    "L1": "Root key",
    "L2": "Tenant key",
    "L3": "Service keys",
    "CA": "Certificate authority",
}
_MODES = {
    "platform": "Held by the platform",
    "aws-kms": "Held by the customer in AWS KMS (BYOK)",
    "pkcs11": "Held by the customer in an HSM (HYOK)",
    "openbao": "Held by the customer in a key server (HYOK)",
}
_WAYS = {
    "programs": "its programs encrypt fields",
    "requests": "it has OpenKCM encrypt",
    "data-keys": "with data keys under its service key",
    "kmip-keys": "with keys fetched over KMIP",
}
_PLACES = 12


def coverage(report: Report) -> Section:
    """Return which service encrypts what, and under whose key."""
    services = report.stated.coverage
    shown = services[: say.SHOWN]
    return Section(
        "coverage",
        COVERAGE,
        "Each connected service, the data of it that is listed as sensitive or seen to be encrypted, the keys under"
        " which it lies, and what is missing. Which data is sensitive is the customer's own statement; how programs"
        " encrypt is partly what they say of themselves.",
        (
            Table(
                "Services and their data",
                (
                    Column("Service", 2.2),
                    Column("Protected data", 3.1),
                    Column("How", 2.3),
                    Column("Under", 3.4),
                    Column("Uses, 30 days", 1.5, number=True),
                    Column("Verdict", 2.2),
                ),
                tuple(_service(one) for one in shown),
                empty="No service was connected when the report was made. Each would be listed here with its data, its"
                " keys and what is missing.",
                more=say.more(len(shown), len(services), "the signed document has all"),
            ),
        ),
    )


def _service(one: CoveredService) -> tuple[Cell, ...]:
    places = list(one.protected[:_PLACES])
    if len(one.protected) > _PLACES:
        places.append(f"and {len(one.protected) - _PLACES:,} more")
    covered = one.complete and not one.gaps
    verdict = Cell("Covered", tone="good") if covered else Cell("Gaps", "; ".join(one.gaps), "warn")
    return (
        say.code(one.service, f"{one.kind}, {one.state}"),
        say.plain(", ".join(places)),
        say.plain("; ".join(_WAYS.get(way, way) for way in one.ways)),
        say.plain(one.under),
        Cell(f"{one.operations_30_days:,}", f"last {one.last_used}" if one.last_used else ""),
        verdict,
    )


def keys(report: Report) -> Section:
    """Return the inventory of keys with their cryptoperiods."""
    stated = report.stated
    by_level: dict[str, list[InventoryKey]] = {level: [] for level in _LEVELS}
    for key in stated.keys:
        by_level.setdefault(key.level, []).append(key)
    return Section(
        "keys",
        KEYS,
        "Every key of the tenant when the report was made, with its state and the period for which it may be used"
        " (NIST SP 800-57 part 1, sections 5.3 and 6.2). A key whose period is over and that is still in use is marked"
        " overdue.",
        (
            KeyValueTable(
                (
                    ("Tenant key", Cell(f"rotated every {say.count(stated.tenant_key_days, 'day')} by policy")),
                    ("Service keys", Cell(f"rotated every {say.count(stated.service_key_days, 'day')} by policy")),
                    ("Overdue", _overdue(stated.keys)),
                )
            ),
        ),
        tuple(_level(level, found) for level, found in by_level.items()),
    )


def _overdue(found: Sequence[InventoryKey]) -> Cell:
    late = sum(key.overdue for key in found)
    if late:
        return Cell(f"{late:,} of {say.count(len(found), 'key')}", tone="warn")
    return Cell("none", tone="good" if found else "none")


def _level(level: str, found: Sequence[InventoryKey]) -> Subsection:
    title = _LEVELS.get(level, level)
    # What is overdue first: it is what somebody must act on, and what a long list must not cut off.
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
                    Column("Made", 1.55),
                    Column("Due", 1.9),
                    Column("Last used", 1.55),
                ),
                tuple(_key(key) for key in shown),
                empty=f"There was no key of this level when the report was made ({title.lower()}).",
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
    """Return who holds the root key, and how long it took to lock when it was taken away."""
    stated, counted = report.stated, report.counted
    measured = [event.seconds for event in counted.root_key if event.seconds is not None]
    shown = counted.root_key[-say.LISTED :]
    figures = (
        Figure(f"{len(measured):,}", "Revocations measured", "from the holder's refusal to the lock"),
        Figure(f"{max(measured):,.1f} s" if measured else say.DASH, "Slowest", "nothing opened after it"),
        Figure(f"{counted.root_key_total:,}", "Events", "in the period"),
    )
    return Section(
        "root-key",
        ROOT_KEY,
        "Whoever holds the root key can end all use of the tenant's keys. Each event of it in the period, and the time"
        " from the first refusal by its holder until the tenant was locked.",
        (
            KeyValueTable(
                (
                    ("Custody", Cell(_MODES.get(stated.root_key_mode, stated.root_key_mode))),
                    ("Holder", say.plain(stated.root_key_holder)),
                    ("Tenant", Cell(stated.state, "its state when the report was made")),
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
                empty="The root key was neither tried anew, changed, taken away nor given back in this period. Such"
                " events would be listed here, with the measured time to the lock.",
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
