"""Activities run on their own: what one counts, and one that runs until something holds."""

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

from temporalio.common import MetricMeter
from temporalio.testing import ActivityEnvironment

from activities.metrics import Metrics

UNCOUNTED = Metrics(MetricMeter.noop)


class Counted:
    """Stands in for the meter of a worker; keeps the labels of each time that a counter went up."""

    def __init__(self) -> None:
        self._up: list[tuple[str, dict[str, str]]] = []

    def create_histogram_float(self, *_: str) -> None:
        return None

    def create_counter(self, name: str, *_: str) -> "_Counter":
        return _Counter(lambda labels: self._up.append((name, labels)))

    def of(self, name: str) -> list[dict[str, str]]:
        return [labels for counter, labels in self._up if counter == name]


class _Counter:
    def __init__(self, up: Callable[[dict[str, str]], None]) -> None:
        self._up = up

    def add(self, value: int, labels: dict[str, str]) -> None:
        for _ in range(value):
            self._up({name: str(label) for name, label in labels.items()})


def counting(work: Callable[..., Any], *arguments: Any) -> Counted:
    """Run an activity and return what it counted."""
    environment, counted = ActivityEnvironment(), Counted()
    environment.info = dataclasses.replace(environment.info, workflow_id="platform/test")
    work.__self__._metrics = Metrics(counted)
    environment.run(work, *arguments)
    return counted


def run_until(holds: Callable[[], bool], activity: Callable[..., Any], *arguments: Any) -> Any:
    """Run an activity that does not end until it is cancelled, which happens once `holds` does, or after a minute."""
    environment, ended, deadline = ActivityEnvironment(), threading.Event(), time.monotonic() + 60

    def cancel() -> None:
        while not (ended.wait(0.02) or holds() or time.monotonic() > deadline):
            pass
        environment.cancel()

    waiting = threading.Thread(target=cancel)
    waiting.start()
    try:
        return environment.run(activity, *arguments)
    finally:
        ended.set()
        waiting.join()
