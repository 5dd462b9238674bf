"""The order of root key checks and the limits of their lanes."""

from activities.root_keys.check_queue import CheckQueue, QueuedCheck


def a_queue(limit: int = 4, slow_limit: int = 1) -> CheckQueue[QueuedCheck]:
    return CheckQueue(3, limit, slow_limit, {"fixed": 2})


def scheduled(queue: CheckQueue[QueuedCheck], due: float = 0.0, rank: int = 0, lane: str = "a") -> QueuedCheck:
    check = QueuedCheck()
    queue.schedule(check, due, rank, lane)
    return check


def taken(queue: CheckQueue[QueuedCheck], now: float) -> list[QueuedCheck]:
    found = []
    while (check := queue.take(now)) is not None:
        found.append(check)
    return found


def test_checks_are_taken_by_rank_and_due_time_when_due() -> None:
    queue = a_queue(limit=9)
    late, last, early, first = (scheduled(queue, due, rank) for due, rank in ((2.0, 1), (0.0, 2), (1.0, 1), (3.0, 0)))
    future = scheduled(queue, 3.1, 0)
    assert taken(queue, 3.0) == [first, early, late, last]
    assert taken(queue, 3.1) == [future]


def test_rescheduled_check_is_taken_once_at_its_new_time() -> None:
    queue = a_queue()
    check = scheduled(queue, 1.0)
    queue.schedule(check, 2.0, 1, "a")
    assert taken(queue, 1.5) == []
    assert taken(queue, 2.0) == [check]


def test_running_check_is_not_taken_again() -> None:
    queue = a_queue()
    check = scheduled(queue)
    assert taken(queue, 0.0) == [check]
    queue.schedule(check, 0.0, 0, "a")
    assert taken(queue, 1.0) == []
    queue.finish(check, 1.0)
    queue.schedule(check, 1.0, 0, "a")
    assert taken(queue, 1.0) == [check]


def test_canceled_check_is_not_taken() -> None:
    queue = a_queue(limit=1)
    running, waiting = scheduled(queue), scheduled(queue)
    assert taken(queue, 0.0) == [running]
    queue.cancel(waiting)
    queue.finish(running, 0.1)
    assert taken(queue, 0.1) == []


def test_delay_is_the_age_of_the_oldest_due_check_that_waits() -> None:
    queue = a_queue(limit=1)
    assert queue.delay(9.0) == 0.0
    scheduled(queue, 12.0)
    assert queue.delay(9.0) == 0.0
    scheduled(queue, 8.0, rank=1)
    canceled, moved = scheduled(queue, 1.0), scheduled(queue, 2.0)
    queue.cancel(canceled)
    queue.schedule(moved, 12.0, 0, "a")
    assert queue.delay(9.0) == 1.0, "the next check has not begun"
    running, parked = scheduled(queue, 4.0, lane="b"), scheduled(queue, 5.0, lane="b")
    taken(queue, 9.0)
    assert (running.running_in, parked.running_in) == ("b", None)
    assert queue.delay(9.0) == 4.0, "a check waits for room at its key server"
    queue.cancel(parked)
    assert queue.delay(9.0) == 0.0


def test_delay_does_not_count_checks_at_servers_that_do_not_answer() -> None:
    queue = a_queue()
    for _ in range(3):
        scheduled(queue, lane="fixed")
    assert len(taken(queue, 9.0)) == 2
    assert queue.delay(9.0) == 0.0


def test_full_lane_does_not_delay_another_lane() -> None:
    queue = a_queue(limit=2)
    first, second, third = (scheduled(queue, number) for number in (0.0, 0.1, 0.2))
    other = scheduled(queue, 0.3, 2, "b")
    assert taken(queue, 0.4) == [first, second, other]
    queue.finish(second, 0.5)
    assert taken(queue, 0.5) == [third]


def test_slow_lane_gets_few_checks_until_one_is_fast() -> None:
    queue = a_queue(limit=3, slow_limit=1)
    checks = [scheduled(queue, number / 10) for number in range(8)]
    assert taken(queue, 0.7) == checks[:3]
    for number, check in enumerate(checks[:3]):
        queue.finish(check, 2.0 + number / 10)
        assert len(taken(queue, 2.0 + number / 10)) == (number == 2), "two others are still running"
    queue.finish(checks[3], 2.3)
    assert taken(queue, 2.3) == checks[4:7], "a fast check ends the limit"


def test_single_slow_check_does_not_limit_its_lane() -> None:
    queue = a_queue(limit=4, slow_limit=2)
    slow, *others = [scheduled(queue, number / 10) for number in range(6)]
    assert taken(queue, 0.0) == [slow]
    assert taken(queue, 0.8) == others[:3]
    for check in others[:3]:
        queue.finish(check, 1.0)
    assert taken(queue, 1.0) == others[3:]


def test_lane_with_a_fixed_limit_is_never_slow() -> None:
    queue = a_queue(limit=9)
    checks = [scheduled(queue, number / 10, 1, "fixed") for number in range(4)]
    assert taken(queue, 1.0) == checks[:2]
    queue.finish(checks[0], 9.0)
    assert taken(queue, 9.0) == checks[2:3]


def test_check_that_moves_while_it_runs_makes_room_in_its_former_lane() -> None:
    queue = a_queue(limit=1)
    moving, waiting = scheduled(queue), scheduled(queue, 0.1)
    assert taken(queue, 0.2) == [moving]
    queue.schedule(moving, 0.0, 1, "b")
    queue.finish(moving, 0.3)
    queue.schedule(moving, 0.3, 1, "b")
    assert taken(queue, 0.3) == [waiting, moving]
