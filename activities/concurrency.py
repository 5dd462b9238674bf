"""Rest between the batches of a long work on service keys, so that it leaves the servers to those who use them.

Threads within an activity: what they ask of servers is done for the activity, and says so.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

from temporalio import activity

_BREATH_SECONDS = 1.0
"""The longest that is rested without a sign of life."""


def throttle(keys: int, took: float, per_second: float) -> None:
    """Wait until as much time has passed as this many keys may take; 0 a second: as many as go.

    `took` seconds of it have passed already.
    """
    left = keys / per_second - took if per_second else 0.0
    while left > 0:
        activity.heartbeat()
        time.sleep(min(left, _BREATH_SECONDS))
        left -= _BREATH_SECONDS


Asked = ParamSpec("Asked")
Result = TypeVar("Result")


class ContextThreadPool(ThreadPoolExecutor):
    """A pool whose work takes the context of who hands it in along: the correlation id, and the activity to beat for.

    The plain one gives each thread a context of its own, in which nobody knows for whom a key is being unwrapped.
    """

    def submit(self, fn: Callable[Asked, Result], /, *args: Asked.args, **kwargs: Asked.kwargs) -> "Future[Result]":
        return super().submit(copy_context().run, partial(fn, *args, **kwargs))
