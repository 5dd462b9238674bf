"""How fast: so many rows a second and no more, and fewer while the database is slow; and how many rows at once."""

_SLOW = 3.0
"""Times as long as usual, for a row."""
_NOTICED = 0.05
"""Seconds of a batch below which nothing is called slow."""
_LEAST = 1 / 32
_FIRST_ROWS, _MOST_BYTES = 20, 8 << 20
"""At once, while it is not known how large values are, and of what is read."""


class Pace:
    def __init__(self, rows_per_second: float) -> None:
        self._full = self._now = rows_per_second
        self._usual: float | None = None

    @property
    def rows_per_second(self) -> float:
        return self._now

    def batch(self, most: int) -> int:
        """Return how many rows to lock at once: what is done in a second at most."""
        return max(1, min(most, int(self._now)))

    def pause(self, rows: int, seconds: float) -> float:
        """Return how long to rest after so many rows, which took so many seconds."""
        if not rows:
            return 0.0
        each = seconds / rows
        usual = each if self._usual is None else self._usual
        if seconds > _NOTICED and each > _SLOW * usual:
            self._now = max(self._full * _LEAST, self._now / 2)
        else:
            self._now = min(self._full, self._now * 1.1)
        # What is usual follows at once to what is faster, and slowly to what is slower.
        self._usual = min(each, usual * 1.02)
        return max(0.0, rows / self._now - seconds)


class Portion:
    """How many rows to read at once, so that large values do not fill the memory."""

    def __init__(self, most: int) -> None:
        self._most, self.rows = most, min(most, _FIRST_ROWS)

    def saw(self, rows: int, size: int) -> None:
        """Learn from what was read; it grows step by step, for the next rows may be larger."""
        if rows:
            fitting = _MOST_BYTES * rows // max(1, size)
            self.rows = max(1, min(self._most, fitting, 4 * self.rows))
