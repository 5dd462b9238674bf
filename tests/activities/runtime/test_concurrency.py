import time
from threading import Event

from temporalio.testing import ActivityEnvironment

from activities.runtime.concurrency import Pace, within_budget


def run(due: list[str], times: list[float]) -> tuple[list[str], int]:
    """Return what a run with a budget of ten seconds yields at these times, and the number of its heartbeats."""
    beats: list[object] = []
    environment = ActivityEnvironment()
    environment.on_heartbeat = lambda *_: beats.append(None)
    found = environment.run(lambda: list(within_budget("test", due, 10.0, iter(times).__next__)))
    return found, len(beats)


def test_run_ends_between_two_items_when_its_time_is_used_up():
    assert run(["a", "b", "c", "d"], [0.0, 9.9, 10.0]) == (["a", "b"], 2)


def test_run_yields_all_items_within_its_time_and_always_the_first():
    assert run(["a", "b", "c"], [0.0, 1.0, 2.0]) == (["a", "b", "c"], 3)
    assert run(["a", "b"], [0.0, 100.0]) == (["a"], 1)
    assert run([], [0.0]) == ([], 0)


def test_paced_activity_ends_its_pause_and_its_slice_when_the_worker_stops():
    pace, began = Pace(0.05, Event(), slice_seconds=1000.0), time.monotonic()
    environment = ActivityEnvironment()
    environment.on_heartbeat = lambda *_: pace.stopping.set()
    assert not pace.is_over(began)
    environment.run(pace.throttle, 1, 0.0)
    assert time.monotonic() - began < 10
    assert pace.is_over(began)
