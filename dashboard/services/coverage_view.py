"""What the page Services says of how much is encrypted, what is missing and what encryption costs."""

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
    first_day,
)
from compliance.coverage.gaps import Gap
from dashboard.components.formatting import KIND_NAMES, code, count, listed
from openkcm.contract.protected_fields import Mode, Store

RESTS_ON = (
    "This rests on your list of fields, on what the crypto service saw, and on what your own programs say of "
    "themselves, which OpenKCM cannot check: it never sees your data. Which data is sensitive only you know; what is "
    "not on the list, and uses no key of OpenKCM, is not known here."
)
_SHOWN = 24
_GAPS, _MORE_GAPS = 6, 100
_SERIES, _OTHERS = 7, "other services"
"""More could not be told apart by colour."""
_ROWS = 500
"""As many as a list of fields can have; a program can speak of more."""
_UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))
_MODES: Mapping[Mode, str] = MappingProxyType(
    {Mode.RANDOMISED: "randomised", Mode.DETERMINISTIC: "deterministic: equal values show"}
)
_UNLISTED = "not on the list"
_WAYS: Mapping[EncryptionMethod, str] = MappingProxyType(
    {
        EncryptionMethod.PROGRAMS: "its programs encrypt fields themselves",
        EncryptionMethod.REQUESTS: "it has OpenKCM encrypt and decrypt",
        EncryptionMethod.DATA_KEYS: "it encrypts with data keys wrapped by its service key",
        EncryptionMethod.KMIP_KEYS: "it encrypts its files with keys that it fetched over KMIP",
    }
)


@dataclass(frozen=True, slots=True)
class Headline:
    """How the tenant stands: `begun` is False where there is nothing to judge yet."""

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
    """One service: a title, what there is to say, and its fields as rows of a table."""

    service: str
    title: str
    words: tuple[str, ...]
    fields: tuple[Mapping[str, str | int], ...]
    protected: bool


@dataclass(frozen=True, slots=True)
class Days:
    """Operations of each of the last days, by service."""

    services: tuple[str, ...]
    rows: tuple[tuple[str, tuple[int, ...]], ...]

    def source(self) -> list[list[str | int]]:
        rows: list[list[str | int]] = [[day, *numbers] for day, numbers in self.rows]
        return [["Day", *self.services], *rows]

    def summary(self) -> str:
        """Return what whoever does not see the chart is to know of it."""
        busiest, numbers = max(self.rows, key=lambda row: sum(row[1]))
        whole = sum(sum(numbers) for _, numbers in self.rows)
        return (
            f"{count(whole, 'operation')} in the last {LOOKED_BACK_DAYS} days; the most on {busiest}: {sum(numbers):,}."
        )


def headline(found: Coverage) -> Headline:
    """Return the sentence that is only there when it is true, or what stands in its place."""
    match found.verdict:
        case FullyCovered():
            return Headline(
                f"Encryption Status: {ALL_PROTECTED}",
                f"Every service is connected and encrypts, and every field on your list was seen in use in the last "
                f"{LOOKED_BACK_DAYS} days, with no plain value known.",
                protected=True,
            )
        case Incomplete() if not found.services:
            return Headline(
                "Encryption Status: nothing to protect yet",
                "No service is connected. Connect the first one, then say which of its fields are to be encrypted.",
                protected=False,
                begun=False,
            )
        case Incomplete(gaps):
            them = "One thing is" if len(gaps) == 1 else f"{len(gaps):,} things are"
            return Headline(
                "Encryption Status: not all of your data is known to be protected",
                f"{them} missing. Each is named below with what to do next.",
                protected=False,
            )


def missing(found: Coverage) -> tuple[Sequence[str], Sequence[str]]:
    """Return what is missing as Markdown, one line each: those to show at once and the rest."""
    match found.verdict:
        case Incomplete(gaps) if found.services:
            said = [_said(gap) for gap in gaps[: _GAPS + _MORE_GAPS]]
            if left := len(gaps) - len(said):
                said.append(f"{left:,} more: openkcmctl service coverage names them all")
            return said[:_GAPS], said[_GAPS:]
        case _:
            return (), ()


