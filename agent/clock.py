"""What time it is, where the machine's own clock may be wrong: by the servers' Date, else by the machine.

Certificates are judged by servers' clocks, so theirs is the time that counts. What a server said is carried on by a
clock that nobody sets; it is believed for a day, and told anew by every answer.
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


class Clock:
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


def check_dates_by(clock: Clock, context: ssl.SSLContext) -> None:
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
