"""The time by the servers' Date header, and the schedule of renewal checks and retries; pure.

Servers judge certificates by their clocks, and the machine's clock may be wrong. The last time that a server reported
is advanced by a monotonic clock. It is valid for a day, and every response updates it.

The platform issues the next certificate when two thirds of the present one's lifetime are over. The agent then checks
for it 60 times in the last third, and at least every five minutes. It never gives up before expiry, and never checks
more often than that.
"""

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from cryptography import x509

WRONG_BY = timedelta(seconds=60)
"""The offset from which a clock counts as wrong; the transit time of a response is well below."""
_MAX_AGE = timedelta(days=1)
_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python does not name."""


def machine_now() -> datetime:
    return datetime.now(UTC)


def machine_elapsed() -> float:
    """Return seconds since the machine started, suspended time included; this clock is never set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class _ServerTime:
    moment: datetime
    elapsed: float


class ServerClock:
    """The servers' time. `local` and `elapsed` are the machine's clocks."""

    def __init__(
        self, local: Callable[[], datetime] = machine_now, elapsed: Callable[[], float] = machine_elapsed
    ) -> None:
        self._local, self.elapsed = local, elapsed
        self._server_time: _ServerTime | None = None

    def learn(self, date: str) -> None:
        """Record the Date header of a response (RFC 9110, 6.6.1); an invalid one is ignored."""
        try:
            reported = parsedate_to_datetime(date)
        except ValueError:
            return
        if reported.tzinfo is not None:
            self._server_time = _ServerTime(reported.astimezone(UTC), self.elapsed())

    def now(self) -> datetime:
        """Return the servers' time if one was reported within a day, else the machine's."""
        reported = self._server_time
        if reported is None:
            return self._local()
        since = timedelta(seconds=self.elapsed() - reported.elapsed)
        return reported.moment + since if since < _MAX_AGE else self._local()

    def wrong_by(self) -> timedelta | None:
        """Return the offset of the machine's clock to the servers' (ahead: positive), None while it is within 60 s."""
        ahead = self._local() - self.now()
        return ahead if abs(ahead) > WRONG_BY else None


def use_server_time(clock: ServerClock, context: ssl.SSLContext) -> None:
    """Validate the dates of the server's certificate by `clock`.

    OpenSSL uses the machine's clock. With a wrong one the agent could not renew, and the certificate would expire. All
    other checks stay with OpenSSL, and nothing is sent before this check.
    """

    class _ServerTimeSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - signature of the base class
            super().do_handshake(block)
            der = self.getpeercert(binary_form=True)
            if der is None:
                raise ssl.SSLError("the server sent no certificate")
            leaf = x509.load_der_x509_certificate(der)
            if not leaf.not_valid_before_utc - WRONG_BY <= clock.now() <= leaf.not_valid_after_utc:
                raise ssl.SSLCertVerificationError("the server's certificate is not valid at this time")

    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    context.sslsocket_class = _ServerTimeSocket


_RENEWED_AFTER = 2 / 3
_CHECKS = 60
_SHORTEST, _LONGEST = 0.5, 300.0
Chance = Callable[[], float]
"""Returns a random number from 0 to 1."""


def lifetime(leaf: x509.Certificate) -> timedelta:
    return leaf.not_valid_after_utc - leaf.not_valid_before_utc


def until_renewal(leaf: x509.Certificate, now: datetime, chance: Chance) -> float:
    """Return the seconds until the next certificate can be available, with jitter so that agents spread out."""
    due = leaf.not_valid_before_utc + lifetime(leaf) * _RENEWED_AFTER
    return max(0.0, (due - now).total_seconds()) + check_interval(leaf) * chance()


def check_interval(leaf: x509.Certificate) -> float:
    """Return the seconds between two checks in the last third."""
    third = lifetime(leaf).total_seconds() * (1 - _RENEWED_AFTER)
    return min(max(third / _CHECKS, _SHORTEST), _LONGEST)


def remaining(leaf: x509.Certificate, now: datetime) -> timedelta:
    return leaf.not_valid_after_utc - now


class Backoff:
    """Waits that double from `first` to `longest` seconds; jitter of up to half spreads the clients out."""

    def __init__(self, longest: float, chance: Chance, first: float = 1.0) -> None:
        self._longest, self._chance, self._first = longest, chance, first
        self._failures = 0

    @property
    def failing(self) -> bool:
        return self._failures > 0

    def next(self, longest: float | None = None, asked: float = 0.0) -> float:
        """Return the seconds to wait after one more failure, at least `asked`."""
        self._failures += 1
        most = self._longest if longest is None else min(self._longest, longest)
        wait = min(most, self._first * 2.0 ** min(self._failures - 1, 30))
        return max(asked, wait * (0.5 + self._chance() / 2))

    def succeeded(self) -> None:
        self._failures = 0
