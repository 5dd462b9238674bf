"""Activities without Temporal: the counters of one, and one that runs until a condition holds."""

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

from temporalio.common import MetricMeter
from temporalio.testing import ActivityEnvironment

from activities.runtime.metrics import Metrics

UNCOUNTED = Metrics(MetricMeter.noop)
CANCELLED_AFTER_SECONDS = 60
"""When `run_until` cancels an activity whose condition never holds."""


class Counted:
    """A replacement of a worker's meter that stores the labels of each increase of a counter."""

    def __init__(self) -> None:
        self._up: list[tuple[str, dict[str, str]]] = []

    create_histogram_float = MetricMeter.noop.create_histogram_float
    create_gauge_float = MetricMeter.noop.create_gauge_float

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
    """Run an activity and return its counters."""
    environment, counted = ActivityEnvironment(), Counted()
    environment.info = dataclasses.replace(environment.info, workflow_id="platform/test")
    work.__self__._metrics = Metrics(counted)
    environment.run(work, *arguments)
    return counted


def run_until(
    holds: Callable[[], bool],
    activity: Callable[..., Any],
    *arguments: Any,
    heartbeat: Callable[..., None] = lambda *_: None,
) -> Any:
    """Run an activity and cancel it when `holds` is true, or after `CANCELLED_AFTER_SECONDS`."""
    environment, ended, deadline = ActivityEnvironment(), threading.Event(), time.monotonic() + CANCELLED_AFTER_SECONDS
    environment.on_heartbeat = heartbeat

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
