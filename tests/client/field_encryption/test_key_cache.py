"""What ends a column key: its time, or a refusal at once; silence does not, and nobody's slowness keeps one alive."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from openkcm.contract.protected_fields import Store
from openkcm.field_encryption.key_cache import Column, ColumnKeys, KeyErrorScope, KeyUnwrapError
from tests.client.field_encryption.stand import MemoryKeys

ONE: Column = ("public", "patients", "diagnosis")
TWO: Column = ("public", "patients", "insurance")
PATIENCE_SECONDS = 60
SECONDS = 60.0


class Kept(dict[tuple[Column, str], str]):
    """Wrapped keys in memory."""

    def read(self, column: Column, purpose: str) -> dict[int, str]:
        return {1: self[column, purpose]} if (column, purpose) in self else {}

    def add(self, column: Column, purpose: str, wrapped: str) -> None:
        self[column, purpose] = wrapped


class Waiting(MemoryKeys):
    """Holds back each answer for a column until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.held_back: str | None = None
        self.asked, self.go = threading.Event(), threading.Event()

    def open(self, wrapped: str, resource: str) -> bytes:
        key = super().open(wrapped, resource)
        if self.held_back is not None and self.held_back in resource:
            self.asked.set()
            assert self.go.wait(PATIENCE_SECONDS)
        return key


@dataclass
class Process:
    source: Waiting = field(default_factory=Waiting)
    now: float = 1000.0
    keys: ColumnKeys = field(init=False)

    def __post_init__(self) -> None:
        self.keys = ColumnKeys(Store.POSTGRESQL, self.source, Kept(), SECONDS, lambda: self.now)
        for column in (ONE, TWO):
            self.keys.newest(column)
            self.now += 1

    def refuse(self, ends: KeyErrorScope) -> None:
        self.source.refused = KeyUnwrapError("tenant_closed", "the tenant is locked", ends=ends)

    def refreshed(self, column: Column) -> None:
        """Use a key half way through its time, and wait until it was asked for again."""
        self.now += SECONDS / 2
        self.keys.newest(column)
        for thread in threading.enumerate():
            if thread.name == "openkcm-keys":
                thread.join(PATIENCE_SECONDS)

    def usable(self, *columns: Column) -> list[bool]:
        return [self._usable(column) for column in columns]

    def _usable(self, column: Column) -> bool:
        try:
            self.keys.newest(column)
            return self.keys.version(column, 1) is not None
        except KeyUnwrapError:
            return False


@pytest.fixture
def process() -> Process:
    return Process()


def in_a_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_refusal_half_way_ends_every_key_at_once(process):
    process.refuse(KeyErrorScope.ALL_KEYS)
    process.refreshed(ONE)
    assert process.usable(ONE, TWO) == [False, False]
    with pytest.raises(KeyUnwrapError, match="the tenant is locked") as refused:
        process.keys.newest(ONE)
    assert refused.value.code == "tenant_closed"
    process.source.refused = None
    process.now += 1.1
    assert process.usable(ONE, TWO) == [True, True]


def test_a_refusal_of_one_key_ends_that_one(process):
    process.refuse(KeyErrorScope.THE_KEY)
    process.refreshed(ONE)
    process.source.refused = None
    assert process.usable(ONE, TWO) == [False, True]


@pytest.mark.integration  # the source is asked again after a pause
@pytest.mark.parametrize("silent", [KeyErrorScope.NOTHING, None])
def test_silence_ends_nothing_before_the_time_is_over(process, silent):
    if silent is None:
        process.source.up = False
    else:
        process.refuse(silent)
    process.refreshed(ONE)
    assert process.usable(ONE, TWO) == [True, True]
    process.now += SECONDS / 2
    assert process.usable(ONE, TWO) == [False, False]


def test_a_key_that_was_opened_before_a_refusal_and_comes_after_it_is_not_used(process):
    process.now = 1000.5 + SECONDS  # the one's time is over, the other's is not
    process.source.held_back = ONE[-1]
    found: list[list[bool]] = []
    opening = in_a_thread(lambda: found.append(process.usable(ONE)))
    assert process.source.asked.wait(PATIENCE_SECONDS)
    process.refuse(KeyErrorScope.ALL_KEYS)
    process.keys.look_again()  # a refusal waits for nobody who is asking
    process.source.go.set()
    opening.join(PATIENCE_SECONDS)
    assert found == [[False]]
    assert process.usable(TWO) == [False]


def test_a_look_asks_once_and_for_nothing_that_is_not_in_use(process):
    [look] = process.source.looks
    before = process.source.opened
    assert look() is True
    assert process.source.opened == before + 1
    process.source.up = False
    assert look() is True, "silence"
    process.source.up = True
    process.now += 2 * SECONDS
    assert look() is False
    assert process.source.opened == before + 1


def test_a_look_that_is_answered_makes_the_key_new(process):
    process.now += SECONDS - 2
    assert process.keys.look_again()
    process.source.up = False
    process.now += SECONDS / 2 - 1
    assert process.usable(TWO) == [True]
    assert process.usable(ONE) == [False]


def test_a_key_that_is_being_opened_is_as_good_as_one_in_use():
    process = Process()
    process.now += 2 * SECONDS
    process.source.held_back = ONE[-1]
    opening = in_a_thread(lambda: process.usable(ONE))
    assert process.source.asked.wait(PATIENCE_SECONDS)
    assert process.keys.look_again() is True, "who watches must not end between the answer and its note"
    process.source.go.set()
    opening.join(PATIENCE_SECONDS)
    process.source.held_back = None
    process.now += 2 * SECONDS
    assert process.keys.look_again() is False
