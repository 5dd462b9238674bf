"""Usage reports of a program: each count is reported once, kept while reports fail, and separate in a child."""

import threading
from typing import Any

import pytest

from openkcm.contract.services import OTHER_PLACES
from openkcm.field_encryption import usage
from openkcm.field_encryption.usage import UsageReporter
from tests.client.field_encryption.stand import run_in_child
from tests.concurrency import wait_until


class Listener:
    def __init__(self) -> None:
        self.up, self.received, self.times = True, [], 0

    def receive(self, claims: list[dict[str, Any]]) -> float:
        self.times += 1
        if not self.up:
            raise OSError
        self.received += claims
        return 60.0

    def sums(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for claim in self.received:
            place, *sums = claim.values()
            found[place] = [a + b for a, b in zip(found.get(place, [0] * 5), sums, strict=True)]
        return found


@pytest.fixture
def listener() -> Listener:
    return Listener()


def test_sums_are_reported_once_by_place_with_times_in_equal_shares(listener):
    reporter = UsageReporter(listener.receive, first_seconds=60)
    reporter.request({"postgresql:public.t.a": [3, 96], "postgresql:public.t.b": [0, 0]}, 10_000, 2_000_000)
    reporter.request({}, 0, 1_000_000)
    reporter._report_new()
    reporter._report_new()
    reporter.request({"postgresql:public.t.a": [1, 32]}, 1_900, 0)
    reporter.plain("postgresql:public.t.a", 2)
    reporter._end()
    assert listener.sums() == {
        "postgresql:public.t.a": [4, 128, 6, 2, 1000],
        "postgresql:public.t.a#plain": [2, 0, 0, 0, 0],
        "postgresql:public.t.b": [0, 0, 5, 1, 1000],
    }
    assert listener.times == 2


def test_failed_report_is_repeated_later_and_logged_once(listener, caplog):
    caplog.set_level("INFO")
    reporter = UsageReporter(listener.receive, first_seconds=60)
    listener.up = False
    for _ in range(3):
        reporter.request({"p": [1, 1]}, 1_000, 0)
        reporter._report_new()
    assert [record.message for record in caplog.records] == ["usage report failed: OSError"]
    listener.up = True
    reporter._report_new()
    assert listener.sums() == {"p": [3, 3, 3, 3, 0]}


@pytest.mark.integration
def test_usage_is_reported_soon_and_at_the_end_without_blocking(listener):
    reporter = UsageReporter(listener.receive, first_seconds=0.05)
    reporter.plain("p", 1)
    wait_until(lambda: bool(listener.received))
    assert listener.sums() == {"p#plain": [1, 0, 0, 0, 0]}
    held = threading.Event()
    stuck = UsageReporter(lambda _: held.wait(600) or 60.0, first_seconds=60)
    stuck.plain("p", 1)
    stuck._end()
    assert not held.is_set(), "the end waited for the response"
    held.set()


@pytest.mark.integration
def test_forked_child_reports_only_its_own_usage(listener):
    reporter = UsageReporter(listener.receive, first_seconds=60)
    reporter.plain("p", 5)

    def work() -> bytes:
        reporter.plain("p", 2)
        reporter._end()
        return repr(listener.sums()).encode()

    assert run_in_child(work) == b"{'p#plain': [2, 0, 0, 0, 0]}"
    reporter._end()
    assert listener.sums() == {"p#plain": [5, 0, 0, 0, 0]}


def test_places_are_bounded_and_reported_in_parts(listener):
    reporter = UsageReporter(listener.receive, first_seconds=60)
    for number in range(usage._MAX_COUNTERS + 50):
        reporter.plain(f"p{number}", 1)
    reporter._end()
    assert listener.times > 1
    assert len(listener.received) == usage._MAX_COUNTERS + 1
    assert listener.sums()[OTHER_PLACES][0] == 50
    assert usage.place("postgresql", "s", "t", "c") == "postgresql:s.t.c"
    assert usage.place("postgresql", "a\nb", "t" * 300) == "postgresql:a?b." + "t" * 165
