"""Rate limits: token buckets by name, with a limit on the number of names."""

import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

_MOST = 10_000
_HOST_BITS = 64


class TokenBuckets:
    """A bucket holds `burst` tokens and gains one every `seconds`; safe in one event loop."""

    def __init__(self, burst: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = float(burst)
        self._seconds = seconds
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> bool:
        """Take a token; return False, without effect, if the bucket is empty."""
        left = self._now(name)
        if left < 1.0:
            return False
        self._left[name] = (left - 1.0, self._clock())
        self._left.move_to_end(name)
        if len(self._left) > _MOST:
            self._left.popitem(last=False)
        return True

    def is_empty(self, name: str) -> bool:
        """Return whether `take` would return False."""
        return self._now(name) < 1.0

    def _now(self, name: str) -> float:
        left, at = self._left.get(name, (self._burst, 0.0))
        return min(self._burst, left + (self._clock() - at) / self._seconds)


def client_network(address: str) -> str:
    """Return the sender that a limit applies to: an IPv4 address, or the 64-bit network of an IPv6 address."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(IPv6Address(int(parsed) >> _HOST_BITS << _HOST_BITS))
    return str(parsed)
