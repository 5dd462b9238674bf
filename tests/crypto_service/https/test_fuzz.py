"""A short run of the fuzzer; for the long run see tests/benchmarks/fuzzing/fuzz.py."""

import pytest

from tests.benchmarks.fuzzing.https import fuzz_https

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("inputs", [1_500, pytest.param(20_000, marks=pytest.mark.full)])
def test_mutated_requests_cause_no_internal_error(inputs: int) -> None:
    account = fuzz_https(inputs, seed=1)
    assert account.errors == []
    assert account.answered > account.inputs // 2
