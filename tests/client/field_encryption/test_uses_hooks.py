"""What a program tells of its encryption is what it did: told once, kept while nobody listens, a child's by itself."""

import threading
from typing import Any

import pytest

from openkcm.contract.services import OTHER_PLACES
from openkcm.field_encryption import usage as uses
from openkcm.field_encryption.usage import UsageReporter
from tests.client.field_encryption.stand import run_in_child
from tests.concurrency import wait_until


class Listener:
    def __init__(self) -> None:
        self.up, self.heard, self.times = True, [], 0

    def tell(self, claims: list[dict[str, Any]]) -> float:
        self.times += 1
        if not self.up:
            raise OSError
        self.heard += claims
        return 60.0

    def sums(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for claim in self.heard:
            place, *sums = claim.values()
            found[place] = [a + b for a, b in zip(found.get(place, [0] * 5), sums, strict=True)]
        return found


@pytest.fixture
def listener() -> Listener:
    return Listener()


def test_sums_are_told_once_by_place_and_times_in_equal_shares(listener):
    told = UsageReporter(listener.tell, first_seconds=60)
    told.note("postgresql:public.t.a", 3, 96, 5_000)
    told.request(["postgresql:public.t.a", "postgresql:public.t.b"], 2_000_000)
    told.request([], 1_000_000)
    told._tell_what_came()
    told._tell_what_came()
    told.note("postgresql:public.t.a", 1, 32, 1_900)
    told._end()
    assert listener.sums() == {
        "postgresql:public.t.a": [4, 128, 6, 1, 1000],
        "postgresql:public.t.b": [0, 0, 0, 1, 1000],
    }
    assert listener.times == 2


def test_what_nobody_heard_is_told_later_and_the_application_hears_of_it_once(listener, caplog):
    caplog.set_level("INFO")
    told = UsageReporter(listener.tell, first_seconds=60)
    listener.up = False
    for _ in range(3):
        told.note("p", 1, 1, 1_000)
        told._tell_what_came()
    assert [record.message for record in caplog.records] == ["what is encrypted here is not told for now: OSError"]
    listener.up = True
    told._tell_what_came()
    assert listener.sums() == {"p": [3, 3, 3, 0, 0]}


@pytest.mark.integration
def test_it_is_told_soon_and_at_the_end_which_waits_for_nobody(listener):
    told = UsageReporter(listener.tell, first_seconds=0.05)
    told.note("p", 1, 1, 0)
    wait_until(lambda: bool(listener.heard))
    assert listener.sums() == {"p": [1, 1, 0, 0, 0]}
    held = threading.Event()
    stuck = UsageReporter(lambda _: held.wait(600) or 60.0, first_seconds=60)
    stuck.note("p", 1, 1, 0)
    stuck._end()
    assert not held.is_set(), "the end waited for the answer"
    held.set()


@pytest.mark.integration
def test_a_forked_child_tells_what_it_did_itself(listener):
    told = UsageReporter(listener.tell, first_seconds=60)
    told.note("p", 5, 5, 0)

    def work() -> bytes:
        told.note("p", 2, 2, 0)
        told._end()
        return repr(listener.sums()).encode()

    assert run_in_child(work) == b"{'p': [2, 2, 0, 0, 0]}"
    told._end()
    assert listener.sums() == {"p": [5, 5, 0, 0, 0]}


def test_places_are_bounded_told_in_parts_and_fit(listener):
    told = UsageReporter(listener.tell, first_seconds=60)
    for number in range(uses._MOST + 50):
        told.note(f"p{number}", 1, 0, 0)
    told._end()
    assert listener.times > 1
    assert len(listener.heard) == uses._MOST + 1
    assert listener.sums()[OTHER_PLACES][0] == 50
    assert uses.place("postgresql", "s", "t", "c") == "postgresql:s.t.c"
    assert uses.place("postgresql", "a\nb", "t" * 300) == "postgresql:a?b." + "t" * 165
