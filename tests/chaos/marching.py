"""The kills of one test: which process in which step, each prepared as soon as the previous one is done."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.chaos.field import Field

TARGETS = ("worker", "openbao", "postgres", "temporal")
Kill = tuple[str, str, str]
"""The process to kill, the step, and the moment of it (killing_worker.py)."""


def every(effects: Mapping[str, int]) -> list[Kill]:
    """Return every moment of every step, for each process."""
    return [
        (target, step, moment)
        for target in TARGETS
        for step, most in effects.items()
        for moment in ("start", *(f"effect-{n}" for n in range(1, most + 1)), "end")
    ]


def last(target: str, effects: Mapping[str, int]) -> list[Kill]:
    """Return a kill at the last effect of every step."""
    return [(target, step, f"effect-{most}" if most else "start") for step, most in effects.items()]


def parametrize(metafunc: pytest.Metafunc, argument: str, short: Sequence[object], long: Sequence[object]) -> None:
    """Use the long form with `--long`, where a test has the argument."""
    if argument in metafunc.fixturenames:
        cases = long if metafunc.config.getoption("--long") else short
        metafunc.parametrize(argument, cases, ids=map(_id, cases))


def _id(case: object) -> str:
    match case:
        case (bool(), kills):
            return _id(kills)
        case [kill]:
            return "-".join(kill)
        case list():
            return f"{len(case)}-in-a-row"
        case _:
            return "-".join(case)


class KillSequence:
    """Kills in the order of the operation's steps. Each server may occur only once: a restart changes its pid."""

    def __init__(self, field: Field, tenant_id: str, name: str, kills: Sequence[Kill]) -> None:
        self._plans = [
            {
                "tenant": tenant_id,
                "activity": step,
                "moment": moment,
                "pid": field.pid_of(target),
                "spent": str(field.folder / f"spent-{name}-{number}"),
            }
            for number, (target, step, moment) in enumerate(kills)
        ]
        field.set_plans(*self._plans)

    def left(self) -> list[str]:
        """Return the steps whose kill has not happened yet."""
        return [str(plan["activity"]) for plan in self._plans if not Path(str(plan["spent"])).exists()]

    def assert_done(self) -> None:
        assert not self.left(), f"kills did not happen, so the test proves nothing: {self.left()}"
