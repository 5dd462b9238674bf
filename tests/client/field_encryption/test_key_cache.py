"""A column key ends after its time, or immediately by a rejection; a missing response does not end it earlier."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from openkcm.contract.protected_fields import Store
from openkcm.field_encryption.key_cache import Column, ColumnKeys, KeyErrorScope, KeyUnwrapError
from tests.client.field_encryption.stand import MemoryKeys, MemoryKeyStore, no_thread

ONE: Column = ("public", "patients", "diagnosis")
TWO: Column = ("public", "patients", "insurance")
PATIENCE_SECONDS = 60
SECONDS = 60.0


class DelayedKeys(MemoryKeys):
    """Delays each answer for a column until the test releases it."""

    def __init__(self) -> None:
        super().__init__()
        self.delayed: str | None = None
        self.asked, self.go = threading.Event(), threading.Event()

    def open(self, wrapped: str, resource: str) -> bytes:
        key = super().open(wrapped, resource)
        if self.delayed is not None and self.delayed in resource:
            self.asked.set()
            assert self.go.wait(PATIENCE_SECONDS)
        return key


@dataclass
class Process:
    source: DelayedKeys = field(default_factory=DelayedKeys)
    now: float = 1000.0
    keys: ColumnKeys = field(init=False)

    def __post_init__(self) -> None:
        self.keys = ColumnKeys(Store.POSTGRESQL, self.source, MemoryKeyStore(), SECONDS, lambda: self.now)
        for column in (ONE, TWO):
            self.keys.newest(column)
            self.now += 1

    def refuse(self, ends: KeyErrorScope) -> None:
        self.source.refused = KeyUnwrapError("tenant_not_operational", "the tenant is locked", ends=ends)

    def refresh(self, column: Column) -> None:
        """Use a key after half of its time, and wait for the refresh."""
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


def test_rejection_of_a_refresh_ends_every_key_immediately(process):
    process.refuse(KeyErrorScope.ALL_KEYS)
    process.refresh(ONE)
    assert process.usable(ONE, TWO) == [False, False]
    with pytest.raises(KeyUnwrapError, match="the tenant is locked") as refused:
        process.keys.newest(ONE)
    assert refused.value.code == "tenant_not_operational"
    process.source.refused = None
    process.now += 1.1
    assert process.usable(ONE, TWO) == [True, True]


def test_key_is_used_for_its_time_while_no_thread_can_be_started(process, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        process.now += SECONDS / 2
        assert process.usable(ONE, TWO) == [True, True]
        process.now -= SECONDS / 2
    process.refuse(KeyErrorScope.ALL_KEYS)
    process.refresh(ONE)
    assert process.usable(ONE, TWO) == [False, False]


def test_repeated_rejection_keeps_no_frames(process):
    def count_frames() -> int:
        with pytest.raises(KeyUnwrapError) as refused:
            process.keys.newest(ONE)
        return len(refused.traceback)

    process.refuse(KeyErrorScope.ALL_KEYS)
    process.refresh(ONE)
    assert count_frames() == count_frames()


def test_rejection_of_one_key_ends_only_that_key(process):
    process.refuse(KeyErrorScope.THE_KEY)
    process.refresh(ONE)
    process.source.refused = None
    assert process.usable(ONE, TWO) == [False, True]


@pytest.mark.integration  # the source is asked again after a pause
@pytest.mark.parametrize("silent", [KeyErrorScope.NOTHING, None])
def test_missing_response_ends_no_key_before_its_time(process, silent):
    if silent is None:
        process.source.up = False
    else:
        process.refuse(silent)
    process.refresh(ONE)
    assert process.usable(ONE, TWO) == [True, True]
    process.now += SECONDS / 2
    assert process.usable(ONE, TWO) == [False, False]


def test_key_unwrapped_before_a_rejection_but_received_after_it_is_not_used(process):
    process.now = 1000.5 + SECONDS  # the time of ONE is over, that of TWO is not
    process.source.delayed = ONE[-1]
    found: list[list[bool]] = []
    unwrapping = in_a_thread(lambda: found.append(process.usable(ONE)))
    assert process.source.asked.wait(PATIENCE_SECONDS)
    process.refuse(KeyErrorScope.ALL_KEYS)
    process.keys.check_again()  # a rejection does not wait for a pending request
    process.source.go.set()
    unwrapping.join(PATIENCE_SECONDS)
    assert found == [[False]]
    assert process.usable(TWO) == [False]


def test_check_unwraps_one_key_that_is_in_use(process):
    [callback] = process.source.callbacks
    before = process.source.opened
    assert callback() is True
    assert process.source.opened == before + 1
    process.source.up = False
    assert callback() is True, "a missing response"
    process.source.up = True
    process.now += 2 * SECONDS
    assert callback() is False
    assert process.source.opened == before + 1


def test_successful_check_renews_the_key(process):
    process.now += SECONDS - 2
    assert process.keys.check_again()
    process.source.up = False
    process.now += SECONDS / 2 - 1
    assert process.usable(TWO) == [True]
    assert process.usable(ONE) == [False]


def test_key_that_is_being_unwrapped_counts_as_in_use():
    process = Process()
    process.now += 2 * SECONDS
    process.source.delayed = ONE[-1]
    unwrapping = in_a_thread(lambda: process.usable(ONE))
    assert process.source.asked.wait(PATIENCE_SECONDS)
    assert process.keys.check_again() is True, "the watch must not end before the pending key is recorded"
    process.source.go.set()
    unwrapping.join(PATIENCE_SECONDS)
    process.source.delayed = None
    process.now += 2 * SECONDS
    assert process.keys.check_again() is False
