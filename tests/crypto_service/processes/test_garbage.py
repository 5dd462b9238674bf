"""Collection of cyclic garbage in a worker process, at fixed times."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from crypto_service.processes import worker_process
from crypto_service.processes.worker_process import GarbageCollector
from tests.crypto_service.core.world import Clock


class Node:
    """An object that refers to itself, so that only the collector frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def clock() -> Iterator[Clock]:
    yield Clock(0.0)
    gc.unfreeze()
    gc.enable()


def test_new_garbage_is_collected_after_seconds_and_old_after_minutes(clock: Clock):
    collector = GarbageCollector(clock)
    new, old = Node(), Node()
    seen_new, seen_old = weakref.ref(new), weakref.ref(old)
    del new
    collector.run_if_due()
    assert seen_new() is not None
    clock.now = 10.0
    collector.run_if_due()
    assert seen_new() is None
    clock.now = 20.0
    collector.run_if_due()
    del old
    clock.now = 599.0
    collector.run_if_due()
    assert seen_old() is not None
    clock.now = 600.0
    collector.run_if_due()
    assert seen_old() is None


def test_much_new_garbage_is_collected_at_once(clock: Clock, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(worker_process, "_NEW_OBJECTS", 1_000)
    collector = GarbageCollector(clock)
    seen = [weakref.ref(Node()) for _ in range(2_000)]
    collector.run_if_due()
    assert not any(one() for one in seen)
