"""Tasks whose result several callers await by `asyncio.shield`."""

import asyncio
from typing import Any


def retrieve_exception(task: "asyncio.Future[Any]") -> None:
    """Mark the exception of an ended task as retrieved, so that asyncio does not log it.

    Each waiting caller gets the exception, but all of them may have been cancelled.
    """
    if not task.cancelled():
        task.exception()
