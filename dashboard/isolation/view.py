"""The latest isolation checks of a tenant, by control: what passed, what failed, what was not checked, and when."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from core.isolation import CheckResult, Outcome
from dashboard.components.formatting import count, listed, moment, relative
from dashboard.components.tenant_status import Severity, sentence
from database.isolation import BoundaryRunRow
from openkcm.verification.isolation_controls import CLAUSES
from openkcm.verification.reports.evaluation import OLDEST_CHECK

_NAMED = 4
_PROBES = "open-others-probes"
"""The check that decrypts the probes of other tenants (compliance/isolation/vault/key_controls.py)."""


@dataclass(frozen=True, slots=True)
class IsolationResult:
    """One control and its checks; `results` in the order of execution."""

    clause: str
    meaning: str
    results: tuple[CheckResult, ...]

    @property
    def held(self) -> int:
        return self._ended("held")

    @property
    def breached(self) -> int:
        return self._ended("breached")

    @property
    def not_checked(self) -> int:
        return self._ended("not-checked")

    @property
    def passed(self) -> bool:
        """Whether no check of the control failed; also true of a control without a completed check."""
        return not self.breached

    def _ended(self, outcome: Outcome) -> int:
        return sum(result.outcome == outcome for result in self.results)


@dataclass(frozen=True, slots=True)
class Check:
    at: datetime
    controls: tuple[IsolationResult, ...]

    @property
    def attacks(self) -> int:
        """How many checks were completed."""
        return self.held + self.breached

    @property
    def held(self) -> int:
        return sum(control.held for control in self.controls)

    @property
    def breached(self) -> int:
        return sum(control.breached for control in self.controls)

    @property
    def not_checked(self) -> tuple[CheckResult, ...]:
        """The checks that were not completed, each with the reason in its evidence."""
        return tuple(
            result for control in self.controls for result in control.results if result.outcome == "not-checked"
        )

    @property
    def passed(self) -> bool:
        """Whether there were completed checks and all of them passed."""
        return 0 < self.attacks == self.held


def check(run: BoundaryRunRow | None) -> Check | None:
    """Return the newest run by control, None without a run."""
    if run is None:
        return None
    by_clause: dict[str, list[CheckResult]] = {}
    for result in run.results:
        by_clause.setdefault(result.clause, []).append(result)
    return Check(
        run.recorded_at,
        tuple(
            IsolationResult(clause, CLAUSES[clause].means if clause in CLAUSES else clause, tuple(by_clause[clause]))
            for clause in sorted(by_clause, key=_order)
        ),
    )


def _order(clause: str) -> tuple[int, str]:
    """Return the position of a control: in the order of the standard, then controls that it does not define."""
    known = list(CLAUSES)
    return (known.index(clause) if clause in known else len(known), clause)


def summary(control: IsolationResult) -> str:
    """Return how the checks of a control ended."""
    total = control.held + control.breached
    passed = count(total, "check") if not control.breached else f"{control.held} of {count(total, 'check')}"
    return ", ".join(
        filter(
            None,
            (f"{passed} passed" if total else "", f"{control.not_checked} not checked" if control.not_checked else ""),
        )
    )


def pending(checked: Check) -> tuple[str, ...]:
    """Return the checks that were not completed, each reason once, with its controls."""
    about: dict[str, list[str]] = {}
    for result in checked.not_checked:
        words = f"Not checked: {{}}: {result.evidence}"
        if result.name == _PROBES:
            words = f"Cross-tenant probe pending ({{}}): {result.evidence}"
        if result.clause not in about.setdefault(words, []):
            about[words].append(result.clause)
    return tuple(words.format(", ".join(clauses)) for words, clauses in about.items())


def attack(result: CheckResult) -> str:
    """Return the name of a check as words."""
    return result.name.replace("-", " ")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state of the isolation of a tenant: a short one, its evidence and age, and what to do."""

    words: str
    tone: Severity
    detail: str
    advice: str = ""


