"""Heartbeats of a step: none while it is quick, one with all results when it fails."""

import dataclasses

import pytest
from temporalio.testing import ActivityEnvironment

from activities.runtime import step_progress
from activities.runtime.step_progress import track_progress


@pytest.fixture
def sent() -> list[tuple[object, ...]]:
    return []


@pytest.fixture
def environment(sent: list[tuple[object, ...]]) -> ActivityEnvironment:
    environment = ActivityEnvironment()
    environment.on_heartbeat = lambda *details: sent.append(details)
    return environment


def make_two_calls(*, fails: bool = False) -> None:
    with track_progress() as progress:
        progress.run_once("first", lambda: 1)
        progress.run_once("second", lambda: "2")
        if fails:
            raise ConnectionError


def test_quick_step_sends_no_heartbeat(environment, sent):
    environment.run(make_two_calls)
    assert not sent


def test_failed_step_sends_all_results(environment, sent):
    with pytest.raises(ConnectionError):
        environment.run(lambda: make_two_calls(fails=True))
    assert sent == [({"first": 1, "second": "2"},)]


def test_slow_step_sends_its_results_after_each_call(environment, sent, monkeypatch):
    monkeypatch.setattr(step_progress, "_INTERVAL_SECONDS", 0)
    environment.run(make_two_calls)
    assert sent == [({"first": 1},), ({"first": 1, "second": "2"},)]


def test_step_continues_after_the_results_of_the_former_attempt(environment, sent):
    environment.info = dataclasses.replace(ActivityEnvironment.default_info(), heartbeat_details=[{"first": 7}])
    with pytest.raises(ConnectionError):
        environment.run(lambda: make_two_calls(fails=True))
    assert sent == [({"first": 7, "second": "2"},)]
