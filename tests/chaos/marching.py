"""Which process is killed when: the shots of one test, each aimed as soon as the one before it was fired."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.chaos.field import Field

TARGETS = ("worker", "openbao", "postgres", "temporal")
Shot = tuple[str, str, str]
"""What is killed, in which step, at which moment of it (killing_worker.py)."""


def every(effects: Mapping[str, int]) -> list[Shot]:
    """Return every moment of every step, aimed at each process in turn."""
    return [
        (target, step, moment)
        for target in TARGETS
        for step, most in effects.items()
        for moment in ("start", *(f"effect-{n}" for n in range(1, most + 1)), "end")
    ]


def last(target: str, effects: Mapping[str, int]) -> list[Shot]:
    """Return a shot at the last effect of every step."""
    return [(target, step, f"effect-{most}" if most else "start") for step, most in effects.items()]


def parametrize(metafunc: pytest.Metafunc, argument: str, short: Sequence[object], long: Sequence[object]) -> None:
    """Take the long form with `--long`, where a test has the argument."""
    if argument in metafunc.fixturenames:
        cases = long if metafunc.config.getoption("--long") else short
        metafunc.parametrize(argument, cases, ids=map(_id, cases))


def _id(case: object) -> str:
    match case:
        case (bool(), shots):
            return _id(shots)
        case [shot]:
            return "-".join(shot)
        case list():
            return f"{len(case)}-in-a-row"
        case _:
            return "-".join(case)


class March:
    """The steps must come in the order in which the operation takes them, and no server may be in it twice: it has
    another pid once it was started again."""

    def __init__(self, field: Field, tenant_id: str, name: str, shots: Sequence[Shot]) -> None:
        self._plans = [
            {
                "tenant": tenant_id,
                "activity": step,
                "moment": moment,
                "pid": field.pid_of(target),
                "spent": str(field.folder / f"spent-{name}-{number}"),
            }
            for number, (target, step, moment) in enumerate(shots)
        ]
        field.aim(*self._plans)

    def left(self) -> list[str]:
        """Return the steps in which the shot was not fired yet."""
        return [str(plan["activity"]) for plan in self._plans if not Path(str(plan["spent"])).exists()]

    def assert_over(self) -> None:
        assert not self.left(), f"shots were never fired, so nothing was shown: {self.left()}"