def verdict(checked: Check | None, now: datetime) -> Verdict:
    """Return the state of the newest checks; good only when every required clause was checked recently and passed."""
    if checked is None:
        return Verdict(
            "Not checked",
            Severity.WARNING,
            "No isolation check is recorded.",
            "Checks run daily. If none is recorded tomorrow, contact the operators.",
        )
    if checked.breached:
        failed = [control.clause for control in checked.controls if control.breached]
        return Verdict(
            "Check failed",
            Severity.BAD,
            f"A check of {_few(failed)} failed {relative(checked.at, now)}.",
            "Contact the platform's operators immediately, and keep a copy of the audit stream.",
        )
    known = [control for control in checked.controls if control.held and control.clause in CLAUSES]
    words = f"{len(known):,} of {count(len(CLAUSES), 'clause')} checked, all passed"
    if not known:
        words = f"0 of {count(len(CLAUSES), 'clause')} checked"
    detail = f"{sentence(_completed(checked))} Last checked {relative(checked.at, now)}."
    if now - checked.at > OLDEST_CHECK:
        return Verdict(
            "Checks overdue",
            Severity.WARNING,
            f"{words}. {detail}",
            "Every check should run at least every seven days. Contact the platform's operators.",
        )
    complete = {control.clause for control in known if not control.not_checked}
    if any(not clause.optional and clause.id not in complete for clause in CLAUSES.values()):
        advice = "The full assessment runs at least every seven days. Open clauses are listed below."
        return Verdict(words, Severity.WORKING, detail, advice)
    return Verdict(words, Severity.GOOD, detail)


def _completed(checked: Check) -> str:
    passed = f"{count(checked.held, 'check')} passed" if checked.held else ""
    return ", ".join(filter(None, (passed, f"{len(checked.not_checked):,} not checked" * bool(checked.not_checked))))


def ages(checked: Check, complete_at: datetime | None, daily_at: datetime | None, now: datetime) -> tuple[str, ...]:
    """Return when the checks ran: the shown ones, the full assessment at `complete_at`, and the daily ones."""
    if complete_at is None:
        shown = f"Shown: checks before activation, {moment(checked.at, now)}. The full assessment runs within 24 hours."
    elif complete_at == checked.at:
        shown = f"Shown: full assessment, {moment(checked.at, now)}."
    else:
        shown = f"Shown: checks of {moment(checked.at, now)}. Last full assessment {moment(complete_at, now)}."
    if daily_at is None or daily_at <= checked.at:
        return (shown,)
    return shown, f"Daily checks, a part of them, last passed {moment(daily_at, now)}."


@dataclass(frozen=True, slots=True)
class ClauseRow:
    """One clause of the standard, the results of its newest checks and their age."""

    clause: str
    means: str
    how: str
    tone: Severity


def clauses(checked: Check, now: datetime) -> tuple[ClauseRow, ...]:
    """Return every clause of the standard in its order, also those that no check of the run verified."""
    found = {control.clause: control for control in checked.controls}
    missing = [clause for clause in CLAUSES if clause not in found]
    rows = [_clause(control, checked.at, now) for control in checked.controls]
    rows += [ClauseRow(clause, CLAUSES[clause].means, "not checked", Severity.WORKING) for clause in missing]
    return tuple(sorted(rows, key=lambda row: _order(row.clause)))


def _clause(control: IsolationResult, at: datetime, now: datetime) -> ClauseRow:
    tone = Severity.WORKING
    if control.breached:
        tone = Severity.BAD
    elif control.held and not control.not_checked:
        tone = Severity.GOOD if now - at <= OLDEST_CHECK else Severity.WARNING
    return ClauseRow(control.clause, control.meaning, f"{summary(control)}, {relative(at, now)}", tone)


def evidence(checked: Check) -> tuple[str, ...]:
    """Return a line for each check, in the order of the standard: what was attempted, how it ended, the evidence."""
    return tuple(
        f"**{control.clause}** {attack(result)}: {_ENDINGS[result.outcome]}. `{result.evidence}`"
        for control in checked.controls
        for result in control.results
    )


_ENDINGS: dict[Outcome, str] = {"held": "passed", "breached": "failed", "not-checked": "not checked"}


def _few(names: Sequence[str]) -> str:
    more = [f"{len(names) - _NAMED:,} more"] if len(names) > _NAMED else []
    return listed([*names[:_NAMED], *more])
