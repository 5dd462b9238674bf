"""Threads within an activity: what they ask of servers is done for the activity, and says so."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

Asked = ParamSpec("Asked")
Result = TypeVar("Result")


class Threads(ThreadPoolExecutor):
    """A pool whose work takes the context of who hands it in along: the correlation id, and the activity to beat for.

    The plain one gives each thread a context of its own, in which nobody knows for whom a key is being unwrapped.
    """

    def submit(self, fn: Callable[Asked, Result], /, *args: Asked.args, **kwargs: Asked.kwargs) -> "Future[Result]":
        return super().submit(copy_context().run, partial(fn, *args, **kwargs))
