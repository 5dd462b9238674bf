"""What one command did at protected fields, and how long that took: noted in the program's sums once it is done."""

import time
from typing import Any

from hooks.mongodb.catalogue import Field
from hooks.uses import PLAIN, Uses, place
from tenancy.protection import Store


class Count:
    """Begins with the command; used by the one who carries it out."""

    __slots__ = ("_begun", "_done", "_plain", "_spent", "_uses")

    def __init__(self, uses: Uses) -> None:
        self._uses, self._begun, self._spent = uses, time.perf_counter_ns(), 0
        self._done: dict[str, list[int]] = {}
        self._plain: dict[str, int] = {}

    def value(self, field: Field, size: int) -> None:
        """Count a value that was encrypted or decrypted, of so many bytes."""
        done = self._done.setdefault(_place(field), [0, 0])
        done[0] += 1
        done[1] += size

    def plain(self, field: Field) -> None:
        """Count a value that was read unencrypted."""
        name = _place(field)
        self._plain[name] = self._plain.get(name, 0) + 1

    def spent(self, since: int) -> None:
        """Count the time since then, by `time.perf_counter_ns`, as taken by encryption."""
        self._spent += time.perf_counter_ns() - since

    def prepared(self) -> None:
        """Count the time until now as taken by encryption."""
        self.spent(self._begun)

    def ended(self, reply: Any = None) -> Any:
        """Note it all, with the whole time of the command, and return the reply."""
        lasted = time.perf_counter_ns() - self._begun
        for name, number in self._plain.items():
            self._uses.note(name + PLAIN, number, 0, 0)
        if self._done:
            share = self._spent // len(self._done)
            for name, (operations, size) in self._done.items():
                self._uses.note(name, operations, size, share)
            self._uses.request(tuple(self._done), lasted)
        self._done, self._plain = {}, {}
        return reply


def _place(field: Field) -> str:
    return place(Store.MONGODB, *field.column)
