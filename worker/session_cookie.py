"""Sessions of signed-in operators: random, kept in memory, gone after eight hours or a restart."""

import secrets
import time

_SECONDS = 8 * 3600


class SessionCookies:
    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def issue(self) -> str:
        """Return the value of a new session's cookie."""
        now = time.monotonic()
        self._until = {value: until for value, until in self._until.items() if until > now}
        value = secrets.token_urlsafe(32)
        self._until[value] = now + _SECONDS
        return value

    def valid(self, value: str) -> bool:
        """Return whether `value` is a running session's cookie."""
        return self._until.get(value, 0.0) > time.monotonic()
