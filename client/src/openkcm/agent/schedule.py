"""What time it is, where the machine's own clock may be wrong: by the servers' Date, else by the machine.

Certificates are judged by servers' clocks, so theirs is the time that counts. What a server said is carried on by a
clock that nobody sets; it is believed for a day, and told anew by every answer.

When to look for the next certificate, and how long to wait after what failed; pure.

The platform makes the next certificate when two thirds of the present one's life are over. From then on it is looked
for, 60 times in the last third and at least every five minutes, whatever the answers are: nothing ever gives up while
there is life left, and nothing asks more often than that, whatever a clock says.
"""

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from cryptography import x509

WRONG_BY = timedelta(seconds=60)
"""From when on a clock counts as wrong; the time an answer is on its way is well within."""
_BELIEVED = timedelta(days=1)
_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME, which Python has no name for."""


def machine_now() -> datetime:
    return datetime.now(UTC)


def machine_elapsed() -> float:
    """Return seconds since the machine started, in which it may have slept; nobody sets this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class _Told:
    moment: datetime
    elapsed: float


class ServerClock:
    """`local` and `elapsed` are the machine's clocks."""

    def __init__(
        self, local: Callable[[], datetime] = machine_now, elapsed: Callable[[], float] = machine_elapsed
    ) -> None:
        self._local, self.elapsed = local, elapsed
        self._told: _Told | None = None

    def learn(self, date: str) -> None:
        """Take the Date header of an answer (RFC 9110, 6.6.1); what is none is not heard."""
        try:
            told = parsedate_to_datetime(date)
        except ValueError:
            return
        if told.tzinfo is not None:
            self._told = _Told(told.astimezone(UTC), self.elapsed())

    def now(self) -> datetime:
        """Return the servers' time where one told it within a day, else the machine's."""
        told = self._told
        if told is None:
            return self._local()
        since = timedelta(seconds=self.elapsed() - told.elapsed)
        return told.moment + since if since < _BELIEVED else self._local()

    def wrong_by(self) -> timedelta | None:
        """Return by how much the machine's clock is ahead of the servers' (behind: negative); None while it is not."""
        ahead = self._local() - self.now()
        return ahead if abs(ahead) > WRONG_BY else None


def check_dates_by(clock: ServerClock, context: ssl.SSLContext) -> None:
    """Have a client's TLS context judge by `clock` whether the server's certificate is valid now.

    OpenSSL asks the machine's clock, with which an agent whose clock is wrong could not renew and would let a
    certificate lapse. Everything else about the certificate is checked as ever, and nothing is sent before this is.
    """

    class _Judging(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - the base's
            super().do_handshake(block)
            shown = self.getpeercert(binary_form=True)
            if shown is None:
                raise ssl.SSLError("the server showed no certificate")
            leaf = x509.load_der_x509_certificate(shown)
            if not leaf.not_valid_before_utc - WRONG_BY <= clock.now() <= leaf.not_valid_after_utc:
                raise ssl.SSLCertVerificationError("the server's certificate is not valid at this time")

    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    context.sslsocket_class = _Judging


_RENEWED_AFTER = 2 / 3
_LOOKS = 60
_SHORTEST, _LONGEST = 0.5, 300.0
Chance = Callable[[], float]
"""A number from 0 to 1, drawn anew at each call."""


def life(leaf: x509.Certificate) -> timedelta:
    return leaf.not_valid_after_utc - leaf.not_valid_before_utc


def until_renewal(leaf: x509.Certificate, now: datetime, chance: Chance) -> float:
    """Return the seconds until the next certificate is there to be looked for; not all agents at the same moment."""
    due = leaf.not_valid_before_utc + life(leaf) * _RENEWED_AFTER
    return max(0.0, (due - now).total_seconds()) + between_looks(leaf) * chance()


def between_looks(leaf: x509.Certificate) -> float:
    """Return the seconds from one look to the next in the last third."""
    third = life(leaf).total_seconds() * (1 - _RENEWED_AFTER)
    return min(max(third / _LOOKS, _SHORTEST), _LONGEST)


def remaining(leaf: x509.Certificate, now: datetime) -> timedelta:
    return leaf.not_valid_after_utc - now


class Backoff:
    """Waits that double from a second to `longest`, each shortened by up to half so that many do not come together."""

    def __init__(self, longest: float, chance: Chance, first: float = 1.0) -> None:
        self._longest, self._chance, self._first = longest, chance, first
        self._failures = 0

    @property
    def failing(self) -> bool:
        return self._failures > 0

    def next(self, longest: float | None = None, asked: float = 0.0) -> float:
        """Return how long to wait after one more failure, at least as long as was `asked` for."""
        self._failures += 1
        most = self._longest if longest is None else min(self._longest, longest)
        wait = min(most, self._first * 2.0 ** min(self._failures - 1, 30))
        return max(asked, wait * (0.5 + self._chance() / 2))

    def succeeded(self) -> None:
        self._failures = 0
