"""Throttling and threads for activities that process many service keys.

A pause between batches leaves capacity of the servers to their other clients. The threads carry the context of the
activity, so that each request to a server names it.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

from temporalio import activity

_MAX_SLEEP_SECONDS = 1.0
"""The longest pause without a heartbeat."""


def throttle(keys: int, took: float, per_second: float) -> None:
    """Wait until `keys` keys took as long as `per_second` allows; 0 is unlimited.

    `took` is the time in seconds that they took already.
    """
    left = keys / per_second - took if per_second else 0.0
    while left > 0:
        activity.heartbeat()
        time.sleep(min(left, _MAX_SLEEP_SECONDS))
        left -= _MAX_SLEEP_SECONDS


Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class ContextThreadPool(ThreadPoolExecutor):
    """A thread pool whose tasks run in the submitter's context: its correlation id and its activity.

    The base class gives each thread a separate context, without the correlation id of the request to the key server.
    """

    def submit(
        self, fn: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> "Future[Result]":
        return super().submit(copy_context().run, partial(fn, *args, **kwargs))
