"""Texts about encryption coverage on the page Services: verdict, gaps and overhead."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from types import MappingProxyType

from compliance.coverage.assessment import (
    ALL_PROTECTED,
    LATELY_DAYS,
    LOOKED_BACK_DAYS,
    NOT_MEASURED,
    Coverage,
    EncryptionMethod,
    FieldCoverage,
    FullyCovered,
    Incomplete,
    Overhead,
    ServiceCoverage,
    Unknown,
    first_day,
)
from compliance.coverage.gaps import Gap
from dashboard.components.formatting import code, count, listed
from dashboard.components.tenant_status import sentence
from openkcm.contract.protected_fields import Mode, Store

RESTS_ON = (
    "Based on your list of fields, on requests to the crypto service, and on reports of your own programs, which "
    "OpenKCM cannot verify: it never sees your data. Only you know which data is sensitive. Data that is not "
    "listed and uses no key of OpenKCM is unknown here."
)
_FIRST_GAPS, _GAPS, _MORE_GAPS = 3, 6, 100
_SERIES, _OTHERS = 7, "other services"
"""More series cannot be distinguished by colour."""
_ROWS = 500
"""The maximum length of a field list; a program can report more."""
_UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))
_MODES: Mapping[Mode, str] = MappingProxyType(
    {Mode.RANDOMISED: "randomised", Mode.DETERMINISTIC: "deterministic: equal values visible"}
)
_UNLISTED = "not on the list"
_WAYS: Mapping[EncryptionMethod, str] = MappingProxyType(
    {
        EncryptionMethod.PROGRAMS: "field encryption in its programs",
        EncryptionMethod.REQUESTS: "encryption by OpenKCM",
        EncryptionMethod.DATA_KEYS: "data keys wrapped by its service key",
        EncryptionMethod.KMIP_KEYS: "file encryption with keys fetched over KMIP",
    }
)


@dataclass(frozen=True, slots=True)
class Headline:
    """The verdict for the tenant; `begun` is False without a connected service."""

    title: str
    words: str
    protected: bool
    begun: bool = True


@dataclass(frozen=True, slots=True)
class Figure:
    label: str
    value: str
    note: str


@dataclass(frozen=True, slots=True)
class Line:
    """One service: title, texts, and its fields as rows of a table."""

    service: str
    title: str
    words: tuple[str, ...]
    fields: tuple[Mapping[str, str | int], ...]


@dataclass(frozen=True, slots=True)
class Days:
    """Operations of each of the last days, by service."""

    services: tuple[str, ...]
    rows: tuple[tuple[str, tuple[int, ...]], ...]

    def source(self) -> list[list[str | int]]:
        rows: list[list[str | int]] = [[day, *numbers] for day, numbers in self.rows]
        return [["Day", *self.services], *rows]

    def summary(self) -> str:
        """Return the content of the chart as text."""
        busiest, numbers = max(self.rows, key=lambda row: sum(row[1]))
        whole = sum(sum(numbers) for _, numbers in self.rows)
        return (
            f"{count(whole, 'operation')} in the last {LOOKED_BACK_DAYS} days; the most on {busiest}: {sum(numbers):,}."
        )


def headline(found: Coverage) -> Headline:
    """Return the verdict; full coverage is stated only when it is proven."""
    match found.verdict:
        case FullyCovered():
            return Headline(
                f"Encryption Status: {ALL_PROTECTED}",
                "Every service is connected and encrypts. Every listed field was in use in the last "
                f"{LOOKED_BACK_DAYS} days, without known plaintext values.",
                protected=True,
            )
        case Unknown(gaps):
            names = [code(gap.service) for gap in gaps[:_GAPS]]
            if more := len(gaps) - len(names):
                names.append(f"{more:,} more")
            return Headline(
                "Encryption Status: coverage unknown, no fields listed",
                f"No gap is known. {listed(names)} {'has' if len(gaps) == 1 else 'have'} no listed fields, so it is "
                "unknown whether all sensitive data is encrypted.",
                protected=False,
            )
        case Incomplete() if not found.services:
            return Headline(
                "Encryption Status: no services",
                "No service is connected. Connect a service, then list the fields to encrypt.",
                protected=False,
                begun=False,
            )
        case Incomplete(gaps):
            gap_count = count(len(gaps), "gap")
            return Headline(
                "Encryption Status: coverage incomplete",
                f"{gap_count}. Each is listed below with the next step.",
                protected=False,
            )


def missing(found: Coverage) -> tuple[Sequence[str], Sequence[str]]:
    """Return the gaps as Markdown lines: those to show at once and the rest."""
    match found.verdict:
        case Incomplete(gaps) | Unknown(gaps) if found.services:
            shown = [_gap_text(gap) for gap in gaps[: _FIRST_GAPS + _MORE_GAPS]]
            if left := len(gaps) - len(shown):
                shown.append(f"{left:,} more: `openkcmctl service coverage` lists all")
            return shown[:_FIRST_GAPS], shown[_FIRST_GAPS:]
        case _:
            return (), ()


def figures(found: Coverage) -> Sequence[Figure]:
    """Return the key figures."""
    days = {day: sum(one.days.get(day, 0) for one in found.services) for day in _days(found.today)}
    week = sum(number for day, number in days.items() if found.today - day < timedelta(days=LATELY_DAYS))
    whole = [one for one in found.services if isinstance(one.verdict, FullyCovered)]
    return (
        Figure("Services protected", f"{len(whole):,} of {len(found.services):,}", "listed fields seen, without gaps"),
        Figure("Operations today", f"{days[found.today]:,}", f"{week:,} in {LATELY_DAYS} days (UTC)"),
        Figure(
            "Performance impact",
            *(
                ("unknown", f"{NOT_MEASURED} by your programs")
                if found.overhead is None
                else (found.overhead.percent(), f"overhead in {LATELY_DAYS} days")
            ),
        ),
    )


def overhead(measured: Overhead | None) -> str:
    """Return the share of encryption in the request time; never 0 % for an unknown value."""
    return NOT_MEASURED if measured is None else measured.words()


def by_day(found: Coverage) -> Days | None:
    """Return the operations of the last days, the busiest services first; None without any."""
    used = sorted((one for one in found.services if one.days), key=lambda one: -sum(one.days.values()))
    if not used:
        return None
    parts = [(one.service, [one]) for one in used[:_SERIES]]
    if rest := used[_SERIES:]:
        parts.append((_OTHERS, rest))
    rows = [
        (day.isoformat(), tuple(sum(one.days.get(day, 0) for one in ones) for _, ones in parts))
        for day in _days(found.today)
    ]
    return Days(tuple(name for name, _ in parts), tuple(rows))


def retired(found: Coverage) -> str:
    """Return which services are excluded, and why; empty without any."""
    if not found.retired:
        return ""
    verb = "is" if len(found.retired) == 1 else "are"
    return (
        f"{listed([code(one) for one in found.retired])} {verb} not included: disconnected and without listed fields."
    )


def _days(today: date) -> list[date]:
    return [first_day(today) + timedelta(days=number) for number in range(LOOKED_BACK_DAYS)]


def _gap_text(gap: Gap) -> str:
    who = f"**{gap.service}**: " if gap.service else ""
    what = f"{code(_name(gap.place))} " if gap.place else ""
    missing = f"{what}{gap.missing}"
    return f"{f'{who}{missing}.' if who else sentence(missing)} **Next:** {sentence(gap.next_step)}"


def line(one: ServiceCoverage, today: date) -> Line:
    """Return the coverage of one service: its gaps with the next step, and its fields."""
    match one.verdict:
        case FullyCovered():
            status, gaps = "protected", []
        case Unknown(unlisted):
            status, gaps = "unknown", [_gap_text(gap) for gap in unlisted]
        case Incomplete(found):
            status, gaps = count(len(found), "gap"), [_gap_text(gap) for gap in found[:_GAPS]]
    title = (
        f"{status}, {count(one.days.get(today, 0), 'operation')} today, "
        f"{overhead(one.overhead).replace(NOT_MEASURED, 'overhead not measured yet')}"
    )
    return Line(one.service, title, (*_how(one), *gaps), tuple(_row(field) for field in one.fields[:_ROWS]))


def _how(one: ServiceCoverage) -> Iterable[str]:
    ways = [
        way for way in one.ways if way is not EncryptionMethod.DATA_KEYS or EncryptionMethod.PROGRAMS not in one.ways
    ]
    if ways:
        yield f"Encryption: {listed([_WAYS[way] for way in ways])}"


def _row(field: FieldCoverage) -> Mapping[str, str | int]:
    return {
        "Field": _name(field.place),
        "Mode": _UNLISTED if field.field is None else _MODES[field.field.mode],
        "Today": field.today.operations,
        f"{LATELY_DAYS} days": field.week.operations,
        f"{LOOKED_BACK_DAYS} days": field.month.operations,
        "Data": _size(field.month.bytes),
        "Last seen": field.seen.isoformat() if field.seen else "not seen",
        "Plain values": _plain(field),
        "Overhead": overhead(field.overhead),
    }


def _plain(field: FieldCoverage) -> str:
    parts = []
    if field.field is not None and field.field.plaintext_allowed:
        parts.append("allowed")
    if field.plaintext_read is not None:
        parts.append(f"{field.plain_values:,} read, last {field.plaintext_read}")
    if field.backfill is not None and field.backfill.remaining:
        parts.append(f"{field.backfill.remaining:,} to be encrypted")
    return ", ".join(parts) or "none known"


def _name(place: str) -> str:
    """Return a field path without its store."""
    store, colon, name = place.partition(":")
    return name if colon and store in set(Store) else place


def _size(number: int) -> str:
    for unit, size in _UNITS:
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,} B"
