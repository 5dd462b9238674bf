from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from core.usage import BOUNDS, BUCKETS, Latency, bucket, together

TIMES = st.lists(st.integers(0, 20_000_000), min_size=1, max_size=50)


def of(times: list[int]) -> Latency:
    counts = [0] * BUCKETS
    for time in times:
        counts[bucket(time)] += 1
    return Latency(tuple(counts), sum(times))


def test_forty_buckets_grow_by_the_square_root_of_two():
    assert (BUCKETS, BOUNDS[0], BOUNDS[-1]) == (40, 16, 8_388_608)
    assert all(1.39 < longer / shorter < 1.44 for shorter, longer in pairwise(BOUNDS[2:]))


def test_bound_belongs_to_its_bucket():
    assert [bucket(bound) for bound in BOUNDS] == list(range(BUCKETS - 1))
    assert bucket(BOUNDS[-1] + 1) == BUCKETS - 1
    assert bucket(0) == 0


@given(TIMES, st.integers(1, 100))
def test_percentile_is_an_upper_bound_within_its_bucket(times: list[int], percent: int):
    exact = sorted(times)[-(-percent * len(times) // 100) - 1]
    reported = of(times).within(percent)
    assert reported is not None
    assert reported >= exact
    if BOUNDS[2] <= exact <= BOUNDS[-1]:
        assert exact > 0.7 * reported


@given(TIMES, TIMES)
def test_sum_of_histograms_equals_the_common_histogram(some: list[int], more: list[int]):
    assert together([of(some), of(more)]) == of(some + more)
    average = of(some).average()
    assert average is not None
    assert abs(average - sum(some) / len(some)) < 1e-6


def test_empty_histogram_has_no_statistics():
    assert (together([]).average(), Latency().within(95), Latency().timed) == (None, None, 0)


def test_longer_durations_give_infinity():
    assert of([60_000_000]).within(50) == float("inf")