def figures(found: Coverage) -> Sequence[Figure]:
    """Return the few numbers that stand above everything."""
    days = {day: sum(one.days.get(day, 0) for one in found.services) for day in _days(found.today)}
    week = sum(number for day, number in days.items() if found.today - day < timedelta(days=LATELY_DAYS))
    whole = [one for one in found.services if isinstance(one.verdict, FullyCovered)]
    return (
        Figure("Services protected", f"{len(whole):,} of {len(found.services):,}", "with nothing missing"),
        Figure("Operations today", f"{days[found.today]:,}", f"{week:,} in {LATELY_DAYS} days (UTC)"),
        Figure(
            "Performance Impact",
            *(
                ("unknown", f"{NOT_MEASURED} by your programs")
                if found.overhead is None
                else (found.overhead.percent(), f"overhead in {LATELY_DAYS} days")
            ),
        ),
    )


def overhead(measured: Overhead | None) -> str:
    """Return the share of encryption in the time of the requests it was part of; never 0 % for what is unknown."""
    return NOT_MEASURED if measured is None else measured.words()


def lines(found: Coverage) -> tuple[Sequence[Line], int]:
    """Return the services, those that lack something first, and how many more there are."""
    ordered = sorted(found.services, key=lambda one: (isinstance(one.verdict, FullyCovered), one.service))
    return [_line(one, found.today) for one in ordered[:_SHOWN]], max(len(ordered) - _SHOWN, 0)


def by_day(found: Coverage) -> Days | None:
    """Return the operations of the last days, the busiest services first; None where there was none."""
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
    """Return which services do not count, and why; empty where there are none."""
    if not found.retired:
        return ""
    verb = "is disconnected and does" if len(found.retired) == 1 else "are disconnected and do"
    return f"{listed([code(one) for one in found.retired])} {verb} not count: nothing of it is on your list."


def _days(today: date) -> list[date]:
    return [first_day(today) + timedelta(days=number) for number in range(LOOKED_BACK_DAYS)]


def _said(gap: Gap) -> str:
    who = f"**{gap.service}**: " if gap.service else ""
    what = f"{code(_name(gap.place))} " if gap.place else ""
    return f"{who}{what}{gap.missing}. **Next:** {gap.next_step}."


def _line(one: ServiceCoverage, today: date) -> Line:
    match one.verdict:
        case FullyCovered():
            stands, gaps = "protected", []
        case Incomplete(found):
            stands, gaps = f"{count(len(found), 'thing')} missing", [_said(gap) for gap in found[:_GAPS]]
    title = (
        f"{one.service}: {stands}, {count(one.days.get(today, 0), 'operation')} today, "
        f"{overhead(one.overhead).replace(NOT_MEASURED, 'overhead not measured yet')}"
    )
    return Line(
        one.service,
        title,
        (*_how(one), *gaps),
        tuple(_row(field) for field in one.fields[:_ROWS]),
        protected=isinstance(one.verdict, FullyCovered),
    )


def _how(one: ServiceCoverage) -> Iterable[str]:
    yield KIND_NAMES[one.facts.kind]
    ways = [
        way for way in one.ways if way is not EncryptionMethod.DATA_KEYS or EncryptionMethod.PROGRAMS not in one.ways
    ]
    if ways:
        yield f"How it encrypts: {listed([_WAYS[way] for way in ways])}"
    match one.facts.agents_connected:
        case None:
            yield "No agent was ever heard of"
        case 0:
            yield "No agent is connected"
        case number:
            yield f"{count(number, 'agent')} connected"


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
    if field.field is not None and field.field.plain_allowed:
        parts.append("allowed")
    if field.plain_read is not None:
        parts.append(f"{field.plain_values:,} read, last {field.plain_read}")
    if field.backfill is not None and field.backfill.remaining:
        parts.append(f"{field.backfill.remaining:,} still to be encrypted")
    return ", ".join(parts) or "none known"


def _name(place: str) -> str:
    """Return a place without its store, as people write it."""
    store, colon, name = place.partition(":")
    return name if colon and store in set(Store) else place


def _size(number: int) -> str:
    for unit, size in _UNITS:
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,} B"
