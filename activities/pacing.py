"""Rest between the batches of a long work on service keys, so that it leaves the servers to those who use them."""

import time

from temporalio import activity

_BREATH_SECONDS = 1.0
"""The longest that is rested without a sign of life."""


def rest(keys: int, took: float, per_second: float) -> None:
    """Wait until as much time has passed as this many keys may take; 0 a second: as many as go.

    `took` seconds of it have passed already.
    """
    left = keys / per_second - took if per_second else 0.0
    while left > 0:
        activity.heartbeat()
        time.sleep(min(left, _BREATH_SECONDS))
        left -= _BREATH_SECONDS
