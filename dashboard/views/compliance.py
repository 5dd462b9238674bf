"""How the tenant stands on the page Compliance, by what a report made now would state, and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from core.tenants.lifecycle import State
from dashboard.views import audit
from dashboard.views.chain import mode
from dashboard.views.standing import Tone
from dashboard.views.words import code, count, listed, relative
from openkcm.verification.isolation_controls import CLAUSES
from openkcm.verification.reports.evaluation import OLDEST_CHECK
from openkcm.verification.reports.model import LatestCheck, Stated

_NAMED = 4
_WORKS = frozenset({"active", "ok"})


@dataclass(frozen=True, slots=True)
class Line:
    """One subject: how it stands, what that rests on, and what to do where it is not in order."""

    label: str
    value: str
    tone: Tone
    detail: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class ClauseRow:
    """One clause and how the newest attacks on it ended."""

    clause: str
    means: str
    how: str
    tone: Tone


def lines(stated: Stated, chain: audit.Status, now: datetime) -> tuple[Line, ...]:
    """Return the state of everything that a report has a section of its own for."""
    return (
        _isolation(stated.checks, now),
        _custody(stated),
        _ages(stated),
        _coverage(stated),
        _chain(chain),
        _two_people(stated.four_eyes),
    )


def clauses(checks: Sequence[LatestCheck]) -> tuple[ClauseRow, ...]:
    """Return each clause of the standard with the newest results; nothing where nothing was ever checked."""
    if not checks:
        return ()
    return tuple(_clause(clause.id, clause.means, checks) for clause in CLAUSES.values())


def _clause(clause: str, means: str, checks: Sequence[LatestCheck]) -> ClauseRow:
    ended = [one.outcome for one in checks if one.clause == clause]
    held, breached = ended.count("held"), ended.count("breached")
    if breached:
        return ClauseRow(clause, means, f"{count(breached, 'attack')} succeeded", Tone.BAD)
    if held:
        return ClauseRow(clause, means, f"{count(held, 'attack')} refused", Tone.GOOD)
    return ClauseRow(clause, means, "not checked", Tone.WORKING)


def _isolation(checks: Sequence[LatestCheck], now: datetime) -> Line:
    label = "Isolation"
    if not checks:
        return Line(
            label,
            "Not examined",
            Tone.WARNING,
            "No attack across the tenant's boundary is on record.",
            "They are made every day and after every change of a key; look again tomorrow, then ask the operators.",
        )
    at = max(one.at for one in checks)
    breached = sorted({one.clause for one in checks if one.outcome == "breached"})
    held = {one.clause for one in checks if one.outcome == "held"}
    if breached:
        return Line(
            label,
            "Broken",
            Tone.BAD,
            f"An attack on {_few(breached)} succeeded {relative(at, now)}.",
            "Ask the platform's operators now, and keep a copy of the audit stream.",
        )
    detail = f"{len(held):,} of {count(len(CLAUSES), 'clause')} attacked and held, {relative(at, now)}."
    if now - at > OLDEST_CHECK:
        advice = "They should be attacked every day. Ask the platform's operators why they were not."
        return Line(label, "Not examined of late", Tone.WARNING, detail, advice)
    if any(not clause.optional and clause.id not in held for clause in CLAUSES.values()):
        advice = (
            "The full examination is made every day and after every change of a key; below is which are still open."
        )
        return Line(label, "Held where examined", Tone.WORKING, detail, advice)
    return Line(label, "Held", Tone.GOOD, detail)


def _custody(stated: Stated) -> Line:
    label = "Custody of the root key"
    if stated.state == State.LOCKED or any(key.level == "L1" and key.state not in _WORKS for key in stated.keys):
        return Line(
            label,
            "Locked" if stated.state == State.LOCKED else "Out of reach",
            Tone.BAD,
            f"{mode(stated.root_key_mode)}. Nothing of the tenant opens while it is so.",
            "The page Keys says what is wrong and what unlocks it.",
        )
    if stated.root_key_mode == "platform":
        return Line(
            label,
            "Held by the platform",
            Tone.WORKING,
            "Your tenant key is your own, but you have no kill switch that the platform could not undo.",
            "To hold the root key yourself, change it on the page Keys.",
        )
    return Line(label, "Yours", Tone.GOOD, f"{mode(stated.root_key_mode)}. With it gone, nothing opens.")


def _ages(stated: Stated) -> Line:
    label = "Ages of keys"
    overdue = sorted({key.name for key in stated.keys if key.overdue})
    if overdue:
        return Line(
            label,
            f"{len(overdue):,} overdue",
            Tone.WARNING,
            f"Older than the policy wants: {_few([code(name) for name in overdue])}.",
            "Rotate them on the page Keys; nothing is interrupted by it.",
        )
    if not any(key.level == "L2" for key in stated.keys):
        return Line(label, "No tenant key yet", Tone.WORKING, "It is made while the tenant is provisioned.")
    return Line(label, "In their periods", Tone.GOOD, f"{count(len(stated.keys), 'version')} of keys, none overdue.")


def _coverage(stated: Stated) -> Line:
    label, services = "Encryption coverage", stated.coverage
    if not services:
        advice = "Connect a service on the page Services, then say which of its data is to be encrypted."
        return Line(label, "Nothing to protect yet", Tone.WORKING, "No service is connected.", advice)
    lacking = [one.service for one in services if not one.complete]
    if lacking:
        return Line(
            label,
            "Not all is known to be protected",
            Tone.WARNING,
            f"{len(lacking):,} of {count(len(services), 'service')}: {_few([code(name) for name in lacking])}.",
            "The page Services names what is missing, and what to do next.",
        )
    return Line(label, "All covered", Tone.GOOD, f"{count(len(services), 'service')}, nothing of them is missing.")


def _chain(chain: audit.Status) -> Line:
    label = "Audit stream"
    if chain.alarming:
        advice = "Repair nothing. The page Audit says what to do first."
        return Line(label, "Not whole", Tone.BAD, chain.said, advice)
    if chain.chain is not audit.Chain.SIGNED:
        return Line(label, "Not signed yet", Tone.WORKING, chain.said)
    return Line(label, "Whole and signed", Tone.GOOD, chain.said)


def _two_people(actions: Sequence[str]) -> Line:
    label = "Two people"
    if not actions:
        return Line(
            label,
            "For nothing",
            Tone.WARNING,
            "One person alone can lock the tenant, change its root key, or have it leave.",
            "Choose on the page Settings what takes two people.",
        )
    named = [action.replace("-", " ") for action in actions]
    return Line(label, f"For {count(len(actions), 'action')}", Tone.GOOD, f"{listed(named).capitalize()}.")


def _few(names: Sequence[str]) -> str:
    more = [f"{len(names) - _NAMED:,} more"] if len(names) > _NAMED else []
    return listed([*names[:_NAMED], *more])
